"""OpenAI, and servers compatible with it, through the real SDK: text, images and embeddings.

The SDK sends, and never retries here; answers are read by our own rules, because many servers answer in forms of their
own. Every error is sorted by one question: could the provider have done the work?
"""

from __future__ import annotations

import threading

import httpx2
import openai
from openai import OpenAI

from billing.jobs.calling import Claim, Delivery, Refusal
from billing.jobs.policy import Failure, Means
from config.database import utc_now
from config.providers import Connection
from tasks.providers.base import ProviderError, safe_code
from tasks.providers.client import Client
from tasks.providers.openai_answers import read
from tasks.providers.openai_failures import CODES
from tasks.providers.openai_requests import REQUESTS
from tasks.providers.waits import retry_after
from tasks.providers.wire import NO_CONNECTION, failure_of_break, failure_of_error, not_configured, timeout

CLIENTS_KEPT = 8


class OpenAIProvider:
    """The OpenAI API; one HTTP client for each key and address, shared by the threads of the worker."""

    def __init__(self) -> None:
        self._clients: dict[tuple[str, str | None], OpenAI] = {}
        self._lock = threading.Lock()

    def call(self, claim: Claim, connection: Connection, *, timeout_s: float) -> Delivery:
        """Make one wire call; raises ProviderError when it brings no result."""
        if claim.api not in REQUESTS:
            raise not_configured("no_adapter")
        path, body = REQUESTS[claim.api]
        try:
            client = self._client(connection).with_options(timeout=timeout(timeout_s))
            headers = {"Idempotency-Key": claim.idempotency_key}
            answer = client.post(path, cast_to=httpx2.Response, body=body(claim), options={"headers": headers})
            return read(answer, claim)
        except openai.OpenAIError as error:
            raise ProviderError(refusal_of(error)) from None
        except NO_CONNECTION:
            raise not_configured("invalid_connection") from None
        except (RecursionError, ValueError) as error:
            # An answer came that cannot be read; the work was done all the same.
            refusal = Refusal(Failure.UNREADABLE_ANSWER, http_status=200, provider_code=type(error).__name__)
            raise ProviderError(refusal) from None

    def means(self, connection: Connection) -> Means:
        """RESEND where the server does the work of one key once, else WAIT: OpenAI promises nothing about keys."""
        return Means.RESEND if connection.honours_keys else Means.WAIT

    def ask(self, claim: Claim, connection: Connection, *, timeout_s: float) -> Delivery | None:
        """Send the same request again under the same key; returns what was done before, None without a delivery.

        Never raises ProviderError: that the second request was refused does not prove that the first was not executed.
        """
        assert self.means(connection) is Means.RESEND, "the work would be done, and paid for, twice"
        try:
            return self.call(claim, connection, timeout_s=timeout_s)
        except ProviderError:
            return None

    def check(self, connection: Connection, *, timeout_s: float) -> None:
        """List the models, which costs nothing; raises ProviderError unless that works."""
        try:
            client = self._client(connection).with_options(timeout=timeout(timeout_s))
            answer = client.get("/models", cast_to=httpx2.Response)
            listed = isinstance(told := answer.json(), dict) and isinstance(told.get("data"), list)
        except openai.OpenAIError as error:
            raise ProviderError(refusal_of(error)) from None
        except NO_CONNECTION:
            raise not_configured("invalid_connection") from None
        except (RecursionError, ValueError):
            listed = False
        if not listed:
            raise ProviderError(Refusal(Failure.UNREADABLE_ANSWER, http_status=200))

    def _client(self, connection: Connection) -> OpenAI:
        key = (connection.api_key, connection.base_url)
        with self._lock:
            if key not in self._clients:
                if len(self._clients) >= CLIENTS_KEPT:
                    self._clients.pop(next(iter(self._clients)))
                self._clients[key] = OpenAI(
                    api_key=connection.api_key,
                    # Explicit, so that no OPENAI_BASE_URL of the environment decides where keys are sent.
                    base_url=connection.base_url or "https://api.openai.com/v1",
                    max_retries=0,
                    http_client=Client(),
                )
            return self._clients[key]


def refusal_of(error: openai.OpenAIError) -> Refusal:
    """Why a call failed, in our terms; nothing of what the provider wrote is kept but codes."""
    if isinstance(error, openai.APIConnectionError):
        return Refusal(failure_of_break(error.__cause__))
    if isinstance(error, openai.APIStatusError):
        code = safe_code(error.code) or safe_code(error.type)
        failure = failure_of_error(error.status_code, CODES.get(code or ""))
        return Refusal(
            failure,
            http_status=error.status_code,
            provider_code=code,
            request_id=safe_code(error.request_id),
            retry_after=retry_after(error.response.headers, failure, now=utc_now()),
        )
    return Refusal(Failure.UNREADABLE_ANSWER, http_status=200, provider_code=type(error).__name__)
