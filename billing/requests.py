"""Requests: what an app may ask for, checked whole before anything is written, and written once.

A request becomes a queued job. The job row is the outbox: whoever submits commits first and publishes afterwards.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID, uuid4

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from sqlalchemy.orm import Session

from billing import accounts, catalog, tokens
from billing.domain.errors import IdempotencyConflict, InvalidRequest, NotCancellable, UnknownThing
from billing.domain.pricing import Price, Work, estimate
from billing.domain.states import Event, State
from billing.store import jobs as store
from billing.store.catalog_tables import AIModelConfig, CreditCostConfig
from billing.store.tables import GenerationJob, User
from config.integrations import GlobalIntegrationSettings

BODY_MAX_BYTES = 1_000_000
BIGINT_MAX = 2**63 - 1
DEFAULT_MAX_OUTPUT_TOKENS = 8_192
# In JSON text: a lone surrogate as it stands, or an escaped NUL (an even number of backslashes before its own).
_NOT_TEXT = re.compile(r"[\ud800-\udfff]|(?<!\\)(?:\\\\)*\\u0000")

Prompt = Annotated[str, StringConstraints(min_length=1)]
RelatedId = Annotated[int, Field(ge=0, le=BIGINT_MAX)]
Model = TypeVar("Model", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class Message(_Strict):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Prompt


class _Params(_Strict):
    related_object_type: Annotated[str, StringConstraints(min_length=1, max_length=50)] | None = None
    related_object_id: RelatedId | None = None


class TextParams(_Params):
    """What a text operation takes: a prompt, or a conversation."""

    prompt: Prompt | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=200)] | None = None
    system: Prompt | None = None
    max_output_tokens: Annotated[int, Field(ge=16, le=10_000_000)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    json_mode: bool = False

    @model_validator(mode="after")
    def _one_source(self) -> TextParams:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self

    def texts(self) -> list[str]:
        """Every text that the model reads."""
        turns = [message.content for message in self.messages or []]
        return [text for text in (self.system, self.prompt) if text is not None] + turns


class ImageParams(_Params):
    """What an image operation takes."""

    prompt: Prompt
    n: Annotated[int, Field(ge=1, le=1_000)] = 1
    size: Annotated[str, StringConstraints(pattern=r"^[0-9]{2,5}x[0-9]{2,5}$")] = "1024x1024"
    quality: Annotated[str, StringConstraints(pattern=r"^[a-z]{1,20}$")] = "standard"
    style: Literal["vivid", "natural"] | None = None


class Submission(_Strict):
    """A request as an app sends it. Ids may be chosen by the app, so that it can look its job up at once."""

    account_id: Annotated[int, Field(ge=1, le=BIGINT_MAX)]
    operation: Annotated[str, StringConstraints(min_length=1, max_length=50)]
    params: dict[str, Any]
    model: Annotated[str, StringConstraints(min_length=1, max_length=100)] | None = None
    user_id: Annotated[int, Field(ge=1, le=BIGINT_MAX)] | None = None
    idempotency_key: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    job_id: UUID | None = None


@dataclass(frozen=True)
class Submitted:
    """A job that stands for a request; `created` is False when the same request had been submitted before."""

    job_id: UUID
    kind: str
    state: str
    created: bool


@dataclass(frozen=True)
class Examined:
    """A request that was understood: its model, what it can use at most, and its price."""

    submission: Submission
    model: AIModelConfig
    operation: CreditCostConfig
    work: Work
    price: Price

    @property
    def credits_estimated(self) -> int:
        """The most credits that it can be charged."""
        return estimate(self.work, self.price)


def parse(data: object) -> Submission:
    """Read a request from plain data, as from JSON; raises InvalidRequest with one sentence, never with the input."""
    if not isinstance(data, dict):
        raise InvalidRequest("A request must be a JSON object.")
    try:
        body = json.dumps(data, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        raise InvalidRequest("A request must be plain JSON, without NaN or infinity.") from None
    if _NOT_TEXT.search(body):
        raise InvalidRequest("A request must be valid text: it holds a NUL or a lone surrogate.", code="invalid_text")
    if len(body.encode()) > BODY_MAX_BYTES:
        raise InvalidRequest(f"A request may have {BODY_MAX_BYTES:,} bytes at most.", code="body_too_large")
    given = dict(data)
    if isinstance(given.get("job_id"), str):
        try:
            given["job_id"] = UUID(given["job_id"])
        except ValueError:
            raise InvalidRequest("job_id must be a UUID.") from None
    return _validated(Submission, given, "invalid_request")


def examine(session: Session, submission: Submission) -> Examined:
    """Check a request against the catalogue; raises a BillingError with one sentence when it cannot be done."""
    accounts.get(session, submission.account_id)
    _check_user(session, submission)
    operation = catalog.operation_named(session, submission.operation)
    model = catalog.model_for(session, operation, submission.model)
    if operation.model_type == "image":
        return _examine_image(session, submission, operation, model)
    return _examine_text(session, submission, operation, model)


def submit(
    session: Session, submissions: Sequence[Submission], *, now: datetime, deadline: timedelta, publish_by: timedelta
) -> list[Submitted]:
    """Turn requests into queued jobs, all or none; the same request again returns the same job.

    `deadline` is how long a job may stay open, `publish_by` how long its message may take before it is sent again.
    Raises a BillingError for the first request that cannot be done, IdempotencyConflict among them.
    """
    rows = [_row(examine(session, each), now=now, deadline=deadline, publish_by=publish_by) for each in submissions]
    created = store.add(session, rows)
    standing = store.find_by_keys(session, [(row["account_id"], row["idempotency_key"]) for row in rows])
    return [_submitted(row, standing.get((row["account_id"], row["idempotency_key"])), created) for row in rows]


def cancel(session: Session, job_id: UUID, *, now: datetime) -> None:
    """Cancel a job that is still queued; raises UnknownThing or NotCancellable. A reserved job is released instead."""
    if not store.move(session, Event.CANCEL, [{"id": job_id, "finished_at": now}]):
        found = store.find(session, [job_id])
        if not found:
            raise UnknownThing("job", job_id)
        if found[0].state != State.CANCELLED:
            raise NotCancellable(job_id, found[0].state)


class PricedUsage(_Strict):
    """What a usage is priced by: its operation, its model, and for images their size and quality."""

    model_config = ConfigDict(extra="ignore")
    operation: Annotated[str, StringConstraints(min_length=1, max_length=50)]
    model: Annotated[str, StringConstraints(min_length=1, max_length=100)] | None = None
    size: str = "1024x1024"
    quality: str = "standard"


def price_for(session: Session, data: dict[str, Any]) -> Price:
    """The present price of a usage given as plain data; raises a BillingError when it has none."""
    priced = _validated(PricedUsage, data, "invalid_usage")
    operation = catalog.operation_named(session, priced.operation)
    model = catalog.model_for(session, operation, priced.model)
    return catalog.price_of(session, operation, model, size=priced.size, quality=priced.quality)


def read_params(kind: str, params: dict[str, Any]) -> TextParams | ImageParams:
    """The stored params of a job, as they were validated at submission."""
    return ImageParams.model_validate(params) if kind == "image" else TextParams.model_validate(params)


def _examine_text(
    session: Session, submission: Submission, operation: CreditCostConfig, model: AIModelConfig
) -> Examined:
    params = _validated(TextParams, submission.params, "invalid_params")
    assert model.max_output_tokens is not None
    assert model.context_window is not None
    asked = params.max_output_tokens
    if asked is not None and asked > model.max_output_tokens:
        raise InvalidRequest(
            f"max_output_tokens is {asked}; {model.model_name} gives {model.max_output_tokens} at most.",
            code="invalid_params",
        )
    if params.temperature is not None and not model.supports_temperature:
        raise InvalidRequest(f"{model.model_name} takes no temperature.", code="invalid_params")
    if params.json_mode and not model.supports_json_mode:
        raise InvalidRequest(f"{model.model_name} has no JSON mode.", code="invalid_params")
    counted = tokens.count_input(params.texts(), model.tokenizer)
    limit = asked or min(_default_max_output(session), model.max_output_tokens)
    if counted + limit > model.context_window:
        raise InvalidRequest(
            f"The request has about {counted} input tokens and asks for up to {limit} more; "
            f"{model.model_name} holds {model.context_window} in all.",
            code="input_too_long",
        )
    work = Work(input_tokens=counted, max_output_tokens=limit)
    return Examined(submission, model, operation, work, catalog.price_of(session, operation, model))


def _examine_image(
    session: Session, submission: Submission, operation: CreditCostConfig, model: AIModelConfig
) -> Examined:
    params = _validated(ImageParams, submission.params, "invalid_params")
    if params.n > (model.max_images or 1):
        raise InvalidRequest(
            f"n is {params.n}; {model.model_name} makes {model.max_images or 1} images a request at most.",
            code="invalid_params",
        )
    if model.valid_sizes and params.size not in model.valid_sizes:
        raise InvalidRequest(
            f"{model.model_name} makes no images of {params.size}. Known: {', '.join(model.valid_sizes)}.",
            code="invalid_size",
        )
    price = catalog.price_of(session, operation, model, size=params.size, quality=params.quality)
    return Examined(submission, model, operation, Work(images=params.n), price)


def _default_max_output(session: Session) -> int:
    settings = session.get(GlobalIntegrationSettings, 1)
    return settings.openai_max_tokens if settings is not None else DEFAULT_MAX_OUTPUT_TOKENS


def _check_user(session: Session, submission: Submission) -> None:
    if submission.user_id is not None:
        user = session.get(User, submission.user_id)
        if user is None or user.account_id != submission.account_id:
            raise UnknownThing("user", submission.user_id)


def _row(examined: Examined, *, now: datetime, deadline: timedelta, publish_by: timedelta) -> dict[str, Any]:
    submission, model = examined.submission, examined.model
    job_id = submission.job_id or uuid4()
    return {
        "id": job_id,
        "account_id": submission.account_id,
        "user_id": submission.user_id,
        "operation_type": submission.operation,
        "model_name": model.model_name,
        "provider": model.provider,
        "kind": model.model_type,
        "params": submission.params,
        "idempotency_key": submission.idempotency_key or str(job_id),
        "request_hash": _hash(submission),
        "related_object_type": submission.params.get("related_object_type"),
        "related_object_id": submission.params.get("related_object_id"),
        "work": {
            "input_tokens": examined.work.input_tokens,
            "max_output_tokens": examined.work.max_output_tokens,
            "images": examined.work.images,
        },
        "credits_estimated": examined.credits_estimated,
        "limit_type": model.limit_type if model.model_type == "image" else examined.operation.limit_type,
        "limit_unit": examined.operation.limit_unit,
        "next_at": now + publish_by,
        "deadline_at": now + deadline,
        "created_at": now,
    }


def _submitted(row: dict[str, Any], job: GenerationJob | None, created: set[UUID]) -> Submitted:
    if job is None:
        # The insert met neither this key nor a free id: the id belongs to another request.
        raise IdempotencyConflict(str(row["id"]))
    if job.request_hash != row["request_hash"]:
        raise IdempotencyConflict(row["idempotency_key"])
    return Submitted(job_id=job.id, kind=job.kind, state=job.state, created=job.id == row["id"] and job.id in created)


def _hash(submission: Submission) -> str:
    body = {
        "operation": submission.operation,
        "params": submission.params,
        "model": submission.model,
        "user_id": submission.user_id,
    }
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _validated(shape: type[Model], data: dict[str, Any], code: str) -> Model:
    try:
        return shape.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        # The name of a field may be anything, too: a line break in it must not make two lines of one.
        loc = ".".join(str(part) for part in first["loc"])[:80]
        place = "".join(letter if letter.isprintable() else "?" for letter in loc)
        what = first["msg"].removeprefix("Value error, ")
        sentence = f"{place}: {what}." if place else f"{what[:1].upper()}{what[1:]}."
        raise InvalidRequest(sentence, code=code) from None
