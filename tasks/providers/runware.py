"""Runware's HTTP API: images, by one POST of one task. There is no SDK in between.

Every task carries an id of our own, under which Runware keeps what came of it, so an unknown call is looked up. The
forms are those of https://runware.ai/docs/platform/introduction (tasks), .../errors and .../task-details.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import httpx2

from billing.catalog.usage import Usage
from billing.jobs.calling import Attempt, Claim, Delivery, Refusal
from billing.jobs.policy import VERDICTS, Failure, Means, Verdict
from billing.jobs.requests import WholeImageParams, read_params
from config.database import utc_now
from config.providers import Connection
from tasks.providers.base import ProviderError, clean_text, safe_code
from tasks.providers.client import Client
from tasks.providers.waits import retry_after
from tasks.providers.wire import NO_CONNECTION, failure_of_break, failure_of_error, not_configured, timeout

ADDRESS = "https://api.runware.ai/v1"

CODES: tuple[tuple[re.Pattern[str], Failure], ...] = tuple(
    (re.compile(pattern), failure)
    for pattern, failure in (
        # An earlier copy of this task arrived: the refusal of this copy proves nothing about the earlier one.
        (r"conflictTaskUUID", Failure.CONFLICT),
        # The image may have been made, and did not arrive.
        (r"uploadFailed|downloadFailed|mediaStorage.*|unrecognizedResponse|.*BadGateway", Failure.UNREADABLE_ANSWER),
        (r".*(Credits|Quota|Balance).*|quotaExceeded|paymentRequired", Failure.QUOTA_EXHAUSTED),
        (r".*[rR]ateLimit.*", Failure.RATE_LIMITED),
        (r".*[cC]ontent(Policy|Moderation)?(Violation|Detected)|.*ProviderContent", Failure.CONTENT_POLICY),
        (r"promptBlocked|imageBlocked|moderationFailed", Failure.CONTENT_POLICY),
        (r".*ApiKey|un(authorized|authenticated)|forbidden|permissionDenied", Failure.BAD_CREDENTIALS),
        (r"auth(entication)?(Failed|Timeout)|(account|organization)(Suspended|Disabled)", Failure.BAD_CREDENTIALS),
        # Runware stopped waiting for the server that does the work, which may have gone on.
        (r".*[tT]imeout.*", Failure.TIMED_OUT),
        (r"(service|server|provider)Unavailable|noAvailableServer|modelNotReady|.*[oO]verloaded", Failure.OVERLOADED),
        (r"(internalServer|inference|provider|providerInternal)Error|(processing|task)Failed", Failure.SERVER_ERROR),
        (r"(?!.*(Response|Provider))(invalid|missing|unsupported|incompatible|value|max)[A-Z].*", Failure.BAD_REQUEST),
        (r"unknown(Parameter|Model)|modelNotFound|modelDisabled|validationFailed", Failure.BAD_REQUEST),
    )
)
"""Runware has some hundreds of codes and still changes them; one that is not matched here is sorted by the HTTP status.

The families are those of Runware's own client, https://github.com/Runware/runware-typescript, src/errors.ts.
"""
_AMOUNT = re.compile(r"\d{1,9}(\.\d{1,20})?([eE]-?\d{1,2})?")


@dataclass(frozen=True)
class _Told:
    """What an answer says about one task."""

    results: list[dict[str, Any]]
    errors: list[dict[str, Any]]


class RunwareProvider:
    """The Runware API; one HTTP client, shared by the threads of the worker."""

    def __init__(self) -> None:
        self._http: httpx2.Client | None = None
        self._lock = threading.Lock()

    def call(self, claim: Claim, connection: Connection, *, timeout_s: float) -> Delivery:
        """Make one wire call; raises ProviderError when it brings no result."""
        task = _image_task(claim)
        try:
            answer = self._post(connection, task, {"Idempotency-Key": claim.idempotency_key}, timeout_s)
        except NO_CONNECTION:
            raise not_configured("invalid_connection") from None
        except httpx2.HTTPError as error:
            raise ProviderError(Refusal(failure_of_break(error), request_id=str(task_id(claim)))) from None
        told = _read(_json(answer), task_id(claim))
        delivery = _delivery(told, claim) if told is not None else None
        if delivery is None:
            raise ProviderError(_refusal(told, answer, str(task_id(claim))))
        return delivery

    def means(self, connection: Connection) -> Means:
        """LOOK_UP, over any connection: Runware keeps every task under its id, which is ours."""
        return Means.LOOK_UP

    def ask(self, claim: Claim, connection: Connection, *, timeout_s: float) -> Delivery | None:
        """Look up what became of the task of this attempt; Runware does no work for that.

        By getTaskDetails (https://runware.ai/docs/platform/task-details), which gives the whole answer to any task that
        was executed before; getResponse knows asynchronous tasks only. Raises ProviderError when that answer is an
        error which proves that nothing was done.
        """
        # A look-up does no work, so it needs no idempotency key.
        task = {"taskType": "getTaskDetails", "taskUUID": str(task_id(claim))}
        try:
            answer = self._post(connection, task, {}, timeout_s)
        except (httpx2.HTTPError, *NO_CONNECTION):
            return None
        kept = _kept_answer(_json(answer), task_id(claim)) if answer.status_code == 200 else None
        # A refused look-up proves nothing about the task; nor does "no such task", which may still be on its way.
        told = _read(kept, task_id(claim))
        if told is None or any(result.get("status") == "processing" for result in told.results):
            return None
        if told.errors and not told.results:
            _raise_if_nothing_was_done(told, claim)
        return _delivery(told, claim)

    def check(self, connection: Connection, *, timeout_s: float) -> None:
        """Look up a task that there never was, which costs nothing; raises ProviderError unless Runware says so."""
        task = uuid4()
        try:
            answer = self._post(connection, {"taskType": "getTaskDetails", "taskUUID": str(task)}, {}, timeout_s)
        except NO_CONNECTION:
            raise not_configured("invalid_connection") from None
        except httpx2.HTTPError as error:
            raise ProviderError(Refusal(failure_of_break(error))) from None
        told = _read(_json(answer), task)
        refusal = _refusal(told, answer, str(task))
        if told is None or (told.errors and refusal.failure is not Failure.BAD_REQUEST):
            raise ProviderError(refusal)

    def _post(
        self, connection: Connection, task: dict[str, Any], headers: dict[str, str], timeout_s: float
    ) -> httpx2.Response:
        return self._client().post(
            connection.base_url or ADDRESS,
            json=[task],
            headers={"Authorization": f"Bearer {connection.api_key}", **headers},
            timeout=timeout(timeout_s),
        )

    def _client(self) -> httpx2.Client:
        with self._lock:
            if self._http is None:
                self._http = Client()
            return self._http


def task_id(attempt: Attempt) -> UUID:
    """The id of an attempt's task: a UUID v4, as Runware requires, computed so that it need not be stored."""
    digest = hashlib.sha256(f"creditmill {attempt.job_id} {attempt.attempt}".encode()).digest()
    return UUID(bytes=digest[:16], version=4)


def failure_of_code(code: str | None) -> Failure | None:
    """What one of Runware's error codes proves; None for a code that we do not know."""
    return next((failure for pattern, failure in CODES if pattern.fullmatch(code or "")), None)


def _image_task(claim: Claim) -> dict[str, Any]:
    if claim.api != "images":
        raise not_configured("no_adapter")
    if claim.bills_tokens:
        # Runware reports images and cost: a job that is priced by the token could never be charged.
        raise not_configured("no_token_usage")
    params = read_params(claim.kind, claim.params)
    assert isinstance(params, WholeImageParams)
    if params.size is None:
        raise not_configured("no_size")
    width, _, height = params.size.partition("x")
    return {
        "taskType": "imageInference",
        "taskUUID": str(task_id(claim)),
        "model": claim.model_name,
        "positivePrompt": params.told,
        "width": int(width),
        "height": int(height),
        "numberResults": claim.images,
        "outputType": "URL",
        "includeCost": True,
        "deliveryMethod": "sync",
    }


def _json(answer: httpx2.Response) -> Any:
    """The answer's JSON, or None; fractions stay the text that they were sent as, because some are amounts of money."""
    try:
        return json.loads(answer.content, parse_float=str)
    except (ValueError, RecursionError):
        return None


def _read(body: Any, task: UUID) -> _Told | None:
    """What the answer says about our task; None when it is not of Runware's form."""
    if not isinstance(body, dict) or not ("data" in body or "errors" in body):
        return None
    results = [item for item in _objects(body.get("data")) if item.get("taskUUID") == str(task)]
    # Some errors name no task; we send one at a time.
    errors = [item for item in _objects(body.get("errors")) if item.get("taskUUID") in (None, str(task))]
    return _Told(results, errors)


def _kept_answer(body: Any, task: UUID) -> Any:
    """The answer to our task, out of the answer to a look-up; None when there is none."""
    looked_up = _read(body, task)
    details = [item for item in looked_up.results if item.get("taskType") == "getTaskDetails"] if looked_up else []
    return details[0].get("response") if len(details) == 1 else None


def _delivery(told: _Told, claim: Claim) -> Delivery | None:
    """The images that were delivered; None when there are none. Errors beside them are those of other images."""
    made = [item for item in told.results if isinstance(item.get("imageURL"), str) and item["imageURL"]]
    if not made:
        return None
    params = read_params(claim.kind, claim.params)
    assert isinstance(params, WholeImageParams)
    costs = [_amount(item.get("cost")) for item in made]
    return Delivery(
        content={"images": [{"url": clean_text(item["imageURL"])} for item in made]},
        usage=Usage(images=len(made)),
        raw_usage={"images": len(made), "costs_usd": costs},
        request_id=str(task_id(claim)),
        finish_reason="stop" if len(made) >= claim.images else "fewer_images",
        reported_cost_usd=_sum(costs),
    )


def _refusal(told: _Told | None, answer: httpx2.Response, request_id: str) -> Refusal:
    """Why a call brought no image, in our terms; nothing of what the provider wrote is kept but codes."""
    code = safe_code(told.errors[0].get("code")) if told is not None and told.errors else None
    failure = _failure_of_answer(told, answer.status_code, failure_of_code(code))
    return Refusal(
        failure,
        http_status=answer.status_code,
        provider_code=code,
        request_id=request_id,
        retry_after=retry_after(answer.headers, failure, now=utc_now()),
    )


def _failure_of_answer(told: _Told | None, status: int, coded: Failure | None) -> Failure:
    if 200 <= status < 300:
        return coded or Failure.UNREADABLE_ANSWER
    failure = failure_of_error(status, coded)
    if told is None and failure is Failure.SERVER_ERROR:
        # Not in Runware's form, so perhaps not Runware's. Nothing is lost by doubt: Runware can be asked later.
        return Failure.GATEWAY_ERROR
    return failure


def _raise_if_nothing_was_done(told: _Told, claim: Claim) -> None:
    codes = [safe_code(error.get("code")) for error in told.errors]
    failures = [failure for code in codes if (failure := failure_of_code(code)) is not None]
    if len(failures) == len(codes) and all(VERDICTS[failure] is not Verdict.UNKNOWN for failure in failures):
        raise ProviderError(Refusal(failures[0], provider_code=codes[0], request_id=str(task_id(claim))))


def _objects(items: Any) -> list[dict[str, Any]]:
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _sum(costs: list[str | None]) -> Decimal | None:
    """All costs together, in USD; None where one is not reported."""
    told = [Decimal(cost) for cost in costs if cost is not None]
    return sum(told, Decimal(0)) if len(told) == len(costs) else None


def _amount(value: Any) -> str | None:
    """A reported amount as text, if it is one."""
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    return text if _AMOUNT.fullmatch(text) else None
