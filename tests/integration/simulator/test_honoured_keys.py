"""Keys that are honoured, through our own adapter of OpenAI: one key is executed once."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from billing.catalog.usage import Usage
from billing.jobs.calling import Claim
from billing.jobs.policy import VERDICTS, Failure, Verdict
from tests.integration.simulator.callers import LOST, Caller, openai, work
from tests.integration.simulator.running import PROMPT
from workers.simulator.journal import read_journal


@pytest.fixture(scope="module")
def options() -> tuple[str, ...]:
    return ("--honour-keys",)


def without_a_fault(claim: Claim, caller: Caller) -> Claim:
    """Another claim like this, whose call is not lost."""
    return caller.claim(claim.params["prompt"].partition(" [[")[0], api=claim.api)


@pytest.mark.parametrize("api", ["responses", "chat_completions", "images"])
@pytest.mark.parametrize("fault", LOST)
def test_an_unknown_call_is_sent_again_and_answered_without_a_second_execution(simulator, fault, api):
    caller = openai(simulator)
    claim = caller.claim(f"{PROMPT} [[simulate: {fault}]]", api=api)

    assert VERDICTS[caller.refused(claim).failure] is Verdict.UNKNOWN

    found = caller.found_out(claim)
    assert list(found.content) == list(caller.call(without_a_fault(claim, caller)).content)
    assert work(caller.found_out(claim)) == work(found)
    assert len(caller.executed(claim)) == 1
    assert simulator.events(claim.idempotency_key)[-2:] == ["received", "answered"]


def test_lost_embeddings_are_sent_again_without_a_second_execution(simulator):
    caller = openai(simulator)
    claim = caller.claim(f"{PROMPT} [[simulate: malformed_body]]", api="embeddings")

    assert caller.refused(claim).failure is Failure.UNREADABLE_ANSWER

    assert len(caller.found_out(claim).content["embeddings"]) == 1
    assert len(caller.executed(claim)) == 1


def test_an_answer_comes_again_as_it_was(simulator):
    caller = openai(simulator)
    claim = caller.claim(api="responses")

    assert work(caller.call(claim)) == work(caller.found_out(claim))
    assert len(caller.executed(claim)) == 1


def test_fewer_images_stay_as_few(simulator):
    caller = openai(simulator)
    claim = caller.claim(f"{PROMPT} [[simulate: fewer_images]]")

    assert work(caller.call(claim)) == work(caller.found_out(claim))
    assert caller.executed(claim) == [2]


def test_a_key_that_is_being_worked_on_is_refused_and_then_answered(simulator):
    caller = openai(simulator)
    claim = caller.claim(f"{PROMPT} [[simulate: latency 1]]")
    thread = caller.in_flight(claim)

    assert (caller.refused(claim).http_status, caller.found_out(claim)) == (409, None)

    thread.join(20)
    assert caller.found_out(claim).usage == Usage(images=3)
    assert caller.executed(claim) == [3]


def test_of_many_requests_under_one_key_one_is_executed(simulator):
    caller = openai(simulator)
    claim = caller.claim(f"{PROMPT} [[simulate: latency 0.1]]")

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: caller.found_out(claim), range(24)))

    last = caller.found_out(claim)
    assert last is not None
    assert all(work(delivery) in (None, work(last)) for delivery in found)
    assert caller.executed(claim) == [3]


def test_another_body_under_the_same_key_is_refused(simulator):
    caller = openai(simulator)
    claim = caller.claim()
    caller.call(claim)

    refusal = caller.refused(caller.claim("Another garden.", job_id=claim.job_id))

    assert (refusal.http_status, refusal.provider_code) == (422, "idempotency_key_in_use")
    assert caller.executed(claim) == [3]


@pytest.mark.parametrize("fault", ["rate_limit", "server_error", "content_policy"])
def test_a_refusal_is_not_remembered(simulator, fault):
    caller = openai(simulator)
    claim = caller.claim(f"{PROMPT} [[simulate: {fault} x1]]")
    caller.refused(claim)

    assert caller.call(claim).usage == Usage(images=3)
    assert caller.executed(claim) == [3]


@pytest.mark.parametrize("fault", ["hang_before_accept", "reset_before_accept"])
def test_what_was_lost_before_it_was_accepted_is_done_once_by_finding_out(simulator, fault):
    caller = openai(simulator)
    claim = caller.claim(f"{PROMPT} [[simulate: {fault} x1]]")
    caller.refused(claim)

    assert caller.found_out(claim).usage == Usage(images=3)
    assert caller.executed(claim) == [3]


def test_a_request_without_a_key_is_always_executed(start):
    running = start("--honour-keys")
    body = json.dumps({"model": "gpt-4o", "input": PROMPT}).encode()

    assert [running.http("POST", "/v1/responses", body)[0] for _ in range(2)] == [200, 200]
    assert [entry.event for entry in read_journal(running.journal_path)].count("executed") == 2


def test_what_is_answered_again_uses_up_no_scripted_fault(simulator):
    caller = openai(simulator)
    claim = caller.claim(f"{PROMPT} {uuid4()}")
    delivery = caller.call(claim)
    script = {"faults": [{"fault": "overloaded", "match": claim.params["prompt"]}]}
    simulator.http("POST", "/simulator/faults", json.dumps(script).encode())

    assert work(caller.found_out(claim)) == work(delivery)

    assert len(simulator.http("GET", "/simulator/faults")[1]["scripted"]) == 1
    simulator.http("DELETE", "/simulator/faults")


def test_a_key_that_was_executed_before_a_restart_is_never_executed_again(start):
    before = openai(start("--honour-keys"))
    claim = before.claim()
    before.call(claim)
    before.running.stop()

    after = openai(start("--honour-keys"))

    assert (after.refused(claim).http_status, after.found_out(claim)) == (409, None)
    assert after.executed(claim) == [3]
    assert after.call(after.claim()).usage == Usage(images=3)


def test_without_the_option_every_request_is_executed_after_a_restart_too(start):
    before = openai(start())
    claim = before.claim()
    before.call(claim)
    before.call(claim)
    before.running.stop()

    after = openai(start())
    after.call(claim)

    assert after.executed(claim) == [3, 3, 3]
