"""The OpenAI adapter over the real SDK: only the wire is scripted.

The question behind every error is whether the provider could have done the work, for that decides who pays.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any
from uuid import UUID

import httpx2
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.catalog.pricing import Usage
from billing.jobs.calling import Claim, Delivery, Refusal
from billing.jobs.policy import VERDICTS, Failure, Means, Verdict
from config.providers import Connection
from tasks.providers.base import ProviderError, clean_json, clean_text, safe_code
from tasks.providers.openai import CLIENTS_KEPT, OpenAIProvider, refusal_of

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


# --- What is sent ---


def test_a_response_is_asked_for_with_exactly_the_claims_params():
    wire = Wire(answering(a_response()))

    wire.call("responses")

    (request,) = wire.requests
    assert (request.method, str(request.url)) == ("POST", f"{URL}/responses")
    assert json.loads(request.content) == {
        "model": "gpt-test",
        "input": PROMPT,
        "instructions": "Be brief.",
        "max_output_tokens": 500,
        "temperature": 0.5,
        "text": {"format": {"type": "json_object"}},
        "store": False,
    }


def test_a_completion_is_asked_for_with_exactly_the_claims_params():
    wire = Wire(answering(a_completion()))

    wire.call("chat_completions")

    (request,) = wire.requests
    assert (request.method, str(request.url)) == ("POST", f"{URL}/chat/completions")
    assert json.loads(request.content) == {
        "model": "gpt-test",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROMPT}],
        "max_completion_tokens": 500,
        "temperature": 0.5,
        "response_format": {"type": "json_object"},
    }


def test_images_are_asked_for_with_exactly_the_claims_params():
    wire = Wire(answering(some_images(4)))

    wire.call("images")

    (request,) = wire.requests
    assert (request.method, str(request.url)) == ("POST", f"{URL}/images/generations")
    assert json.loads(request.content) == {"model": "gpt-test", **IMAGE_PARAMS}


@pytest.mark.parametrize(
    ("api", "field", "before"),
    [("responses", "input", []), ("chat_completions", "messages", [{"role": "system", "content": "Be brief."}])],
)
def test_a_conversation_is_sent_turn_by_turn(api, field, before):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    wire = Wire(answering(ANSWERS[api]()))

    wire.call(api, messages=turns, system="Be brief.")

    assert json.loads(wire.requests[0].content)[field] == before + turns


@pytest.mark.parametrize(
    ("api", "sent"),
    [
        ("responses", {"model", "input", "max_output_tokens", "store"}),
        ("chat_completions", {"model", "messages", "max_completion_tokens"}),
        ("images", {"model", "prompt", "n", "size", "quality"}),
    ],
)
def test_what_was_not_asked_for_is_not_sent(api, sent):
    wire = Wire(answering(ANSWERS[api]()))
    # Submitting completes an image's size and quality.
    whole = {"size": "1024x1024", "quality": "standard"} if api == "images" else {}

    wire.call(api, prompt=PROMPT, **whole)

    assert set(json.loads(wire.requests[0].content)) == sent


def test_an_api_without_an_adapter_is_refused_before_anything_is_sent():
    wire = Wire(answering(a_response()))

    assert wire.refused("audio") == Refusal(Failure.NOT_CONFIGURED, provider_code="no_adapter")
    assert wire.requests == []


@pytest.mark.parametrize("api", ANSWERS)
def test_every_call_carries_the_jobs_idempotency_key_and_the_connections_key(api):
    wire = Wire(answering(ANSWERS[api]()))

    wire.call(api)

    (request,) = wire.requests
    assert request.headers.get_list("idempotency-key") == ["creditmill-1"]
    assert request.headers.get_list("authorization") == [f"Bearer {KEY}"]


@pytest.mark.parametrize("api", ANSWERS)
def test_a_call_waits_no_longer_than_it_is_told_and_five_seconds_for_a_connection(api):
    wire = Wire(answering(ANSWERS[api]()))

    wire.call(api)

    assert wire.requests[0].extensions["timeout"] == {"connect": 5.0, "read": 30, "write": 30, "pool": 30}


@pytest.mark.parametrize("api", ANSWERS)
@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_the_sdk_makes_one_request_and_no_retry(api, status):
    # "x-should-retry" asks the SDK itself for another try, whatever the status.
    wire = Wire(answering({"error": {}}, status, **{"retry-after": "0", "x-should-retry": "true"}))

    wire.refused(api)

    assert len(wire.requests) == 1


@pytest.mark.parametrize("error", [httpx2.ConnectError("x"), httpx2.ReadTimeout("x"), httpx2.ReadError("x")])
def test_the_sdk_tries_a_broken_connection_once(error):
    wire = Wire(breaking(error))

    wire.refused()

    assert len(wire.requests) == 1


def test_no_environment_decides_where_keys_are_sent(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "https://elsewhere.example/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-somebody-else")
    wire = Wire(answering(a_response()), base_url=None)

    wire.call()

    assert str(wire.requests[0].url) == "https://api.openai.com/v1/responses"
    assert wire.requests[0].headers["authorization"] == f"Bearer {KEY}"


def test_a_client_is_made_once_for_each_key_and_address():
    provider = OpenAIProvider()
    one, other = Connection("openai", KEY, URL), Connection("openai", KEY, None)

    assert provider._client(one) is provider._client(Connection("openai", KEY, URL))
    assert provider._client(one) is not provider._client(other)
    assert provider._client(one) is not provider._client(Connection("openai", "sk-another", URL))


def test_only_so_many_clients_are_kept():
    provider = OpenAIProvider()
    first = provider._client(Connection("openai", "sk-key-0", URL))
    for number in range(1, CLIENTS_KEPT + 1):
        provider._client(Connection("openai", f"sk-key-{number}", URL))

    assert len(provider._clients) == CLIENTS_KEPT
    assert first is not provider._client(Connection("openai", "sk-key-0", URL))


# --- What is read ---


@pytest.mark.parametrize(("api", "body"), [("responses", a_response()), ("chat_completions", a_completion())])
def test_text_is_delivered_with_its_usage_in_disjoint_buckets(api, body):
    delivery = Wire(answering(body)).call(api)

    assert delivery.content == {"text": "Bread."}
    assert delivery.usage == DISJOINT
    assert delivery.usage.total_tokens == 500
    assert delivery.raw_usage["total_tokens"] == 500
    assert (delivery.request_id, delivery.finish_reason) == ("req_1", "stop")


@pytest.mark.parametrize(
    ("api", "body", "reason"),
    [
        (
            "responses",
            a_response(status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
            "max_output_tokens",
        ),
        ("chat_completions", a_completion(finish="length"), "length"),
    ],
)
def test_a_text_that_was_cut_is_delivered_and_says_so(api, body, reason):
    delivery = Wire(answering(body)).call(api)

    assert (delivery.content, delivery.usage, delivery.finish_reason) == ({"text": "Bread."}, DISJOINT, reason)


@pytest.mark.parametrize("text", ["", None])
def test_an_empty_text_is_a_paid_delivery(text):
    delivery = Wire(answering(a_completion(text))).call("chat_completions")

    assert (delivery.content, delivery.usage) == ({"text": ""}, DISJOINT)


@pytest.mark.parametrize(
    ("asked", "delivered", "finish"), [(4, 4, "stop"), (4, 3, "fewer_images"), (4, 0, "fewer_images")]
)
def test_images_are_counted_as_delivered(asked, delivered, finish):
    delivery = Wire(answering(some_images(delivered))).call("images", prompt=PROMPT, n=asked)

    assert delivery.usage == Usage(images=delivered)
    assert [image["url"] for image in delivery.content["images"]] == [
        f"https://images.example/{n}.png" for n in range(delivered)
    ]
    assert (delivery.raw_usage, delivery.finish_reason) == ({"images": delivered}, finish)


def test_images_that_are_billed_by_tokens_bring_their_usage():
    usage = {
        "input_tokens": 12,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": 12},
        "output_tokens": 4224,
        "total_tokens": 4236,
    }

    delivery = Wire(answering({**some_images(4), "usage": usage})).call("images", bills_tokens=True)

    assert delivery.usage == Usage(input_tokens=12, output_tokens=4224, images=4)
    assert delivery.raw_usage["output_tokens"] == 4224


def test_images_that_are_billed_by_tokens_and_bring_no_usage_are_an_unknown_outcome():
    assert Wire(answering(some_images(4))).refused("images", bills_tokens=True).failure is Failure.UNREADABLE_ANSWER


def test_embeddings_are_delivered_in_the_order_of_their_texts():
    delivery = Wire(answering(some_embeddings())).call("embeddings")

    assert delivery.content == {"embeddings": [[0.0, 0.25], [0.5, 0.25]]}
    assert delivery.usage == Usage(input_tokens=9)


def test_an_embedding_that_is_missing_makes_the_answer_unreadable():
    answer = some_embeddings()

    refusal = Wire(answering({**answer, "data": answer["data"][:1]})).refused("embeddings")

    assert refusal.failure is Failure.UNREADABLE_ANSWER


@pytest.mark.parametrize(
    "rows",
    [
        [(0, [0.5]), (0, [0.5])],
        [(7, [0.5]), (9, [0.5])],
        [(0, [0.5]), (1, [])],
        [(0, [0.5]), (1, None)],
        [(0, [0.5]), (1, [float("inf")])],
    ],
    ids=["one twice", "others", "empty", "none", "infinite"],
)
def test_a_vector_that_is_none_makes_the_answer_unreadable(rows):
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in rows]

    refusal = Wire(answering({**some_embeddings(), "data": data})).refused("embeddings")

    assert refusal.failure is Failure.UNREADABLE_ANSWER


def test_an_answer_without_a_list_of_images_delivers_none():
    assert Wire(answering({"created": 1})).call("images").usage == Usage(images=0)


@pytest.mark.parametrize(
    ("api", "details", "expected"),
    [
        ("responses", {"input_tokens_details": None}, Usage(100, 0, 250, 150)),
        ("responses", {"output_tokens_details": None}, Usage(60, 40, 400, 0)),
        ("responses", {"input_tokens_details": {}}, Usage(100, 0, 250, 150)),
        ("responses", {"input_tokens_details": {"cached_tokens": None}}, Usage(100, 0, 250, 150)),
        ("chat_completions", {"prompt_tokens_details": None}, Usage(100, 0, 250, 150)),
        ("chat_completions", {"completion_tokens_details": None}, Usage(60, 40, 400, 0)),
        ("chat_completions", {"completion_tokens_details": {}}, Usage(60, 40, 400, 0)),
    ],
)
def test_details_that_a_compatible_server_leaves_out_are_zero(api, details, expected):
    body = ANSWERS[api]()
    body["usage"] |= details

    assert expected == Wire(answering(body)).call(api).usage


@pytest.mark.parametrize(("api", "body"), [("responses", a_response), ("chat_completions", a_completion)])
@pytest.mark.parametrize(
    ("text", "kept"), [("a\x00b", "a\ufffdb"), ("a\ud800b", "a?b"), ("\x00\udfff", "\ufffd?"), ("😀é", "😀é")]
)
def test_a_paid_text_is_not_lost_over_a_nul_or_a_lone_surrogate(api, body, text, kept):
    delivery = Wire(answering(body(text))).call(api)

    assert delivery.content == {"text": kept}
    assert delivery.usage == DISJOINT


def test_the_reported_usage_is_made_keepable_too():
    body = a_response()
    body["usage"]["tier"] = "fl\x00e\ud800x"

    delivery = Wire(answering(body)).call()

    assert delivery.raw_usage["tier"] == "fl\ufffde?x"
    assert delivery.usage == DISJOINT


def test_a_nul_in_an_image_is_replaced():
    body = {"created": 1, "data": [{"b64_json": "aGk=", "revised_prompt": "dogs\x00\ud800"}]}

    assert Wire(answering(body)).call("images").content == {
        "images": [{"b64_json": "aGk=", "revised_prompt": "dogs\ufffd?"}]
    }


# --- Answers that cannot be read: the work was done all the same ---


BAD_USAGES = {
    "negative input": {"input_tokens": -1, "input_tokens_details": None},
    "negative output": {"output_tokens": -1, "output_tokens_details": None},
    "negative cached": {"input_tokens_details": {"cached_tokens": -1}},
    "more cached than input": {"input_tokens_details": {"cached_tokens": 101}},
    "more reasoning than output": {"output_tokens_details": {"reasoning_tokens": 401}},
    "a fraction": {"input_tokens": 99.5},
    "words": {"input_tokens": "many"},
    "words without details": {"input_tokens": "many", "input_tokens_details": None},
    "a fraction without details": {"output_tokens": 0.5, "output_tokens_details": None},
    "null": {"output_tokens": None},
    "a list": {"input_tokens": [100]},
    "an object in the details": {"input_tokens_details": {"cached_tokens": {"a": 1}}},
}


@pytest.mark.parametrize("changed", BAD_USAGES.values(), ids=BAD_USAGES.keys())
@pytest.mark.parametrize("api", ["responses", "chat_completions"])
def test_a_usage_that_is_no_count_makes_the_answer_unreadable(api, changed):
    body = ANSWERS[api]()
    names = {"input": "prompt", "output": "completion"} if api == "chat_completions" else {}
    for name, value in changed.items():
        side = name.split("_")[0]
        body["usage"][name.replace(side, names.get(side, side), 1)] = value

    refusal = Wire(answering(body)).refused(api)

    assert (refusal.failure, refusal.http_status) == (Failure.UNREADABLE_ANSWER, 200)


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


@pytest.mark.parametrize("content", BROKEN_BODIES.values(), ids=BROKEN_BODIES.keys())
@pytest.mark.parametrize("api", ["responses", "chat_completions"])
def test_a_broken_body_is_unreadable(api, content):
    refusal = Wire(answering_bytes(content)).refused(api)

    assert (refusal.failure, refusal.http_status) == (Failure.UNREADABLE_ANSWER, 200)
    assert VERDICTS[refusal.failure] is Verdict.UNKNOWN


@pytest.mark.parametrize("api", ANSWERS)
def test_a_page_where_json_should_be_is_unreadable(api):
    refusal = Wire(answering_bytes(b"<html>MARKER whiskey tango</html>", "text/html")).refused(api)

    assert refusal.failure is Failure.UNREADABLE_ANSWER


def test_a_body_nested_too_deeply_is_unreadable():
    refusal = Wire(answering_bytes(b"[" * 100_000 + b"]" * 100_000)).refused()

    assert refusal.failure is Failure.UNREADABLE_ANSWER


@pytest.mark.parametrize(
    ("api", "body"),
    [
        ("responses", a_response(usage=None)),
        ("responses", a_response(output=None)),
        ("chat_completions", a_completion(usage=None)),
        ("chat_completions", a_completion(choices=[])),
        ("chat_completions", a_completion(choices=None)),
        ("chat_completions", a_completion(choices=[{"index": 0, "finish_reason": "stop", "message": None}])),
    ],
)
def test_an_answer_without_what_it_is_charged_by_is_unreadable(api, body):
    assert Wire(answering(body)).refused(api).failure is Failure.UNREADABLE_ANSWER


# --- Answers that refuse ---


@pytest.mark.parametrize(
    ("api", "body"),
    [
        ("responses", a_response(status="incomplete", incomplete_details={"reason": "content_filter"})),
        ("chat_completions", a_completion(finish="content_filter")),
    ],
)
def test_an_answer_that_was_filtered_is_refused_with_what_it_used(api, body):
    assert Wire(answering(body)).refused(api) == Refusal(
        Failure.CONTENT_POLICY, http_status=200, provider_code="content_filter", request_id="req_1", usage=DISJOINT
    )


def test_a_failed_response_is_a_server_error():
    body = a_response(status="failed", error={"code": "server_error", "message": SPOKEN})

    refusal = Wire(answering(body)).refused()

    assert (refusal.failure, refusal.provider_code) == (Failure.SERVER_ERROR, "server_error")


def test_a_failed_response_without_usage_is_a_server_error():
    body = a_response(status="failed", usage=None, error={"code": "server_error", "message": SPOKEN})

    assert Wire(answering(body)).refused().failure is Failure.SERVER_ERROR


# --- Errors: could the provider have done the work? ---


@pytest.mark.parametrize(
    ("status", "code", "failure", "rule"),
    [
        (400, None, "bad_request", "the request"),
        (400, "content_policy_violation", "content_policy", "the policy, by its code"),
        (400, "moderation_blocked", "content_policy", "the policy of the image models"),
        (400, "content_filter", "content_policy", "the policy of compatible servers"),
        (400, "billing_hard_limit_reached", "quota_exhausted", "our quota"),
        (400, "some_new_code", "bad_request", "an unknown code does not matter"),
        (401, None, "bad_credentials", "our key"),
        (401, "invalid_api_key", "bad_credentials", "our key"),
        (403, None, "bad_credentials", "our rights"),
        (403, "content_policy_violation", "content_policy", "a code says more than the status"),
        (404, "model_not_found", "bad_request", "no such model"),
        (409, None, "overloaded", "a conflict passes"),
        (413, None, "bad_request", "too large"),
        (418, None, "bad_request", "any other refusal of the request"),
        (422, None, "bad_request", "not processable"),
        (429, None, "rate_limited", "too many requests"),
        (429, "rate_limit_exceeded", "rate_limited", "too many requests"),
        (429, "insufficient_quota", "quota_exhausted", "never again, until somebody pays"),
        (500, None, "server_error", "their error"),
        (502, None, "server_error", "their gateway"),
        (503, None, "overloaded", "their load"),
        (504, None, "timed_out", "their gateway gave up; the server may have gone on"),
        (529, None, "server_error", "any other error of theirs"),
    ],
)
def test_a_status_is_sorted_by_what_it_proves(status, code, failure, rule):
    body = {"error": {"message": SPOKEN, "type": "some_type", "param": PROMPT, "code": code}}

    assert Wire(answering(body, status)).refused() == Refusal(
        Failure(failure), http_status=status, provider_code=code or "some_type", request_id="req_1"
    ), rule


def test_a_gateway_of_cloudflares_that_gave_up_proves_nothing():
    # https://developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-5xx-errors/error-524/
    refusal = Wire(answering({"error": {}}, 524)).refused()

    assert VERDICTS[refusal.failure] is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("error_class", "status", "failure"),
    [
        (openai.BadRequestError, 400, Failure.BAD_REQUEST),
        (openai.AuthenticationError, 401, Failure.BAD_CREDENTIALS),
        (openai.PermissionDeniedError, 403, Failure.BAD_CREDENTIALS),
        (openai.NotFoundError, 404, Failure.BAD_REQUEST),
        (openai.ConflictError, 409, Failure.OVERLOADED),
        (openai.UnprocessableEntityError, 422, Failure.BAD_REQUEST),
        (openai.RateLimitError, 429, Failure.RATE_LIMITED),
        (openai.InternalServerError, 500, Failure.SERVER_ERROR),
    ],
)
def test_each_of_the_sdks_errors_is_kept_as_codes_only(error_class, status, failure):
    request = httpx2.Request("POST", f"{URL}/responses")
    response = httpx2.Response(status, request=request, text=SPOKEN, headers={"x-request-id": "req_1"})
    error = error_class(SPOKEN, response=response, body={"code": None, "type": "t", "message": SPOKEN})

    refusal = refusal_of(error)

    assert refusal == Refusal(failure, http_status=status, provider_code="t", request_id="req_1")
    assert_no_words(ProviderError(refusal))


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"code": SPOKEN, "type": SPOKEN, "message": SPOKEN}},
        {"error": {"code": {"a": PROMPT}, "type": [PROMPT]}},
        {"error": {"code": [PROMPT], "type": None}},
        {"error": SPOKEN},
        {"error": [SPOKEN]},
        {"error": None, "message": SPOKEN},
        {"detail": SPOKEN},
        [SPOKEN],
        SPOKEN,
        None,
    ],
)
def test_an_error_of_any_form_is_sorted_by_its_status_and_none_of_its_words_is_kept(body):
    refusal = Wire(answering(body, 400, **{"x-request-id": SPOKEN})).refused()

    assert refusal == Refusal(Failure.BAD_REQUEST, http_status=400)


@pytest.mark.parametrize(
    ("status", "code", "type", "kept"),
    [
        (400, 1234, None, "1234"),
        (400, None, "invalid_request_error", "invalid_request_error"),
        (400, "not a code", "invalid_request_error", "invalid_request_error"),
        (400, "code", "type", "code"),
        (429, None, "insufficient_quota", "insufficient_quota"),
    ],
)
def test_the_code_is_kept_or_else_the_type(status, code, type, kept):
    refusal = Wire(answering({"error": {"code": code, "type": type}}, status)).refused()

    assert kept == refusal.provider_code
    assert (refusal.failure is Failure.QUOTA_EXHAUSTED) is (kept == "insufficient_quota")


@pytest.mark.parametrize(
    ("error", "failure", "rule"),
    [
        (httpx2.ConnectError, "unreachable", "no connection: nothing was sent"),
        (httpx2.ConnectTimeout, "unreachable", "no connection in time: nothing was sent"),
        (httpx2.PoolTimeout, "unreachable", "no connection was free: nothing was sent"),
        (httpx2.UnsupportedProtocol, "unreachable", "no address: nothing was sent"),
        (httpx2.ReadTimeout, "timed_out", "sent, and no answer in time"),
        (httpx2.WriteTimeout, "timed_out", "perhaps sent"),
        (httpx2.ReadError, "connection_lost", "sent, and then it broke"),
        (httpx2.WriteError, "connection_lost", "perhaps sent"),
        (httpx2.RemoteProtocolError, "connection_lost", "half an answer"),
        (httpx2.DecodingError, "connection_lost", "an answer that cannot be unpacked"),
    ],
)
def test_a_broken_connection_is_sorted_by_whether_anything_was_sent(error, failure, rule):
    assert Wire(breaking(error(SPOKEN))).refused() == Refusal(Failure(failure)), rule


@pytest.mark.parametrize("api", ANSWERS)
def test_nothing_that_may_have_been_executed_is_tried_again(api):
    for error in (httpx2.ReadTimeout, httpx2.WriteTimeout, httpx2.ReadError, httpx2.RemoteProtocolError):
        assert VERDICTS[Wire(breaking(error(SPOKEN))).refused(api).failure] is Verdict.UNKNOWN


def test_an_error_of_the_sdk_without_an_answer_is_unreadable():
    refusal = refusal_of(openai.OpenAIError(SPOKEN))

    assert refusal == Refusal(Failure.UNREADABLE_ANSWER, http_status=200, provider_code="OpenAIError")


def test_a_key_that_cannot_be_sent_is_no_configuration_and_no_answer():
    wire = Wire(answering(a_response()), key="sk-test-ключ")

    refusal = wire.refused()

    assert wire.requests == []
    assert (refusal.failure, refusal.http_status) == (Failure.NOT_CONFIGURED, None)


def test_an_address_that_is_none_is_no_configuration():
    connection = Connection("openai", KEY, "http://[::1")

    with pytest.raises(ProviderError) as caught:
        OpenAIProvider().call(a_claim(), connection, timeout_s=1)

    assert caught.value.refusal.failure is Failure.NOT_CONFIGURED


# --- How long the provider asks to wait ---


@pytest.mark.parametrize(
    ("headers", "seconds", "rule"),
    [
        ({}, None, "no wish"),
        ({"retry-after": "3"}, 3, "whole seconds"),
        ({"retry-after": "1.5"}, 1.5, "a fraction"),
        ({"retry-after": "0"}, 0, "at once"),
        ({"retry-after-ms": "250"}, 0.25, "milliseconds"),
        ({"retry-after-ms": "250", "retry-after": "3"}, 0.25, "the finer one counts"),
        ({"retry-after-ms": "soon", "retry-after": "3"}, 3, "the other, if the finer one cannot be read"),
        ({"retry-after": "Fri, 20 Nov 2026 12:00:00 GMT"}, None, "a date is no wish that we keep"),
        ({"retry-after": "soon"}, None, "words"),
        ({"retry-after": ""}, None, "nothing"),
        ({"retry-after": "-5"}, None, "the past"),
        ({"retry-after": "1e3"}, None, "no plain number"),
        ({"retry-after": "."}, None, "no number"),
        ({"retry-after": "1.2.3"}, None, "no number"),
        ({"retry-after": "nan"}, None, "no number"),
        ({"retry-after": "inf"}, None, "no number"),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_the_providers_wish_is_read(status, headers, seconds, rule):
    expected = None if seconds is None else timedelta(seconds=seconds)

    assert expected == Wire(answering({"error": {}}, status, **headers)).refused().retry_after, rule


@pytest.mark.parametrize("digits", ["1" + "0" * 8, "9" * 12, "9" * 400])
@pytest.mark.parametrize("header", ["retry-after-ms", "retry-after"])
def test_an_absurd_wish_counts_as_a_day(header, digits):
    wish = Wire(answering({"error": {}}, 429, **{header: digits})).refused().retry_after

    assert wish == timedelta(days=1)


# --- What became of a lost call ---


@pytest.mark.parametrize(("honours_keys", "means"), [(True, Means.RESEND), (False, Means.WAIT)])
def test_a_lost_call_is_sent_again_only_where_the_server_does_one_key_once(honours_keys, means):
    assert OpenAIProvider().means(Connection("openai", KEY, URL, honours_keys)) is means


@pytest.mark.parametrize("api", ANSWERS)
def test_finding_out_sends_the_very_same_request_again_and_delivers_the_answer(api):
    wire = Wire(answering(ANSWERS[api]()), honours_keys=True)

    called, found = wire.call(api), wire.found_out(api)

    first, second = wire.requests
    assert found == called
    assert (second.method, second.url, second.content) == (first.method, first.url, first.content)
    assert second.headers.get_list("idempotency-key") == ["creditmill-1"]


def test_nothing_is_ever_sent_again_to_a_server_that_promises_nothing():
    wire = Wire(answering(a_response()), honours_keys=False)

    with pytest.raises(AssertionError):
        wire.found_out()

    assert wire.requests == []


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 413, 418, 422, 429, 500, 502, 503, 504, 524])
@pytest.mark.parametrize("code", [None, "content_policy_violation", "insufficient_quota", "idempotency_key_in_use"])
def test_that_the_second_request_was_refused_proves_nothing_of_the_first(status, code):
    error = {"error": {"message": SPOKEN, "type": "t", "code": code}}

    assert Wire(answering(error, status), honours_keys=True).found_out() is None


@pytest.mark.parametrize(
    "error",
    [httpx2.ConnectError, httpx2.PoolTimeout, httpx2.ReadTimeout, httpx2.ReadError, httpx2.RemoteProtocolError],
)
def test_that_the_second_request_was_lost_proves_nothing_of_the_first(error):
    assert Wire(breaking(error(SPOKEN)), honours_keys=True).found_out() is None


@pytest.mark.parametrize("content", BROKEN_BODIES.values(), ids=BROKEN_BODIES.keys())
def test_an_answer_that_cannot_be_read_tells_nothing(content):
    assert Wire(answering_bytes(content), honours_keys=True).found_out() is None


@pytest.mark.parametrize(
    "body",
    [
        a_response(status="failed", error={"code": "server_error", "message": SPOKEN}),
        a_response(status="in_progress"),
        a_response(status="incomplete", incomplete_details={"reason": "content_filter"}),
    ],
    ids=["failed", "in progress", "filtered"],
)
def test_an_answer_without_a_result_tells_nothing(body):
    assert Wire(answering(body), honours_keys=True).found_out() is None


def test_a_connection_that_is_none_tells_nothing():
    assert Wire(answering(a_response()), key="sk-test-ключ", honours_keys=True).found_out() is None


# --- What PostgreSQL can keep ---


@pytest.mark.parametrize(
    ("given_text", "kept", "rule"),
    [
        ("plain é 😀", "plain é 😀", "as it is"),
        ("", "", "nothing"),
        ("a\x00b", "a\ufffdb", "a NUL"),
        ("a\ud800b", "a?b", "half of a pair"),
        ("\udc00\ud800", "??", "a pair the wrong way round"),
        ("\t\n\x01\x7f", "\t\n\x01\x7f", "other control characters"),
        (r"\u0000", r"\u0000", "a literal escape"),
    ],
)
def test_text_is_made_keepable(given_text, kept, rule):
    assert kept == clean_text(given_text), rule


def test_json_is_made_keepable_all_the_way_down():
    assert clean_json({"a\x00": ["b\ud800", {"c\udfff": ("d\x00",)}], 1: None, "n": 1.5, "t": True}) == {
        "a\ufffd": ["b?", {"c?": ("d\x00",)}],
        "1": None,
        "n": 1.5,
        "t": True,
    }


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec=None, exclude_categories=())),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec=None, exclude_categories=())), inner),
    max_leaves=10,
)


@settings(deadline=None)
@given(value=json_values)
def test_anything_cleaned_can_be_kept(value):
    cleaned = clean_json(value)

    written = json.dumps(cleaned, ensure_ascii=False)
    assert r"\u0000" not in written.replace(r"\\", "")
    written.encode()
    assert cleaned == clean_json(cleaned)


@pytest.mark.parametrize(
    "code", ["a", "insufficient_quota", "req_0a-B.9", "x" * 64, "429", "01234567-89ab-cdef-0123-456789abcdef"]
)
def test_a_code_is_kept(code):
    assert code == safe_code(code)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x" * 65,
        "two words",
        PROMPT,
        SPOKEN,
        "a:b",
        "a/b",
        "a\nb",
        "\n",
        "é",
        "a,b",
        '"a"',
        None,
        5,
        True,
        ["a"],
        {},
    ],
)
def test_anything_else_is_not(value):
    assert safe_code(value) is None


def test_a_code_with_a_line_break_at_its_end_is_not_kept():
    assert safe_code("code\n") is None


def test_a_key_is_not_kept_for_a_code():
    assert Wire(answering({"error": {"code": KEY, "type": "t"}}, 401)).refused().provider_code != KEY


# --- Whatever comes ---


@cache
def fuzzed() -> Wire:
    return Wire(answering({}), honours_keys=True)


def changed_somewhere(body: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """An answer with some of its values replaced by others."""
    return st.fixed_dictionaries({}, optional={name: json_values | st.just(body[name]) for name in body}).map(
        lambda changed: body | changed
    )


whole_answers = st.sampled_from(list(ANSWERS)).flatmap(lambda api: changed_somewhere(ANSWERS[api]()))
contents = st.binary() | (json_values | whole_answers).map(lambda body: json.dumps(body).encode())
statuses = st.sampled_from([200, 201, 204, 400, 401, 409, 429, 500, 503, 524])


@settings(deadline=None, max_examples=200)
@given(content=contents, status=statuses, api=st.sampled_from(list(ANSWERS)))
def test_whatever_is_answered_a_call_delivers_or_says_why_not(content, status, api):
    wire = fuzzed()
    headers = {"content-type": "application/json"}
    wire.handler = lambda request: httpx2.Response(status, content=content, headers=headers)

    try:
        delivery = wire.call(api)
    except ProviderError as error:
        assert_no_words(error)
        delivery = None

    assert wire.found_out(api) == delivery
