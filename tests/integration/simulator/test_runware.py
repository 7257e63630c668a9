"""The simulated Runware through our own adapter: what it delivers and refuses, and what the journal says of it."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import httpx2
import pytest

from billing.catalog.usage import Usage
from billing.jobs.policy import VERDICTS, Failure, Verdict
from tasks.providers.base import ProviderError
from tasks.providers.runware import task_id
from tests.integration.simulator.callers import LOST, REFUSED, posted, runware
from tests.integration.simulator.running import PROMPT
from workers.simulator.faults import FAULTS
from workers.simulator.journal import read_journal

DELIVERED = {"missing_usage", "model_refusal", "fewer_images", "slow"}


@pytest.fixture(scope="module")
def options() -> tuple[str, ...]:
    return ("--honour-keys",)


def a_task(**changed: Any) -> dict[str, Any]:
    return {
        "taskType": "imageInference",
        "taskUUID": str(uuid4()),
        "model": "runware:97@1",
        "positivePrompt": PROMPT,
        "width": 1024,
        "height": 1024,
        **changed,
    }


def test_images_are_delivered_as_executed(simulator):
    caller = runware(simulator)
    claim = caller.claim()

    delivery = caller.call(claim)

    assert delivery.usage == Usage(images=3)
    assert delivery.raw_usage == {"images": 3, "costs_usd": ["0.0038"] * 3}
    assert len({image["url"] for image in delivery.content["images"]}) == 3
    assert httpx2.get(delivery.content["images"][0]["url"]).content.startswith(b"\x89PNG")
    assert simulator.events(claim.idempotency_key) == ["received", "executed", "answered"]
    executed = simulator.journal(claim.idempotency_key)[1]
    assert (executed.images, executed.endpoint, executed.model) == (3, "imageInference", "runware:97@1")
    assert executed.request_id == delivery.request_id == str(task_id(claim))


def test_every_fault_is_covered_here():
    assert set(FAULTS) == {*REFUSED, *LOST, *DELIVERED}
    assert {name for name in FAULTS if FAULTS[name].executes} == {*LOST, *DELIVERED}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_fault_that_executes_nothing_is_sorted_and_nothing_was_executed(simulator, fault):
    caller = runware(simulator)
    claim = caller.claim(f"{PROMPT} [[simulate: {fault}]]")

    refusal = caller.refused(claim)

    assert (refusal.failure, refusal.http_status, refusal.provider_code) == REFUSED[fault]
    assert caller.executed(claim) == []
    assert {entry.fault for entry in simulator.journal(claim.idempotency_key)} == {fault}


@pytest.mark.parametrize("fault", ["rate_limit", "rate_limit_window", "overloaded_until"])
def test_a_refusal_says_when_to_retry(simulator, fault):
    caller = runware(simulator)

    refusal = caller.refused(caller.claim(f"{PROMPT} [[simulate: {fault}]]"))

    assert refusal.retry_after is not None
    assert refusal.retry_after.total_seconds() == 1


@pytest.mark.parametrize(
    ("fault", "images", "costs"),
    [("missing_usage", 3, [None] * 3), ("fewer_images", 2, ["0.0038"] * 2), ("slow", 3, ["0.0038"] * 3)],
)
def test_what_is_delivered_all_the_same_is_delivered(simulator, fault, images, costs):
    caller = runware(simulator)
    claim = caller.claim(f"{PROMPT} [[simulate: {fault}]]")

    delivery = caller.call(claim)

    assert delivery.usage == Usage(images=images)
    assert delivery.raw_usage == {"images": images, "costs_usd": costs}
    assert caller.executed(claim) == [images]
    assert caller.found_out(claim).usage == delivery.usage


def test_an_attempt_after_a_proven_failure_is_a_task_of_its_own(simulator):
    caller = runware(simulator)
    first = caller.claim(f"{PROMPT} [[simulate: server_error x1]]")
    second = caller.claim(first.params["prompt"], attempt=2, job_id=first.job_id)

    caller.refused(first)

    assert caller.call(second).usage == Usage(images=3)
    assert caller.executed(first) == [3]


@pytest.mark.parametrize("key", ["sk-live-secret-123456", "sim-"])
def test_a_key_that_is_not_simulated_is_refused(simulator, key):
    caller = runware(simulator, key)
    claim = caller.claim()

    refusal = caller.refused(claim)

    assert (refusal.failure, refusal.provider_code) == (Failure.BAD_CREDENTIALS, "invalidApiKey")
    assert simulator.events(claim.idempotency_key) == ["received", "answered"]


WRONG = {
    "no json": (b"{", "invalidRequestBody"),
    "no list": (a_task(), "invalidRequestBody"),
    "no task": ([], "invalidRequestBody"),
    "two tasks": ([a_task(), a_task()], "invalidRequestBody"),
    "another task": ([a_task(taskType="videoInference")], "unsupportedTaskType"),
    "a kind that is no text": ([a_task(taskType=["x"])], "unsupportedTaskType"),
    "no UUID": ([a_task(taskUUID=None)], "invalidTaskUUID"),
    "a UUID of another version": ([a_task(taskUUID="11111111-2222-1333-8444-555555555555")], "invalidTaskUUID"),
    "no prompt": ([a_task(positivePrompt=" ")], "missingPositivePrompt"),
    "no such model": ([a_task(model="paint-9000")], "invalidModel"),
    "no width": ([a_task(width=None)], "invalidWidth"),
    "a height as text": ([a_task(height="1024")], "invalidHeight"),
    "too many images": ([a_task(numberResults=21)], "invalidNumberResults"),
    "no images": ([a_task(numberResults=0)], "invalidNumberResults"),
    "not at once": ([a_task(deliveryMethod="async")], "unsupportedDeliveryMethod"),
}


@pytest.mark.parametrize(("body", "code"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_request_is_refused_in_runwares_form_and_not_executed(simulator, body, code):
    before = len([entry for entry in read_journal(simulator.journal_path) if entry.event == "executed"])

    status, answer = posted(simulator, body)

    assert (status, list(answer)) == (400, ["errors"])
    assert [error["code"] for error in answer["errors"]] == [code]
    assert answer["errors"][0]["message"]
    assert len([entry for entry in read_journal(simulator.journal_path) if entry.event == "executed"]) == before


def test_a_fault_that_nobody_knows_is_refused(simulator):
    status, answer = posted(simulator, [a_task(positivePrompt="Hi [[simulate: explode]]")])

    assert (status, answer["errors"][0]["code"]) == (400, "unknown_fault")


def test_a_task_is_never_executed_twice_whatever_the_headers(simulator):
    caller = runware(simulator)
    claim = caller.claim()
    caller.call(claim)

    again = caller.refused(claim)

    assert (again.failure, again.provider_code) == (Failure.CONFLICT, "conflictTaskUUID")
    assert VERDICTS[again.failure] is Verdict.UNKNOWN
    assert caller.executed(claim) == [3]


def test_no_prompt_and_no_key_reach_the_journal_or_the_log(simulator):
    caller = runware(simulator, "sim-a-key-nobody-may-read")
    claim = caller.claim("a-prompt-nobody-may-read [[simulate: content_policy]]")
    caller.refused(claim)
    with pytest.raises(ProviderError):
        caller.found_out(claim)

    for text in (simulator.journal_path.read_text(), simulator.stderr_path.read_text()):
        assert "nobody-may-read" not in text
