"""OpenAI, and servers compatible with it: text by responses or chat completions, and images, through the real SDK.

The SDK never retries here. Every error is sorted by one question: could the provider have done the work?
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from typing import Any

import openai
from openai import OpenAI

from billing.catalog.pricing import Usage
from billing.jobs.calling import Claim, Delivery, Refusal
from billing.jobs.policy import Failure, Means
from billing.jobs.requests import EmbeddingParams, ImageParams, read_params
from config.database import utc_now
from config.providers import Connection
from tasks.providers import openai_requests
from tasks.providers.base import ProviderError, clean_json, clean_text, safe_code
from tasks.providers.client import Client
from tasks.providers.waits import retry_after
from tasks.providers.wire import NO_CONNECTION, failure_of_break, failure_of_error, not_configured, timeout

CLIENTS_KEPT = 8

CODES: Mapping[str, Failure] = {
    "content_policy_violation": Failure.CONTENT_POLICY,
    "moderation_blocked": Failure.CONTENT_POLICY,
    "content_filter": Failure.CONTENT_POLICY,
    "insufficient_quota": Failure.QUOTA_EXHAUSTED,
    "billing_hard_limit_reached": Failure.QUOTA_EXHAUSTED,
}


class OpenAIProvider:
    """The OpenAI API; one HTTP client for each key and address, shared by the threads of the worker."""

    def __init__(self) -> None:
        self._clients: dict[tuple[str, str | None], OpenAI] = {}
        self._lock = threading.Lock()

    def call(self, claim: Claim, connection: Connection, *, timeout_s: float) -> Delivery:
        """Make one wire call; raises ProviderError when it brings no result."""
        make = APIS.get(claim.api)
        if make is None:
            raise not_configured("no_adapter")
        try:
            client = self._client(connection).with_options(timeout=timeout(timeout_s))
            return make(client, claim, {"Idempotency-Key": claim.idempotency_key})
        except openai.OpenAIError as error:
            raise ProviderError(refusal_of(error)) from None
        except NO_CONNECTION:
            raise not_configured("invalid_connection") from None
        except (RecursionError, ValueError, TypeError, AttributeError, LookupError) as error:
            # An answer came that neither the SDK nor we can read; the work was done all the same.
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


def _responses(client: OpenAI, claim: Claim, headers: dict[str, str]) -> Delivery:
    answer = client.responses.create(**openai_requests.responses(claim), extra_headers=headers)
    if answer.status == "failed":
        raise ProviderError(_failed(answer))
    if answer.status not in ("completed", "incomplete"):
        raise ValueError("the answer is not finished")
    reason = answer.incomplete_details.reason if answer.incomplete_details else None
    return _text_delivery(answer, answer.output_text, _responses_usage(answer.usage), reason or "stop")


def _failed(answer: Any) -> Refusal:
    code = safe_code(getattr(answer.error, "code", None))
    return Refusal(
        CODES.get(code or "", Failure.SERVER_ERROR),
        http_status=200,
        provider_code=code,
        request_id=safe_code(answer._request_id),
        usage=None if answer.usage is None else _responses_usage(answer.usage),
    )


def _chat(client: OpenAI, claim: Claim, headers: dict[str, str]) -> Delivery:
    answer = client.chat.completions.create(**openai_requests.chat(claim), extra_headers=headers)
    choice = answer.choices[0]
    return _text_delivery(answer, choice.message.content or "", _chat_usage(answer.usage), choice.finish_reason)


def _images(client: OpenAI, claim: Claim, headers: dict[str, str]) -> Delivery:
    params = read_params(claim.kind, claim.params)
    assert isinstance(params, ImageParams)
    answer = client.images.generate(**openai_requests.images(claim), extra_headers=headers)
    images = [image.model_dump(exclude_none=True) for image in answer.data or [] if image.url or image.b64_json]
    usage = Usage(images=len(images))
    if claim.bills_tokens:
        # A missing usage is an error here: the answer was paid for, and its cost cannot be computed.
        usage = Usage(answer.usage.input_tokens, 0, answer.usage.output_tokens, 0, len(images))
    raw = answer.usage.model_dump(mode="json") if answer.usage is not None else {"images": len(images)}
    return Delivery(
        content={"images": clean_json(images)},
        usage=usage,
        raw_usage=clean_json(raw),
        request_id=safe_code(answer._request_id),
        finish_reason="stop" if len(images) >= params.n else "fewer_images",
    )


def _embeddings(client: OpenAI, claim: Claim, headers: dict[str, str]) -> Delivery:
    params = read_params(claim.kind, claim.params)
    assert isinstance(params, EmbeddingParams)
    answer = client.embeddings.create(**openai_requests.embeddings(claim), extra_headers=headers)
    rows = sorted(answer.data, key=lambda row: row.index)
    vectors = [row.embedding for row in rows]
    if [row.index for row in rows] != list(range(len(params.input))):
        raise ValueError("the answer has not one vector for each input")
    if not all(vector and all(math.isfinite(number) for number in vector) for vector in vectors):
        raise ValueError("a vector is empty, or not of numbers")
    return Delivery(
        content={"embeddings": clean_json(vectors)},
        usage=Usage(input_tokens=answer.usage.prompt_tokens),
        raw_usage=clean_json(answer.usage.model_dump(mode="json")),
        request_id=safe_code(answer._request_id),
        finish_reason="stop",
    )


APIS: Mapping[str, Callable[[OpenAI, Claim, dict[str, str]], Delivery]] = {
    "responses": _responses,
    "chat_completions": _chat,
    "images": _images,
    "embeddings": _embeddings,
}


def _text_delivery(answer: Any, text: str, usage: Usage, finish_reason: str) -> Delivery:
    if finish_reason == "content_filter":
        raise ProviderError(
            Refusal(Failure.CONTENT_POLICY, 200, "content_filter", safe_code(answer._request_id), usage=usage)
        )
    return Delivery(
        content={"text": clean_text(text)},
        usage=usage,
        raw_usage=clean_json(answer.usage.model_dump(mode="json")),
        request_id=safe_code(answer._request_id),
        finish_reason=safe_code(finish_reason),
    )


def _responses_usage(usage: Any) -> Usage:
    cached = _detail(usage.input_tokens_details, "cached_tokens")
    reasoning = _detail(usage.output_tokens_details, "reasoning_tokens")
    return _disjoint(usage.input_tokens, cached, usage.output_tokens, reasoning)


def _chat_usage(usage: Any) -> Usage:
    cached = _detail(usage.prompt_tokens_details, "cached_tokens")
    reasoning = _detail(usage.completion_tokens_details, "reasoning_tokens")
    return _disjoint(usage.prompt_tokens, cached, usage.completion_tokens, reasoning)


def _disjoint(input_tokens: int, cached: int, output_tokens: int, reasoning: int) -> Usage:
    """OpenAI counts cached tokens within the input and reasoning within the output; ours are disjoint buckets."""
    return Usage(
        input_tokens=input_tokens - cached,
        cached_input_tokens=cached,
        output_tokens=output_tokens - reasoning,
        reasoning_tokens=reasoning,
    )


def _detail(details: Any, name: str) -> int:
    return (getattr(details, name, None) or 0) if details is not None else 0
