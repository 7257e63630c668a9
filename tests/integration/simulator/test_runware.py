"""The simulated providers through our own adapters: what is lost on the way, and what is found out about it.

The simulator's journal is the truth of what was executed; the adapters only know what came over the wire.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest

from billing.catalog.pricing import Usage
from billing.jobs.calling import Claim, Delivery, Refusal
from billing.jobs.policy import VERDICTS, Failure, Verdict
from config.providers import Connection
from tasks.providers.base import Provider, ProviderError
from tasks.providers.openai import OpenAIProvider
from tasks.providers.runware import RunwareProvider, task_id
from tests.integration.simulator.test_openai import Running, wait_until
from workers.simulator.faults import FAULTS
from workers.simulator.journal import read_journal

PROMPT = "Describe a quiet garden in the morning."
Start = Callable[..., Running]

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "responses": ("text", {}),
    "chat_completions": ("text", {}),
    "images": ("image", {"n": 3, "size": "1024x1024", "quality": "standard"}),
    "embeddings": ("embedding", {}),
}


class Caller:
    """A worker's view of one simulator: an adapter, the connection to it, and claims of jobs."""

    def __init__(self, running: Running, provider: Provider, connection: Connection, model: str) -> None:
        self.running = running
        self.provider = provider
        self.connection = connection
        self.model = model

    def claim(
        self, prompt: str = PROMPT, *, api: str = "images", attempt: int = 1, job_id: UUID | None = None
    ) -> Claim:
        kind, params = KINDS[api]
        job_id = job_id or uuid4()
        return Claim(
            job_id=job_id,
            attempt=attempt,
            call_id=1,
            provider=self.connection.provider,
            model_name=self.model,
            api=api,
            kind=kind,
            params={"input": [prompt]} if kind == "embedding" else {"prompt": prompt, **params},
            max_output_tokens=100,
            idempotency_key=f"creditmill-{job_id}",
            bills_tokens=False,
        )

    def call(self, claim: Claim, *, timeout_s: float = 20) -> Delivery:
        return self.provider.call(claim, self.connection, timeout_s=timeout_s)

    def refused(self, claim: Claim, *, timeout_s: float = 20) -> Refusal:
        with pytest.raises(ProviderError) as caught:
            self.call(claim, timeout_s=timeout_s)
        told = f"{caught.value!r} {caught.value.refusal!r}"
        assert self.connection.api_key not in told
        assert "garden" not in told
        return caught.value.refusal

    def found_out(self, claim: Claim) -> Delivery | None:
        return self.provider.ask(claim, self.connection, timeout_s=20)

    def executed(self, claim: Claim) -> list[int | None]:
        """The images of each time that the job's work was done, None for other work."""
        entries = self.running.journal(claim.idempotency_key)
        return [entry.images for entry in entries if entry.event == "executed"]

    def in_flight(self, claim: Claim) -> threading.Thread:
        """The call under way in another thread, and received."""
        thread = threading.Thread(target=self._call_and_forget, args=(claim,))
        thread.start()
        wait_until(lambda: bool(self.running.journal(claim.idempotency_key)))
        return thread

    def _call_and_forget(self, claim: Claim) -> None:
        try:
            self.call(claim)
        except ProviderError:
            return


def work(delivery: Delivery | None) -> Delivery | None:
    """A delivery without the id of the request that brought it: each request has its own."""
    return None if delivery is None else replace(delivery, request_id=None)


def runware(running: Running, key: str = "sim-test-runware") -> Caller:
    return Caller(
        running, RunwareProvider(), Connection("runware", key, running.ready["runware"]), model="runware:97@1"
    )


def openai(running: Running, *, honours_keys: bool = True) -> Caller:
    connection = Connection("openai", "sim-test-openai", running.url, honours_keys)
    return Caller(running, OpenAIProvider(), connection, model="dall-e-3")


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    journal = tmp_path_factory.mktemp("simulator") / "journal.jsonl"
    running = Running(journal, "--latency", "0", "--hang", "0.3", "--honour-keys")
    yield running
    running.stop()
    assert "Traceback" not in running.stderr_path.read_text()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Running] = []

    def start_one(*options: str) -> Running:
        started.append(Running(tmp_path / "journal.jsonl", "--latency", "0", "--hang", "0.3", *options))
        return started[-1]

    yield start_one
    for running in started:
        running.stop()


def posted(running: Running, body: object, key: str = "sim-test", **headers: str) -> tuple[int, Any]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    authorized = {"Authorization": f"Bearer {key}", **headers}
    answer = httpx2.post(running.ready["runware"], content=raw, headers=authorized, timeout=20)
    return answer.status_code, answer.json()


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


# Runware: what is delivered and refused


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


REFUSED = {
    "rate_limit": (Failure.RATE_LIMITED, 429, "rateLimitExceeded"),
    "overloaded": (Failure.OVERLOADED, 503, "serviceUnavailable"),
    "server_error": (Failure.SERVER_ERROR, 500, "internalServerError"),
    "content_policy": (Failure.CONTENT_POLICY, 400, "contentPolicyViolation"),
    "bad_request": (Failure.BAD_REQUEST, 400, "invalidPositivePrompt"),
    "insufficient_quota": (Failure.QUOTA_EXHAUSTED, 402, "insufficientCredits"),
    "hang_before_accept": (Failure.CONNECTION_LOST, None, None),
    "reset_before_accept": (Failure.CONNECTION_LOST, None, None),
}
LOST = {
    "hang_after_accept": (Failure.CONNECTION_LOST, None, None),
    "reset_mid_body": (Failure.CONNECTION_LOST, None, None),
    "malformed_body": (Failure.UNREADABLE_ANSWER, 200, None),
}
DELIVERED = {"missing_usage", "fewer_images", "slow"}


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


def test_a_rate_limit_says_when_to_retry(simulator):
    caller = runware(simulator)

    refusal = caller.refused(caller.claim(f"{PROMPT} [[simulate: rate_limit]]"))

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

    assert (again.failure, again.provider_code) == (Failure.UNREADABLE_ANSWER, "conflictTaskUUID")
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


# Runware: what became of a lost call


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


# Keys that are honoured: one key is executed once


def without_a_fault(claim: Claim, caller: Caller) -> Claim:
    """Another claim like this, whose call is not lost."""
    return caller.claim(claim.params["prompt"].partition(" [[")[0], api=claim.api)


@pytest.mark.parametrize("api", ["responses", "chat_completions", "images"])
@pytest.mark.parametrize("fault", LOST)
def test_a_lost_call_is_sent_again_and_answered_without_a_second_execution(simulator, fault, api):
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
