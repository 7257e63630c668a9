"""The Runware adapter over its own HTTP client: only the wire is scripted.

The question behind every error is whether the provider could have done the work, for that decides who pays. A look-up
has one of its own: whether the answer proves anything at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import cache
from typing import Any
from uuid import UUID

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.catalog.pricing import Usage
from billing.jobs.calling import Attempt, Claim, Delivery, Refusal
from billing.jobs.policy import VERDICTS, Failure, Means, Verdict
from billing.migrations.first import seeds
from config.providers import Connection
from tasks.providers.base import ProviderError
from tasks.providers.runware import RunwareProvider, failure_of_code, task_id
from workers import bootstrap

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


# --- What is sent ---


def test_one_task_is_sent_with_exactly_the_claims_params():
    wire = Wire(answering(some_images()))

    wire.call()

    (request,) = wire.requests
    assert (request.method, str(request.url)) == ("POST", URL)
    assert json.loads(request.content) == [
        {
            "taskType": "imageInference",
            "taskUUID": TASK,
            "model": "runware:97@1",
            "positivePrompt": PROMPT,
            "width": 832,
            "height": 1248,
            "numberResults": 4,
            "outputType": "URL",
            "includeCost": True,
            "deliveryMethod": "sync",
        }
    ]


def test_a_call_carries_the_connections_key_and_the_jobs_own():
    wire = Wire(answering(some_images()))

    wire.call()

    (request,) = wire.requests
    assert request.headers.get_list("authorization") == [f"Bearer {KEY}"]
    assert request.headers.get_list("idempotency-key") == [f"creditmill-{JOB}"]
    assert request.extensions["timeout"] == {"connect": 5.0, "read": 30, "write": 30, "pool": 30}


def test_without_an_address_runware_itself_is_called():
    wire = Wire(answering(some_images()), base_url=None)

    wire.call()

    assert str(wire.requests[0].url) == "https://api.runware.ai/v1"


@pytest.mark.parametrize("prompt", ["é 😀", '"\\\n\x01', "a" * 100_000], ids=["other letters", "escapes", "long"])
def test_any_prompt_can_be_sent(prompt):
    wire = Wire(answering(some_images()))

    wire.call(replace(CLAIM, params={**PARAMS, "prompt": prompt}))

    assert json.loads(wire.requests[0].content)[0]["positivePrompt"] == prompt


def test_a_tasks_id_is_a_uuid_v4_that_follows_from_the_attempt_alone():
    one = task_id(Attempt(JOB, 1))

    assert (one.version, one.variant) == (4, UUID(TASK).variant)
    assert one == task_id(replace(CLAIM, attempt=1, model_name="google:4@2", call_id=99))
    assert len({one, task_id(Attempt(JOB, 2)), task_id(Attempt(UUID(OTHER), 1))}) == 3


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"api": "responses"}, "no_adapter"),
        ({"bills_tokens": True}, "no_token_usage"),
        ({"params": {"prompt": PROMPT}}, "no_size"),
    ],
)
def test_what_could_not_be_asked_or_charged_is_refused_before_anything_is_sent(changed, code):
    wire = Wire(answering(some_images()))

    assert wire.refused(replace(CLAIM, **changed)) == Refusal(Failure.NOT_CONFIGURED, provider_code=code)
    assert wire.requests == []


@pytest.mark.parametrize("model", [each for each in seeds.IMAGE_MODELS if each["provider"] == "runware"])
def test_every_size_of_the_catalogues_models_makes_a_valid_task(model):
    wire = Wire(answering(some_images(1)))

    assert model["api"] == "images"
    for size in model["valid_sizes"]:
        params = {"prompt": PROMPT, "n": model["max_images"], "size": size, "quality": "standard"}
        wire.call(replace(CLAIM, model_name=model["model_name"], params=params))

    tasks = [json.loads(request.content)[0] for request in wire.requests]
    assert [f"{task['width']}x{task['height']}" for task in tasks] == model["valid_sizes"]
    assert {task["model"] for task in tasks} == {model["model_name"]}
    # https://runware.ai/docs/image-inference/api-reference: 1 to 20 images, of 128 to 2048 pixels a side.
    assert all(1 <= task["numberResults"] <= 20 for task in tasks)
    assert all(128 <= task[side] <= 2_048 for task in tasks for side in ("width", "height"))


def test_the_worker_can_call_runware():
    assert isinstance(bootstrap.all_providers()["runware"], RunwareProvider)


def test_one_client_serves_every_call():
    provider = RunwareProvider()

    assert provider._client() is provider._client()


def test_a_key_does_not_follow_a_redirect():
    assert RunwareProvider()._client().follow_redirects is False


# --- What is read ---


@pytest.mark.parametrize(("delivered", "finish"), [(4, "stop"), (3, "fewer_images"), (1, "fewer_images")])
def test_images_are_counted_as_delivered(delivered, finish):
    delivery = Wire(answering(some_images(delivered))).call()

    assert delivery == Delivery(
        content={"images": [{"url": f"https://im.runware.example/{n}.jpg"} for n in range(delivered)]},
        usage=Usage(images=delivered),
        raw_usage={"images": delivered, "costs_usd": ["0.0013"] * delivered},
        request_id=TASK,
        finish_reason=finish,
    )


def test_what_was_delivered_beside_an_error_is_delivered():
    body = {**some_images(3), **an_error("inferenceError")}

    assert Wire(answering(body, 400)).call().usage == Usage(images=3)


def test_what_belongs_to_another_task_is_not_delivered():
    body = {"data": [an_image(0, taskUUID=OTHER), an_image(1)]}

    assert Wire(answering(body)).call().content == {"images": [{"url": "https://im.runware.example/1.jpg"}]}


@pytest.mark.parametrize(
    ("cost", "kept"),
    [
        ("0.10000000000000000001", "0.10000000000000000001"),
        ("3e-05", "3e-05"),
        ("0", "0"),
        ("2", "2"),
        ('"0.0013"', "0.0013"),
        ("-1", None),
        ("true", None),
        ("null", None),
        ("NaN", None),
        ("1e9999", None),
        (f'"{PROMPT}"', None),
        ("[1]", None),
    ],
)
def test_a_cost_is_kept_as_it_was_written_if_it_is_an_amount(cost, kept):
    content = json.dumps(some_images(1)).replace("0.0013", cost).encode()

    assert Wire(answering_bytes(content)).call().raw_usage == {"images": 1, "costs_usd": [kept]}


def test_a_paid_image_is_not_lost_over_a_nul_or_a_lone_surrogate():
    body = {"data": [an_image(imageURL="https://x/\x00\ud800")]}

    assert Wire(answering(body)).call().content == {"images": [{"url": "https://x/\ufffd?"}]}


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


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_an_answer_that_proves_nothing_is_an_unknown_outcome(content):
    refusal = Wire(answering_bytes(content)).refused()

    assert (refusal.failure, refusal.http_status) == (Failure.UNREADABLE_ANSWER, 200)
    assert VERDICTS[refusal.failure] is Verdict.UNKNOWN


# --- Errors: could the provider have done the work? ---


@pytest.mark.parametrize(
    ("code", "failure", "rule"),
    [
        ("invalidPositivePrompt", "bad_request", "the request"),
        ("missingPositivePrompt", "bad_request", "the request"),
        ("unsupportedParameter", "bad_request", "the request"),
        ("invalidWidth", "bad_request", "the request"),
        ("valueTooLarge", "bad_request", "the request"),
        ("unknownModel", "bad_request", "no such model"),
        ("modelNotFound", "bad_request", "no such model"),
        ("contentPolicyViolation", "content_policy", "the policy"),
        ("providerContentPolicyViolation", "content_policy", "the policy of the server behind Runware"),
        ("invalidProviderContent", "content_policy", "the policy of the server behind Runware"),
        ("nsfwContentDetected", "content_policy", "the policy"),
        ("promptBlocked", "content_policy", "the policy"),
        ("invalidApiKey", "bad_credentials", "our key; not an invalid request"),
        ("unauthorized", "bad_credentials", "our key"),
        ("authTimeout", "bad_credentials", "before any work; not a timeout of it"),
        ("accountSuspended", "bad_credentials", "our account"),
        ("insufficientCredits", "quota_exhausted", "our balance"),
        ("providerInsufficientCredits", "quota_exhausted", "their balance"),
        ("quotaExceeded", "quota_exhausted", "our quota"),
        ("paymentRequired", "quota_exhausted", "our balance"),
        ("rateLimitExceeded", "rate_limited", "too many requests"),
        ("providerRateLimitExceeded", "rate_limited", "too many requests"),
        ("serviceUnavailable", "overloaded", "their load"),
        ("noAvailableServer", "overloaded", "their load"),
        ("internalServerError", "server_error", "their error"),
        ("inferenceError", "server_error", "the task failed"),
        ("taskFailed", "server_error", "the task failed"),
        ("timeoutProvider", "timed_out", "they gave up waiting; the server behind may have gone on"),
        ("providerGatewayTimeout", "timed_out", "they gave up waiting"),
        ("conflictTaskUUID", "unreadable_answer", "an earlier copy of this very task arrived"),
        ("uploadFailed", "unreadable_answer", "made, and lost on the way"),
        ("unrecognizedResponse", "unreadable_answer", "somebody answered Runware"),
        ("providerBadGateway", "unreadable_answer", "a gateway knows nothing"),
    ],
)
@pytest.mark.parametrize("status", [200, 400, 500])
def test_a_code_says_more_than_the_status(code, failure, rule, status):
    assert Wire(answering(an_error(code), status)).refused() == Refusal(
        Failure(failure), http_status=status, provider_code=code, request_id=TASK
    ), rule


@pytest.mark.parametrize("code", ["unknownError", "invalidProviderResponse", "providerUnknownError", "", None])
def test_a_code_that_proves_nothing_is_not_known(code):
    assert failure_of_code(code) is None


@pytest.mark.parametrize(
    ("status", "failure", "rule"),
    [
        (400, "bad_request", "the request"),
        (401, "bad_credentials", "our key"),
        (402, "quota_exhausted", "our balance"),
        (403, "bad_credentials", "our rights"),
        (404, "bad_request", "no such thing"),
        (409, "unreadable_answer", "the task is there already"),
        (429, "rate_limited", "too many requests"),
        (500, "server_error", "their error, in their form"),
        (503, "overloaded", "their load"),
        (504, "timed_out", "a gateway gave up waiting"),
        (302, "not_configured", "the address is another; a key does not follow"),
    ],
)
@pytest.mark.parametrize("code", ["somethingNew", SPOKEN, WORDS, {"a": PROMPT}, None, 7])
def test_an_error_with_another_code_is_sorted_by_its_status(status, code, failure, rule):
    kept = code if code == "somethingNew" else None

    wire = Wire(answering(an_error(code), status, location="https://elsewhere.example/"))

    assert wire.refused() == Refusal(Failure(failure), status, kept, request_id=TASK), rule
    assert len(wire.requests) == 1


@pytest.mark.parametrize(
    ("status", "failure"),
    [
        (400, "bad_request"),
        (429, "rate_limited"),
        (503, "overloaded"),
        (500, "unreadable_answer"),
        (502, "unreadable_answer"),
        (520, "unreadable_answer"),
        (524, "unreadable_answer"),
    ],
)
def test_a_gateways_error_proves_nothing_of_the_task(status, failure):
    assert Wire(answering_bytes(b"<html>Bad gateway</html>", status)).refused().failure == failure


def test_an_error_that_names_no_task_is_ours_for_we_send_one_at_a_time():
    body = {"errors": [{"code": "invalidApiKey", "message": SPOKEN, "taskType": "authentication"}]}

    assert Wire(answering(body, 401)).refused().provider_code == "invalidApiKey"


def test_the_providers_wish_to_be_left_alone_is_read():
    wire = Wire(answering(an_error("rateLimitExceeded"), 429, **{"retry-after": "3"}))

    assert wire.refused().retry_after == timedelta(seconds=3)


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
    wire = Wire(breaking(error(SPOKEN)))

    assert wire.refused() == Refusal(Failure(failure), request_id=TASK), rule
    assert len(wire.requests) == 1


@pytest.mark.parametrize(("key", "url"), [("rw-ключ", URL), (KEY, "http://[::1"), (KEY, "https://x.example/\x00")])
def test_a_connection_that_is_none_is_no_configuration_and_nothing_is_sent(key, url):
    wire = Wire(answering(some_images()), key=key, base_url=url)

    assert wire.refused() == Refusal(Failure.NOT_CONFIGURED, provider_code="invalid_connection")
    assert wire.found_out() is None
    assert wire.requests == []


# --- What became of a lost call ---


def test_a_lost_call_is_looked_up_over_any_connection():
    assert RunwareProvider().means(Connection("runware", KEY, None)) is Means.LOOK_UP
    assert RunwareProvider().means(Connection("runware", KEY, URL, honours_keys=True)) is Means.LOOK_UP


def test_a_look_up_asks_for_the_task_of_the_attempt_and_does_nothing():
    wire = Wire(answering(details(some_images())))

    wire.found_out()

    (request,) = wire.requests
    assert (request.method, str(request.url)) == ("POST", URL)
    assert json.loads(request.content) == [{"taskType": "getTaskDetails", "taskUUID": TASK}]
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert "idempotency-key" not in request.headers


@pytest.mark.parametrize("count", [4, 3])
def test_what_was_done_is_delivered_as_the_call_would_have_delivered_it(count):
    called = Wire(answering(some_images(count))).call()

    assert Wire(answering(details(some_images(count)))).found_out() == called


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        ("contentPolicyViolation", Failure.CONTENT_POLICY),
        ("invalidWidth", Failure.BAD_REQUEST),
        ("inferenceError", Failure.SERVER_ERROR),
        ("insufficientCredits", Failure.QUOTA_EXHAUSTED),
    ],
)
def test_a_task_that_failed_is_known_not_to_have_been_done(code, failure):
    with pytest.raises(ProviderError) as caught:
        Wire(answering(details(an_error(code)))).found_out()

    assert caught.value.refusal == Refusal(failure, provider_code=code, request_id=TASK)
    assert_no_words(caught.value)


@pytest.mark.parametrize(
    "code",
    ["timeoutProvider", "conflictTaskUUID", "uploadFailed", "somethingNew", SPOKEN, WORDS, None, 7, {"a": PROMPT}],
)
def test_a_task_that_failed_so_that_it_may_have_been_done_is_not_known(code):
    assert Wire(answering(details(an_error(code)))).found_out() is None


@pytest.mark.parametrize("code", ["timeoutProvider", "somethingNew"])
def test_one_error_that_proves_nothing_is_enough_not_to_know(code):
    errors = [*an_error("inferenceError")["errors"], *an_error(code)["errors"]]

    assert Wire(answering(details({"errors": errors}))).found_out() is None


def test_images_beside_an_error_are_delivered():
    told = Wire(answering(details({**some_images(2), **an_error("inferenceError")}))).found_out()

    assert told is not None
    assert told.usage == Usage(images=2)


@pytest.mark.parametrize("code", ["taskNotFound", "invalidApiKey", "contentPolicyViolation", "internalServerError"])
@pytest.mark.parametrize("status", [200, 400, 401, 404, 500])
def test_a_look_up_that_is_refused_says_nothing_of_the_task(code, status):
    assert Wire(answering(an_error(code), status)).found_out() is None


PROVES_NOTHING = {
    "no such task": {"data": []},
    "another task": details(some_images(), taskUUID=OTHER),
    "another kind of task": details(some_images(), taskType="getResponse"),
    "two of it": {"data": details(some_images())["data"] * 2},
    "the images themselves": some_images(),
    "no answer yet": details(None),
    "an empty answer": details({}),
    "an answer of no form": details([an_image()]),
    "no result": details({"data": []}),
    "in progress": details({"data": [an_image(imageURL=None, status="processing")]}),
    "in progress, partly": details({"data": [an_image(0), an_image(1, imageURL=None, status="processing")]}),
    "without an image": details({"data": [an_image(imageURL=None)]}),
    "without an image, beside an error": details({"data": [an_image(imageURL=None)], **an_error("inferenceError")}),
    "images of another task": details({"data": [an_image(taskUUID=OTHER)]}),
    "errors of another task": details(an_error("inferenceError", taskUUID=OTHER)),
}


@pytest.mark.parametrize("body", PROVES_NOTHING.values(), ids=PROVES_NOTHING.keys())
def test_an_answer_to_a_look_up_that_proves_nothing_is_none(body):
    assert Wire(answering(body)).found_out() is None


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE.keys())
@pytest.mark.parametrize("status", [200, 404, 502])
def test_an_answer_to_a_look_up_that_cannot_be_read_is_none(content, status):
    assert Wire(answering_bytes(content, status)).found_out() is None


@pytest.mark.parametrize("status", [201, 302, 400, 500])
def test_an_answer_to_a_look_up_counts_only_when_it_is_one(status):
    assert Wire(answering(details(some_images()), status)).found_out() is None


@pytest.mark.parametrize(
    "error",
    [
        httpx2.ConnectError,
        httpx2.ConnectTimeout,
        httpx2.ReadTimeout,
        httpx2.ReadError,
        httpx2.RemoteProtocolError,
        httpx2.DecodingError,
        httpx2.UnsupportedProtocol,
    ],
)
def test_a_network_that_fails_during_a_look_up_is_none(error):
    assert Wire(breaking(error(SPOKEN))).found_out() is None


# --- Whatever comes ---


@cache
def fuzzed() -> Wire:
    return Wire(answering({}))


texts = st.text(st.characters(codec=None, exclude_categories=()))
leaves = st.none() | st.booleans() | st.integers() | st.floats() | texts | st.sampled_from([TASK, "processing", "cost"])
names = st.sampled_from(["data", "errors", "taskUUID", "taskType", "response", "imageURL", "code", "cost", "status"])
anything = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=6), max_leaves=12
)
results = st.builds(
    an_image, imageURL=leaves | st.just("https://x"), cost=leaves, status=leaves, taskUUID=st.sampled_from([TASK, 1])
)
errors = st.builds(lambda code: an_error(code)["errors"][0], leaves | st.sampled_from(["inferenceError", "timeout"]))
envelopes = st.fixed_dictionaries(
    {}, optional={"data": anything | st.lists(results, max_size=3), "errors": anything | st.lists(errors, max_size=2)}
)
bodies = anything | envelopes | st.builds(details, envelopes | anything)
contents = st.binary() | bodies.map(lambda body: json.dumps(body).encode())
statuses = st.sampled_from([200, 201, 204, 301, 400, 401, 409, 429, 500, 503, 524])


def outcome(ask: Callable[[], Delivery | None]) -> Delivery | ProviderError | None:
    try:
        return ask()
    except ProviderError as error:
        assert_no_words(error)
        return error


@settings(deadline=None, max_examples=400)
@given(content=contents, status=statuses)
def test_whatever_is_answered_a_call_delivers_or_says_why_not(content, status):
    wire = fuzzed()
    wire.handler = answering_bytes(content, status)

    told = outcome(wire.call)
    assert told is not None
    if isinstance(told, Delivery):
        assert told.usage.images == len(told.content["images"]) > 0
        json.dumps([told.content, told.raw_usage], ensure_ascii=False, allow_nan=False).encode()


@settings(deadline=None, max_examples=400)
@given(content=contents, status=statuses)
def test_whatever_is_answered_a_look_up_delivers_or_knows_nothing_unless_the_task_failed(content, status):
    wire = fuzzed()
    wire.handler = answering_bytes(content, status)

    told = outcome(wire.found_out)
    if isinstance(told, Delivery):
        assert told.usage.images == len(told.content["images"]) > 0
    elif told is not None:
        assert VERDICTS[told.refusal.failure] is not Verdict.UNKNOWN
        kept = json.loads(content)["data"][0]["response"]
        results = kept.get("data") if isinstance(kept.get("data"), list) else []
        assert kept["errors"]
        assert not [item for item in results if isinstance(item, dict) and item.get("taskUUID") == TASK]
