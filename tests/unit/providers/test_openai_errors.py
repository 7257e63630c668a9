"""The OpenAI adapter's errors over the real SDK: only the wire is scripted.

The question behind every error is whether the provider could have done the work, for that decides who pays.
"""

from __future__ import annotations

from datetime import timedelta

import httpx2
import openai
import pytest

from billing.jobs.calling import Refusal
from billing.jobs.policy import VERDICTS, Failure, Verdict
from config.providers import Connection
from tasks.providers.base import ProviderError
from tasks.providers.openai import OpenAIProvider, refusal_of
from tests.unit.providers.openai_wire import (
    ANSWERS,
    KEY,
    PROMPT,
    SPOKEN,
    URL,
    Wire,
    a_claim,
    a_response,
    answering,
    assert_no_words,
    breaking,
)

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
        (402, None, "quota_exhausted", "our quota"),
        (408, None, "timed_out", "their gateway gave up; the model may have gone on"),
        (409, None, "conflict", "an earlier copy of this request may be at work"),
        (413, None, "bad_request", "too large"),
        (418, None, "unreadable_answer", "a status that nobody defined proves nothing"),
        (422, None, "bad_request", "not processable"),
        (425, None, "overloaded", "refused at the door"),
        (429, None, "rate_limited", "too many requests"),
        (429, "rate_limit_exceeded", "rate_limited", "too many requests"),
        (429, "insufficient_quota", "quota_exhausted", "never again, until somebody pays"),
        (451, None, "content_policy", "for legal reasons"),
        (499, None, "gateway_error", "given up in the middle"),
        (500, None, "server_error", "their error"),
        (500, "content_filter", "content_policy", "a code says more than the status"),
        (502, None, "gateway_error", "their gateway; the server behind it may have done the work"),
        (502, "content_policy_violation", "gateway_error", "a code does not undo what may have been done"),
        (503, None, "overloaded", "their load"),
        (504, None, "timed_out", "their gateway gave up; the server may have gone on"),
        (504, "insufficient_quota", "timed_out", "a code does not undo what may have been done"),
        (524, None, "timed_out", "Cloudflare gave up waiting"),
        (525, None, "unreachable", "Cloudflare had no connection to them"),
        (529, None, "overloaded", "their load"),
        (302, None, "not_configured", "the address is another; a key does not follow"),
    ],
)
def test_a_status_is_sorted_by_what_it_proves(status, code, failure, rule):
    body = {"error": {"message": SPOKEN, "type": "some_type", "param": PROMPT, "code": code}}

    assert Wire(answering(body, status)).refused() == Refusal(
        Failure(failure), http_status=status, provider_code=code or "some_type", request_id="req_1"
    ), rule


@pytest.mark.parametrize(
    ("error_class", "status", "failure"),
    [
        (openai.BadRequestError, 400, Failure.BAD_REQUEST),
        (openai.AuthenticationError, 401, Failure.BAD_CREDENTIALS),
        (openai.PermissionDeniedError, 403, Failure.BAD_CREDENTIALS),
        (openai.NotFoundError, 404, Failure.BAD_REQUEST),
        (openai.ConflictError, 409, Failure.CONFLICT),
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
        (httpx2.ProxyError, "unreachable", "the proxy did not connect us: nothing was sent"),
        (httpx2.DecodingError, "unreadable_answer", "an answer that cannot be unpacked"),
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


# --- What PostgreSQL can keep ---


def test_a_key_is_not_kept_for_a_code():
    assert Wire(answering({"error": {"code": KEY, "type": "t"}}, 401)).refused().provider_code != KEY


# --- How long the provider asks to wait ---


@pytest.mark.parametrize(("status", "seconds"), [(429, 3), (500, 3), (503, 3), (525, 3), (400, None), (502, None)])
def test_the_providers_wish_is_kept_where_the_call_is_tried_again(status, seconds):
    refusal = Wire(answering({"error": {}}, status, **{"retry-after": "3"})).refused()

    assert refusal.retry_after == (None if seconds is None else timedelta(seconds=seconds))


def test_a_date_is_compared_with_the_answers_own():
    headers = {"date": "Fri, 20 Nov 2026 11:59:58 GMT", "retry-after": "Fri, 20 Nov 2026 12:00:00 GMT"}

    assert Wire(answering({"error": {}}, 429, **headers)).refused().retry_after == timedelta(seconds=2)
