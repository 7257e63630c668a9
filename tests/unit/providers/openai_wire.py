"""OpenAI behind a scripted wire: the adapter's own client over the real SDK, and the answers that it is given."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any
from uuid import UUID

import httpx2
import openai
import pytest

from billing.catalog.usage import Usage
from billing.jobs.calling import Claim, Delivery, Refusal
from config.providers import Connection
from tasks.providers.base import ProviderError
from tasks.providers.openai import OpenAIProvider

KEY = "sk-test-0123456789abcdef"
PROMPT = "MARKER whiskey tango"
SPOKEN = f"You sent {PROMPT!r} with the key {KEY}."
URL = "https://provider.example/v1"
TEXT_PARAMS = {"prompt": PROMPT, "system": "Be brief.", "temperature": 0.5, "json_mode": True}
IMAGE_PARAMS = {"prompt": PROMPT, "n": 4, "size": "1024x1024", "quality": "hd", "style": "vivid"}

Handler = Callable[[httpx2.Request], httpx2.Response]

EMBEDDING_PARAMS = {"input": [PROMPT, "Rolls."]}
PARAMS = {"images": ("image", IMAGE_PARAMS), "embeddings": ("embedding", EMBEDDING_PARAMS)}


def a_claim(api: str = "responses", *, bills_tokens: bool | None = None, **params: Any) -> Claim:
    kind, usual = PARAMS.get(api, ("text", TEXT_PARAMS))
    return Claim(
        job_id=UUID(int=1),
        attempt=2,
        call_id=3,
        provider="openai",
        model_name="gpt-test",
        api=api,
        kind=kind,
        params=params or usual,
        max_output_tokens=500,
        images=(params or usual).get("n", 1),
        idempotency_key="creditmill-1",
        bills_tokens=api != "images" if bills_tokens is None else bills_tokens,
    )


@cache
def adapters_client(key: str, base_url: str | None) -> openai.OpenAI:
    """The client that the adapter makes; made once, for it takes a while."""
    return OpenAIProvider()._client(Connection("openai", key, base_url))


class Wire:
    """A provider behind a scripted wire: the adapter's own client, with every request kept."""

    def __init__(
        self, handler: Handler, *, key: str = KEY, base_url: str | None = URL, honours_keys: bool = False
    ) -> None:
        self.requests: list[httpx2.Request] = []
        self.handler = handler
        self.provider = OpenAIProvider()
        self.connection = Connection("openai", key, base_url, honours_keys)
        transport = httpx2.Client(transport=httpx2.MockTransport(self._answer))
        wired = adapters_client(key, base_url).with_options(http_client=transport)
        self.provider._clients[(key, base_url)] = wired

    def call(self, api: str = "responses", **params: Any) -> Delivery:
        return self.provider.call(a_claim(api, **params), self.connection, timeout_s=30)

    def found_out(self, api: str = "responses") -> Delivery | None:
        return self.provider.ask(a_claim(api), self.connection, timeout_s=30)

    def refused(self, api: str = "responses", **params: Any) -> Refusal:
        with pytest.raises(ProviderError) as caught:
            self.call(api, **params)
        assert_no_words(caught.value)
        return caught.value.refusal

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        self.requests.append(request)
        return self.handler(request)


def assert_no_words(error: ProviderError) -> None:
    """Nothing that the provider said is kept: it may quote a prompt or a key."""
    told = f"{error} {error!r} {error.refusal} {error.refusal!r} {error.args}"
    assert KEY not in told
    assert PROMPT not in told
    assert "whiskey" not in told


def answering(body: Any, status: int = 200, **headers: str) -> Handler:
    # In ASCII, so that a lone surrogate stands there as its escape: that is how one comes over a real wire.
    content = json.dumps(body).encode()
    sent = {"content-type": "application/json", "x-request-id": "req_1", **headers}
    return lambda request: httpx2.Response(status, content=content, headers=sent)


def answering_bytes(content: bytes, content_type: str = "application/json") -> Handler:
    return lambda request: httpx2.Response(200, content=content, headers={"content-type": content_type})


def breaking(error: Exception) -> Handler:
    def fail(request: httpx2.Request) -> httpx2.Response:
        raise error

    return fail


def a_response(text: str = "Bread.", **changed: Any) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": "gpt-test",
        "output": [{"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content}],
        "usage": {
            "input_tokens": 100,
            "input_tokens_details": {"cached_tokens": 40},
            "output_tokens": 400,
            "output_tokens_details": {"reasoning_tokens": 150},
            "total_tokens": 500,
        },
        **changed,
    }


def a_completion(text: str | None = "Bread.", finish: str = "stop", **changed: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl_1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-test",
        "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}],
        "usage": {
            "prompt_tokens": 100,
            "prompt_tokens_details": {"cached_tokens": 40},
            "completion_tokens": 400,
            "completion_tokens_details": {"reasoning_tokens": 150},
            "total_tokens": 500,
        },
        **changed,
    }


def some_images(count: int) -> dict[str, Any]:
    return {"created": 1, "data": [{"url": f"https://images.example/{n}.png"} for n in range(count)]}


def some_embeddings() -> dict[str, Any]:
    # Out of order, as the documentation allows.
    rows = [{"object": "embedding", "index": n, "embedding": [n / 2, 0.25]} for n in (1, 0)]
    usage = {"prompt_tokens": 9, "total_tokens": 9}
    return {"object": "list", "model": "gpt-test", "data": rows, "usage": usage}


ANSWERS = {
    "responses": a_response,
    "chat_completions": a_completion,
    "images": lambda: some_images(4),
    "embeddings": some_embeddings,
}
DISJOINT = Usage(input_tokens=60, cached_input_tokens=40, output_tokens=250, reasoning_tokens=150)

BROKEN_BODIES = {
    "nothing": b"",
    "half an object": b'{"id": "resp_1", "output": [',
    "a list": b"[]",
    "null": b"null",
    "text": b'"MARKER whiskey tango"',
    "a number": b"1",
    "an empty object": b"{}",
    "not UTF-8": b'{"id": "\xff"}',
    "a page": b"<html>MARKER whiskey tango</html>",
}
