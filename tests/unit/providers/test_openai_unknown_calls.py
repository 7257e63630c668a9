"""Unknown calls of the OpenAI adapter: they can be resolved only where the server does the work of one key once."""

from __future__ import annotations

import httpx2
import pytest

from billing.jobs.policy import Means
from config.providers import Connection
from tasks.providers.openai import OpenAIProvider
from tests.unit.providers.openai_wire import (
    ANSWERS,
    BROKEN_BODIES,
    KEY,
    SPOKEN,
    URL,
    Wire,
    a_response,
    answering,
    answering_bytes,
    breaking,
)


@pytest.mark.parametrize(("honours_keys", "means"), [(True, Means.RESEND), (False, Means.WAIT)])
def test_an_unknown_call_is_sent_again_only_where_the_server_does_one_key_once(honours_keys, means):
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
