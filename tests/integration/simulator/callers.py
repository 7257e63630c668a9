"""A worker's view of a simulator: our own adapters, the connections to it, and what each fault comes to."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest

from billing.jobs.calling import Claim, Delivery, Refusal
from billing.jobs.policy import Failure
from config.providers import Connection
from tasks.providers.base import Provider, ProviderError
from tasks.providers.openai import OpenAIProvider
from tasks.providers.runware import RunwareProvider
from tests.integration.simulator.running import PROMPT, Running, wait_until

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "responses": ("text", {}),
    "chat_completions": ("text", {}),
    "images": ("image", {"n": 3, "size": "1024x1024", "quality": "standard"}),
    "embeddings": ("embedding", {}),
}

REFUSED = {
    "rate_limit": (Failure.RATE_LIMITED, 429, "rateLimitExceeded"),
    "rate_limit_window": (Failure.RATE_LIMITED, 429, "rateLimitExceeded"),
    "overloaded": (Failure.OVERLOADED, 503, "serviceUnavailable"),
    "overloaded_until": (Failure.OVERLOADED, 503, "serviceUnavailable"),
    "too_early": (Failure.OVERLOADED, 425, "too_early"),
    "server_error": (Failure.SERVER_ERROR, 500, "internalServerError"),
    "error_in_answer": (Failure.SERVER_ERROR, 500, "internalServerError"),
    "content_policy": (Failure.CONTENT_POLICY, 400, "contentPolicyViolation"),
    "bad_request": (Failure.BAD_REQUEST, 400, "invalidPositivePrompt"),
    "insufficient_quota": (Failure.QUOTA_EXHAUSTED, 402, "insufficientCredits"),
    "hang_before_accept": (Failure.CONNECTION_LOST, None, None),
    "reset_before_accept": (Failure.CONNECTION_LOST, None, None),
}
LOST = {
    "hang_after_accept": (Failure.CONNECTION_LOST, None, None),
    "reset_mid_body": (Failure.CONNECTION_LOST, None, None),
    "drip": (Failure.CONNECTION_LOST, None, None),
    "bad_gateway": (Failure.GATEWAY_ERROR, 502, None),
    "gateway_timeout": (Failure.TIMED_OUT, 504, None),
    "malformed_body": (Failure.UNREADABLE_ANSWER, 200, None),
}


class Caller:
    """A worker's view of one simulator: an adapter, the connection to it, and claims of jobs."""

    def __init__(self, running: Running, provider: Provider, connection: Connection, model: str) -> None:
        self.running = running
        self.provider = provider
        self.connection = connection
        self.model = model

    def claim(
        self, prompt: str = PROMPT, *, api: str = "images", attempt: int = 1, job_id: UUID | None = None
    ) -> Claim:
        kind, params = KINDS[api]
        job_id = job_id or uuid4()
        return Claim(
            job_id=job_id,
            attempt=attempt,
            call_id=1,
            provider=self.connection.provider,
            model_name=self.model,
            api=api,
            kind=kind,
            params={"input": [prompt]} if kind == "embedding" else {"prompt": prompt, **params},
            max_output_tokens=100,
            images=params.get("n", 0),
            idempotency_key=f"creditmill-{job_id}",
            bills_tokens=False,
        )

    def call(self, claim: Claim, *, timeout_s: float = 20) -> Delivery:
        return self.provider.call(claim, self.connection, timeout_s=timeout_s)

    def refused(self, claim: Claim, *, timeout_s: float = 20) -> Refusal:
        with pytest.raises(ProviderError) as caught:
            self.call(claim, timeout_s=timeout_s)
        told = f"{caught.value!r} {caught.value.refusal!r}"
        assert self.connection.api_key not in told
        assert "garden" not in told
        return caught.value.refusal

    def found_out(self, claim: Claim) -> Delivery | None:
        return self.provider.ask(claim, self.connection, timeout_s=20)

    def executed(self, claim: Claim) -> list[int | None]:
        """The images of each time that the job's work was done, None for other work."""
        entries = self.running.journal(claim.idempotency_key)
        return [entry.images for entry in entries if entry.event == "executed"]

    def in_flight(self, claim: Claim) -> threading.Thread:
        """The call under way in another thread, and received."""
        thread = threading.Thread(target=self._call_and_forget, args=(claim,))
        thread.start()
        wait_until(lambda: bool(self.running.journal(claim.idempotency_key)))
        return thread

    def _call_and_forget(self, claim: Claim) -> None:
        try:
            self.call(claim)
        except ProviderError:
            return


def work(delivery: Delivery | None) -> Delivery | None:
    """A delivery without the id of the request that brought it: each request has its own."""
    return None if delivery is None else replace(delivery, request_id=None)


def runware(running: Running, key: str = "sim-test-runware") -> Caller:
    return Caller(
        running, RunwareProvider(), Connection("runware", key, running.ready["runware"]), model="runware:97@1"
    )


def openai(running: Running, *, honours_keys: bool = True) -> Caller:
    connection = Connection("openai", "sim-test-openai", running.url, honours_keys)
    return Caller(running, OpenAIProvider(), connection, model="dall-e-2")


def posted(running: Running, body: object, key: str = "sim-test", **headers: str) -> tuple[int, Any]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    authorized = {"Authorization": f"Bearer {key}", **headers}
    answer = httpx2.post(running.ready["runware"], content=raw, headers=authorized, timeout=20)
    return answer.status_code, answer.json()
