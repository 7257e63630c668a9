"""Runware behind a scripted wire: the adapter over its own HTTP client, and the answers that it is given."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import httpx2
import pytest

from billing.jobs.calling import Claim, Delivery, Refusal
from config.providers import Connection
from tasks.providers.base import ProviderError
from tasks.providers.runware import RunwareProvider, task_id

KEY = "rw-test-0123456789abcdef"
PROMPT = "MARKER whiskey tango"
SPOKEN = f"You sent {PROMPT!r} with the key {KEY}."
WORDS = f"insufficientCredits for {PROMPT}"
URL = "https://provider.example/v1"
JOB = UUID("11111111-2222-4333-8444-555555555555")
PARAMS = {"prompt": PROMPT, "n": 4, "size": "832x1248", "quality": "standard"}
CLAIM = Claim(
    job_id=JOB,
    attempt=2,
    call_id=3,
    provider="runware",
    model_name="runware:97@1",
    api="images",
    kind="image",
    params=PARAMS,
    max_output_tokens=0,
    images=4,
    idempotency_key=f"creditmill-{JOB}",
    bills_tokens=False,
)
TASK = str(task_id(CLAIM))
OTHER = "99999999-9999-4999-8999-999999999999"

Handler = Callable[[httpx2.Request], httpx2.Response]


class Wire:
    """Runware behind a scripted wire, with every request kept."""

    def __init__(self, handler: Handler, *, key: str = KEY, base_url: str | None = URL) -> None:
        self.requests: list[httpx2.Request] = []
        self.handler = handler
        self.provider = RunwareProvider()
        self.provider._http = httpx2.Client(transport=httpx2.MockTransport(self._answer))
        self.connection = Connection("runware", key, base_url)

    def call(self, claim: Claim = CLAIM) -> Delivery:
        return self.provider.call(claim, self.connection, timeout_s=30)

    def refused(self, claim: Claim = CLAIM) -> Refusal:
        with pytest.raises(ProviderError) as caught:
            self.call(claim)
        assert_no_words(caught.value)
        return caught.value.refusal

    def found_out(self) -> Delivery | None:
        return self.provider.ask(CLAIM, self.connection, timeout_s=30)

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        self.requests.append(request)
        return self.handler(request)


def assert_no_words(error: ProviderError) -> None:
    """Nothing that the provider said is kept: it may quote a prompt or a key."""
    told = f"{error} {error!r} {error.refusal} {error.refusal!r} {error.args}"
    assert KEY not in told
    assert "whiskey" not in told


def answering(body: Any, status: int = 200, **headers: str) -> Handler:
    return lambda request: httpx2.Response(status, content=json.dumps(body).encode(), headers=headers)


def answering_bytes(content: bytes, status: int = 200) -> Handler:
    return lambda request: httpx2.Response(status, content=content)


def breaking(error: Exception) -> Handler:
    def fail(request: httpx2.Request) -> httpx2.Response:
        raise error

    return fail


def an_image(number: int = 0, **changed: Any) -> dict[str, Any]:
    return {
        "taskType": "imageInference",
        "taskUUID": TASK,
        "imageUUID": f"{number:08}-0000-4000-8000-000000000000",
        "imageURL": f"https://im.runware.example/{number}.jpg",
        "seed": number,
        "cost": 0.0013,
        **changed,
    }


def some_images(count: int = 4) -> dict[str, Any]:
    return {"data": [an_image(number) for number in range(count)]}


def an_error(code: Any, **changed: Any) -> dict[str, Any]:
    error = {"code": code, "message": SPOKEN, "parameter": PROMPT, "taskUUID": TASK, **changed}
    return {"errors": [error]}


def details(response: Any, **changed: Any) -> dict[str, Any]:
    """Runware's answer to a look-up: what was sent, and what was answered to it."""
    sent = [{"taskType": "imageInference", "taskUUID": TASK, "positivePrompt": PROMPT}]
    return {
        "data": [{"taskType": "getTaskDetails", "taskUUID": TASK, "request": sent, "response": response, **changed}]
    }


UNREADABLE = {
    "nothing": b"",
    "half an object": b'{"data": [',
    "a list": b"[]",
    "null": b"null",
    "text": b'"MARKER whiskey tango"',
    "an empty object": b"{}",
    "not UTF-8": b'{"data": "\xff"}',
    "a page": b"<html>MARKER whiskey tango</html>",
    "nested too deeply": b"[" * 100_000,
    "a number of many digits": b'{"data": ' + b"9" * 5_000 + b"}",
    "no result": b'{"data": []}',
    "no list": b'{"data": {"imageURL": "x"}}',
    "no objects": b'{"data": [1, null, "x", []]}',
    "an image of no task": b'{"data": [{"imageURL": "x"}]}',
    "a result without an image": json.dumps({"data": [an_image(imageURL=None)]}).encode(),
    "an image that is no text": json.dumps({"data": [an_image(imageURL=["x"])]}).encode(),
    "an image without an address": json.dumps({"data": [an_image(imageURL="")]}).encode(),
    "an acknowledgement": json.dumps({"data": [{"taskUUID": TASK, "status": "processing"}]}).encode(),
    "an error of another task": json.dumps(an_error("invalidModel", taskUUID=OTHER)).encode(),
    "an error that nobody knows": json.dumps(an_error("somethingNew")).encode(),
}
