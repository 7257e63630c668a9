"""What each status proves, through real HTTP answers and both adapters; and no key goes where it was not set for."""

from __future__ import annotations

import json
from datetime import timedelta
from threading import Lock

import pytest

from billing.jobs.policy import VERDICTS, Failure, Verdict
from tasks.providers.wire import STATUSES, failure_of_status
from tests.integration.providers.callers import KEY, both, openai, runware
from tests.integration.providers.loopback import Line, answer, serving

UNDEFINED = (418, 444, 460, 494, 507, 508, 511, 527, 561, 599, 600, 999)
BODIES = {
    "the provider's own form": lambda provider: json.dumps(FORMS[provider]).encode(),
    "a page of a gateway": lambda _: b"<html><h1>Gateway</h1></html>",
    "nothing": lambda _: b"",
}
FORMS = {
    "openai": {"error": {"message": "No.", "type": "some_type", "code": None}},
    "runware": {"errors": [{"code": "somethingNew", "message": "No."}]},
}


@both
@pytest.mark.parametrize("form", BODIES)
def test_every_status_is_sorted_by_what_it_proves(make, form):
    caller = make()
    provider = caller.claim.provider
    statuses = [*sorted(STATUSES), *UNDEFINED]
    left, lock = list(statuses), Lock()

    def answers_with_the_next(line: Line) -> None:
        line.request()
        with lock:
            status = left.pop(0)
        line.send(answer(status, BODIES[form](provider), location="http://127.0.0.1:9/"))

    with serving(answers_with_the_next) as server:
        found = {status: caller.refused(f"http://{server.address}/v1") for status in statuses}

    expected = {status: failure_of_status(status) for status in statuses}
    if provider == "runware" and form != "the provider's own form":
        expected[500] = Failure.GATEWAY_ERROR
    assert {status: refusal.failure for status, refusal in found.items()} == expected
    assert {refusal.http_status == status for status, refusal in found.items()} == {True}
    # One request each: whatever is tried again is tried again by whoever counts the tries.
    assert len(server.lines) == len(statuses)


@both
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_neither_the_key_nor_the_request_follows_a_redirect(make, status):
    received: list[bytes] = []

    with serving(lambda line: received.append(line.request())) as elsewhere:
        moved = answer(status, b"", location=f"http://{elsewhere.address}/v1")
        with serving(lambda line: received.append(line.request()) or line.send(moved)) as server:
            refusal = make().refused(f"http://{server.address}/v1")

    assert (refusal.failure, refusal.http_status) == (Failure.NOT_CONFIGURED, status)
    assert [KEY.encode() in request for request in received] == [True]


@both
@pytest.mark.parametrize(
    ("headers", "seconds", "rule"),
    [
        ({"retry_after": "7"},                                              7,     "seconds"),
        ({"retry_after_ms": "1500", "retry_after": "2"},                    1.5,   "milliseconds"),
        ({"retry_after": "Fri, 20 Nov 2026 12:00:07 GMT"},                  7,     "a date"),
        ({"retry_after": "Friday, 20-Nov-26 12:00:07 GMT"},                 7,     "a date of RFC 850"),
        ({"retry_after": "Fri Nov 20 12:00:07 2026"},                       7,     "a date of asctime"),
        ({"X_RateLimit_Reset_Requests": "1s", "X_RateLimit_Reset_Tokens": "6m0s"},
                                                                            360,   "the longer window"),
        ({"x_ratelimit_reset": "1795176007000"},                            7,     "milliseconds since 1970"),
        ({"anthropic_ratelimit_tokens_reset": "2026-11-20T12:00:07Z"},      7,     "a date of RFC 3339"),
        ({"retry_after": "soon"},                                           None,  "rubbish"),
    ],
)  # fmt: skip
def test_a_wait_that_is_asked_for_in_a_header_is_kept(make, headers, seconds, rule):
    limited = answer(429, b"{}", date="Fri, 20 Nov 2026 12:00:00 GMT", **headers)

    with serving(lambda line: line.request() and line.send(limited)) as server:
        refusal = make().refused(f"http://{server.address}/v1")

    assert refusal.retry_after == (None if seconds is None else timedelta(seconds=seconds)), rule


@pytest.mark.parametrize("make", [openai, runware])
def test_a_promise_of_an_answer_is_no_answer(make):
    caller = make()

    def promises_and_answers(line: Line) -> None:
        line.request()
        line.send(b"HTTP/1.1 102 Processing\r\n\r\n" * 3 + answer(200, caller.body))

    with serving(promises_and_answers) as server:
        assert caller.call(f"http://{server.address}/v1").content


@both
def test_an_answer_of_another_protocol_leaves_the_outcome_open(make):
    switched = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: Upgrade\r\n\r\n"

    with serving(lambda line: line.request() and line.send(switched)) as server:
        assert VERDICTS[make().refused(f"http://{server.address}/v1").failure] is Verdict.UNKNOWN
