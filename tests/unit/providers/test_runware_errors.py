"""The Runware adapter's errors over its own HTTP client: only the wire is scripted.

The question behind every error is whether the provider could have done the work, for that decides who pays.
"""

from __future__ import annotations

from datetime import timedelta

import httpx2
import pytest

from billing.jobs.calling import Refusal
from billing.jobs.policy import Failure
from tasks.providers.runware import failure_of_code
from tests.unit.providers.runware_wire import (
    KEY,
    PROMPT,
    SPOKEN,
    TASK,
    URL,
    WORDS,
    Wire,
    an_error,
    answering,
    answering_bytes,
    breaking,
    some_images,
)


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
        ("conflictTaskUUID", "conflict", "an earlier copy of this very task arrived"),
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
        (408, "timed_out", "a gateway gave up waiting"),
        (409, "conflict", "the task is there already"),
        (418, "unreadable_answer", "a status that nobody defined proves nothing"),
        (429, "rate_limited", "too many requests"),
        (500, "server_error", "their error, in their form"),
        (502, "gateway_error", "their gateway"),
        (503, "overloaded", "their load"),
        (504, "timed_out", "a gateway gave up waiting"),
        (525, "unreachable", "no connection to them"),
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
        (500, "gateway_error"),
        (502, "gateway_error"),
        (520, "gateway_error"),
        (524, "timed_out"),
        (521, "unreachable"),
        (599, "unreadable_answer"),
    ],
)
def test_a_gateways_error_proves_nothing_of_the_task(status, failure):
    assert Wire(answering_bytes(b"<html>Bad gateway</html>", status)).refused().failure == failure


@pytest.mark.parametrize("code", ["insufficientCredits", "contentPolicyViolation", "rateLimitExceeded"])
@pytest.mark.parametrize(("status", "failure"), [(409, "conflict"), (502, "gateway_error"), (504, "timed_out")])
def test_a_code_does_not_prove_that_nothing_was_done_where_the_status_leaves_that_open(code, status, failure):
    assert Wire(answering(an_error(code), status)).refused() == Refusal(Failure(failure), status, code, request_id=TASK)


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
        (httpx2.ProxyError, "unreachable", "the proxy did not connect us: nothing was sent"),
        (httpx2.DecodingError, "unreadable_answer", "an answer that cannot be unpacked"),
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
