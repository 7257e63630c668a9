"""The simulated Runware through our own adapter: what is lost on the way, and what resolves it.

The simulator's journal is the truth of what was executed; the adapter only knows what came over the wire.
"""

from __future__ import annotations

import json

import pytest

from billing.catalog.usage import Usage
from billing.jobs.policy import VERDICTS, Failure, Verdict
from tasks.providers.base import ProviderError
from tasks.providers.runware import task_id
from tests.integration.simulator.callers import LOST, REFUSED, posted, runware
from tests.integration.simulator.running import PROMPT, wait_until
from workers.simulator.journal import read_journal


@pytest.fixture(scope="module")
def options() -> tuple[str, ...]:
    return ("--honour-keys",)


@pytest.mark.parametrize("fault", LOST)
def test_what_was_executed_and_lost_is_found_out_and_not_executed_again(simulator, fault):
    caller = runware(simulator)
    claim = caller.claim(f"{PROMPT} [[simulate: {fault}]]")

    refusal = caller.refused(claim)

    assert (refusal.failure, refusal.http_status, refusal.provider_code) == LOST[fault]
    assert VERDICTS[refusal.failure] is Verdict.UNKNOWN
    found = caller.found_out(claim)
    assert found.usage == Usage(images=3)
    assert len(found.content["images"]) == 3
    assert caller.found_out(claim) == found
    assert caller.executed(claim) == [3]


def test_a_call_that_took_too_long_is_found_out(simulator):
    caller = runware(simulator)
    claim = caller.claim(f"{PROMPT} [[simulate: latency 0.6]]")

    assert caller.refused(claim, timeout_s=0.2).failure is Failure.TIMED_OUT

    assert caller.found_out(claim) is None
    wait_until(lambda: caller.executed(claim) == [3])
    assert caller.found_out(claim).usage == Usage(images=3)
    assert caller.executed(claim) == [3]


@pytest.mark.parametrize("fault", ["hang_before_accept", "reset_before_accept"])
def test_what_was_lost_before_it_was_accepted_is_not_known(simulator, fault):
    caller = runware(simulator)
    claim = caller.claim(f"{PROMPT} [[simulate: {fault}]]")

    assert VERDICTS[caller.refused(claim).failure] is Verdict.UNKNOWN

    assert caller.found_out(claim) is None
    assert caller.executed(claim) == []


def test_a_task_that_was_never_sent_is_not_known(simulator):
    caller = runware(simulator)

    assert caller.found_out(caller.claim()) is None


def test_another_attempt_of_the_same_job_is_not_known(simulator):
    caller = runware(simulator)
    claim = caller.claim()
    caller.call(claim)

    assert caller.found_out(caller.claim(attempt=2, job_id=claim.job_id)) is None


def test_a_task_in_progress_is_not_known_yet(simulator):
    caller = runware(simulator)
    claim = caller.claim(f"{PROMPT} [[simulate: latency 1]]")
    thread = caller.in_flight(claim)

    _, looked_up = posted(simulator, [{"taskType": "getTaskDetails", "taskUUID": str(task_id(claim))}])
    assert [each["status"] for each in looked_up["data"][0]["response"]["data"]] == ["processing"]
    assert caller.found_out(claim) is None
    assert caller.refused(claim).provider_code == "conflictTaskUUID"

    thread.join(20)
    assert caller.executed(claim) == [3]
    assert caller.found_out(claim).usage == Usage(images=3)


@pytest.mark.parametrize("fault", ["content_policy", "bad_request", "server_error"])
def test_a_task_that_failed_is_known_not_to_have_been_executed(simulator, fault):
    caller = runware(simulator)
    claim = caller.claim(f"{PROMPT} [[simulate: {fault}]]")
    called = caller.refused(claim)

    with pytest.raises(ProviderError) as caught:
        caller.found_out(claim)

    assert (caught.value.refusal.failure, caught.value.refusal.provider_code) == (called.failure, called.provider_code)
    assert "garden" not in f"{caught.value!r} {caught.value.refusal!r}"


@pytest.mark.parametrize("fault", ["rate_limit", "overloaded", "insufficient_quota"])
def test_what_was_turned_away_at_the_door_never_became_a_task(simulator, fault):
    caller = runware(simulator)
    claim = caller.claim(f"{PROMPT} [[simulate: {fault}]]")
    caller.refused(claim)

    assert caller.found_out(claim) is None


@pytest.mark.parametrize("fault", sorted({*REFUSED, *LOST}))
def test_a_look_up_that_fails_itself_says_nothing(simulator, fault):
    caller = runware(simulator)
    claim = caller.claim()
    delivery = caller.call(claim)
    script = {"faults": [{"fault": fault, "match": str(task_id(claim))}]}
    simulator.http("POST", "/simulator/faults", json.dumps(script).encode())

    assert caller.found_out(claim) is None

    assert caller.found_out(claim) == delivery
    assert caller.executed(claim) == [3]


def test_a_look_up_is_journalled_without_a_key_and_executes_nothing(simulator):
    caller = runware(simulator)
    claim = caller.claim()
    caller.call(claim)
    caller.found_out(claim)

    entries = [entry for entry in read_journal(simulator.journal_path) if entry.request_id == str(task_id(claim))]
    looked_up = [entry for entry in entries if entry.endpoint == "getTaskDetails"]

    assert [(entry.event, entry.idempotency_key) for entry in looked_up] == [("received", None), ("answered", None)]
    assert simulator.events(claim.idempotency_key) == ["received", "executed", "answered"]


def test_what_was_executed_is_known_after_a_restart(start):
    before = runware(start())
    claim = before.claim(f"{PROMPT} [[simulate: hang_after_accept]]")
    before.refused(claim)
    found = before.found_out(claim)
    before.running.stop()

    after = runware(start())
    found_again = after.found_out(claim)

    paths = [[image["url"].rpartition("/")[2] for image in each.content["images"]] for each in (found, found_again)]
    assert paths[0] == paths[1]
    assert found_again.usage == Usage(images=3)
    assert after.refused(claim).provider_code == "conflictTaskUUID"
    assert after.executed(claim) == [3]
