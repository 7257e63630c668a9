"""The wire format: what other apps send by Celery's protocol, and that nothing they send can stop a queue."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis

from config.database import utc_now
from config.secrets import decrypt
from tasks.app import app
from tasks.messages import redriving
from tests.acceptance.envelopes import (
    PREFIX,
    QUEUES,
    Envelope,
    item,
    put,
    request,
    send,
    unacknowledged,
    waiting,
)
from tests.factories import an_account, rows, the_account
from tests.system import System, wait_until

pytestmark = pytest.mark.fleet

PROMPT = "Bread from another app"


def a_request(account_id: int, **given: Any) -> dict[str, Any]:
    """What an app asks for: by default a small text."""
    params = {"prompt": PROMPT, "max_output_tokens": 64}
    return {"account_id": account_id, "operation": "clustering", "params": params, **given}


def a_good_one(account_id: int) -> tuple[UUID, dict[str, Any]]:
    """A request that can be done, and the job id that its app chose."""
    job_id = uuid4()
    return job_id, a_request(account_id, job_id=str(job_id))


def dead(message_id: str) -> list[tuple[Any, ...]]:
    """What was set aside under this message id: code, reason, body, times seen."""
    return [
        (code, reason, body and decrypt(body, "dead_messages/body_encrypted"), times)
        for code, reason, body, times in rows(
            "SELECT code, reason, body_encrypted, times_seen FROM dead_messages WHERE message_id = :id", id=message_id
        )
    ]


def jobs_of(account_id: int) -> list[UUID]:
    return [job_id for (job_id,) in rows("SELECT id FROM generation_jobs WHERE account_id = :id", id=account_id)]


@pytest.fixture(scope="module", autouse=True)
def ready(system: System) -> Iterator[None]:
    """Workers that answer; at the end, books that balance and no message left in anybody's hands."""
    system.wait_for_workers("billing", "generation")
    yield
    wait_until(lambda: unacknowledged(system.environment["BROKER_URL"]) == 0, what="every acknowledgement")
    assert system.findings() == []


# --- What apps rely on ---


def test_an_app_finds_its_job_by_the_id_that_it_chose(system):
    account_id = an_account(1000)
    job_id, kwargs = a_good_one(account_id)

    send(system.environment, {"kwargs": {**kwargs, "model": "gpt-4o", "user_id": None, "idempotency_key": "order-1"}})

    job = system.finished([job_id])[job_id]
    assert (job.state, job.model_name, job.idempotency_key) == ("settled", "gpt-4o", "order-1")
    assert the_account(account_id).balance == 1000 - job.credits_charged


def test_the_same_message_twice_makes_one_job(system):
    account_id = an_account(1000)
    job_id, kwargs = a_good_one(account_id)

    send(system.environment, {"kwargs": kwargs}, {"kwargs": kwargs})
    later = uuid4()
    send(system.environment, {"kwargs": a_request(account_id, job_id=str(later))})

    system.finished([job_id, later])
    wait_until(lambda: not waiting(system.environment["BROKER_URL"], "requests"), what="an empty queue")
    assert sorted(jobs_of(account_id)) == sorted([job_id, later])
    assert system.executions()[job_id] == 1


def test_the_same_key_twice_makes_one_job(system):
    account_id = an_account(1000)
    kwargs = a_request(account_id, idempotency_key="order-7")

    send(system.environment, {"kwargs": kwargs}, {"kwargs": kwargs})

    (job_id,) = wait_until(lambda: jobs_of(account_id), what="the job")
    assert system.finished([job_id])[job_id].state == "settled"
    assert jobs_of(account_id) == [job_id]


def test_the_same_key_with_another_body_is_set_aside_as_a_conflict(system):
    account_id = an_account(1000)
    kwargs = a_request(account_id, idempotency_key="order-8")
    other = a_request(account_id, idempotency_key="order-8", operation="linking")

    first, second = send(system.environment, {"kwargs": kwargs}, {"kwargs": other})

    (conflict,) = wait_until(lambda: dead(first) + dead(second), what="the conflict")
    assert conflict[0] == "idempotency_conflict"
    assert PROMPT in conflict[2]
    (job_id,) = jobs_of(account_id)
    assert system.finished([job_id])[job_id].state == "settled"


def test_a_redelivered_message_without_a_key_makes_one_job(system):
    account_id = an_account(1000)
    message_id = str(uuid4())
    message = {"kwargs": a_request(account_id), "task_id": message_id}

    send(system.environment, message, message)
    later, kwargs = a_good_one(account_id)
    send(system.environment, {"kwargs": kwargs})

    system.finished([later])
    wait_until(lambda: unacknowledged(system.environment["BROKER_URL"]) == 0, what="every acknowledgement")
    assert len(jobs_of(account_id)) == 2


def test_a_message_of_celerys_first_protocol_is_understood(system):
    account_id = an_account(1000)
    job_id, kwargs = a_good_one(account_id)
    body = {"task": "generation.submit", "id": str(uuid4()), "args": [], "kwargs": kwargs, "retries": 0}
    envelope = json.loads(item(json.dumps(body)))

    put(system.environment["BROKER_URL"], "requests", json.dumps({**envelope, "headers": {}}))

    assert system.finished([job_id])[job_id].state == "settled"


# --- What nobody should send ---


@dataclass(frozen=True)
class Bad:
    """An item that is put into a queue, and the code that it is set aside with; None where it is only logged."""

    code: str | None
    raw: str | bytes
    queue: str = "requests"
    message_id: str | None = None


def submitted(message_id: str, kwargs: Mapping[str, Any], *args: Any) -> str:
    return item(request(kwargs, args), message_id=message_id)


def bad_messages(account_id: int) -> dict[str, Bad]:
    """Every bad message, by what is wrong with it."""

    def one(code: str, make: Any, queue: str = "requests") -> Bad:
        message_id = str(uuid4())
        return Bad(code, make(message_id), queue, message_id)

    def asks(code: str, kwargs: Mapping[str, Any], *args: Any) -> Bad:
        return one(code, lambda message_id: submitted(message_id, kwargs, *args))

    def says(code: str, body: str | bytes, queue: str = "requests", **options: Any) -> Bad:
        return one(code, lambda message_id: item(body, message_id=message_id, queue=queue, **options), queue)

    good = a_request(account_id)
    text = request(good)
    return {
        "unknown task": says("unknown_task", text, task="generation.nonsense"),
        "unknown account": asks("unknown_account", a_request(10**15)),
        "unknown operation": asks("unknown_operation", {**good, "operation": "juggling"}),
        "unknown model": asks("unknown_model", {**good, "model": "gpt-0"}),
        "unknown user": asks("unknown_user", {**good, "user_id": 10**15}),
        "account id of a wrong type": asks("invalid_request", {**good, "account_id": "one"}),
        "params of a wrong type": asks("invalid_request", {**good, "params": PROMPT}),
        "prompt of a wrong type": asks("invalid_params", {**good, "params": {"prompt": [PROMPT]}}),
        "job id that is no UUID": asks("invalid_request", {**good, "job_id": "mine"}),
        "unknown argument": asks("invalid_request", {**good, "colour": "red"}),
        "missing arguments": asks("invalid_request", {"account_id": account_id}),
        "no arguments": asks("invalid_request", {}),
        "positional arguments": asks("invalid_request", {}, account_id, "clustering", {"prompt": PROMPT}),
        "an argument named self": asks("task_failed", {**good, "self": 1}),
        "NUL bytes": asks("invalid_text", {**good, "params": {"prompt": f"{PROMPT}\x00"}}),
        "a lone surrogate": asks("invalid_text", {**good, "params": {"prompt": f"{PROMPT}\ud800"}}),
        "2 MB": asks("body_too_large", {**good, "params": {"prompt": PROMPT * 100_000}}),
        "a body that is not JSON": says("undecodable", text[:-7]),
        "a body of random bytes": says("undecodable", bytes(range(256))),
        "pickle": says("invalid_task", pickle.dumps(([], good, {})), content_type="application/x-python-serialize"),
        "an unknown content type": says("invalid_task", text, content_type="application/x-nonsense"),
        "an unknown task for a provider's queue": says("unknown_task", text, queue="text", task="generation.nonsense"),
        "not JSON for a provider's queue": says("undecodable", text[:-7], queue="image"),
        "an expiry that is no time": says("invalid_task", text, headers={"expires": "soon"}),
        "a request that expired": says("expired", text, headers={"expires": "2020-01-01T00:00:00+02:00"}),
        "a request that expired, by UTC": says("expired", text, headers={"expires": "2020-01-01T00:00:00"}),
        "a start that is no time": says("invalid_task", text, headers={"eta": "soon"}),
    }


@pytest.fixture(scope="module")
def after_bad_messages(system: System, ready: None) -> tuple[dict[str, Bad], int, list[UUID], list[UUID]]:
    """All bad messages, each with a good one behind it; waited for."""
    account_id, other_id = an_account(10_000), an_account(10_000, name="Another App")
    bad = bad_messages(account_id)
    good = [a_good_one(other_id) for _ in bad]
    broker_url = system.environment["BROKER_URL"]
    for message, (_, kwargs) in zip(bad.values(), good, strict=True):
        put(broker_url, message.queue, message.raw)
        put(broker_url, "requests", item(request(kwargs)))
    finished = system.finished([job_id for job_id, _ in good])
    wait_until(lambda: unacknowledged(broker_url) == 0, what="every acknowledgement")
    return (
        bad,
        account_id,
        [job_id for job_id, _ in good],
        [job.id for job in finished.values() if job.state == "settled"],
    )


@pytest.mark.parametrize("name", bad_messages(1))
def test_a_bad_message_is_set_aside_with_its_code_and_its_body_encrypted(after_bad_messages, name):
    bad = after_bad_messages[0][name]

    ((code, reason, body, times),) = dead(bad.message_id)
    assert (code, times) == (bad.code, 1)
    assert body
    assert PROMPT not in reason
    assert rows("SELECT 1 FROM dead_messages WHERE body_encrypted LIKE '%Bread%'") == []


def test_a_good_message_behind_each_bad_one_is_settled(after_bad_messages):
    _, _, sent, settled = after_bad_messages

    assert sorted(settled) == sorted(sent)


def test_a_bad_message_leaves_nothing_half_written(after_bad_messages):
    _, account_id, _, _ = after_bad_messages

    assert jobs_of(account_id) == []
    assert (the_account(account_id).balance, the_account(account_id).reserved) == (10_000, 0)


def test_no_worker_ended_over_a_bad_message(after_bad_messages, system):
    pids = {name: pid for name, pid in system.supervisor.pids().items() if name in ("billing", "generation")}

    assert len(pids) == 2
    assert "starting it again" not in (system.home / "output.log").read_text()
    assert [line for log in system.logs().values() for line in log.splitlines() if "Unrecoverable error" in line] == []


# --- Requests that come late ---


def late_by(expires: timedelta, kwargs: Mapping[str, Any]) -> tuple[str, str]:
    """A request's message that expires so long from now, and its id."""
    message_id = str(uuid4())
    return message_id, item(
        request(kwargs), message_id=message_id, headers={"expires": (utc_now() + expires).isoformat()}
    )


@pytest.mark.usefixtures("ready")
def test_a_request_that_expired_can_be_worked_on_after_all(system):
    account_id = an_account(1_000)
    job_id, kwargs = a_good_one(account_id)
    message_id, raw = late_by(timedelta(minutes=-1), kwargs)
    put(system.environment["BROKER_URL"], "requests", raw)
    wait_until(lambda: dead(message_id), what="the message that was set aside")
    ((number, found),) = rows("SELECT id, job_id FROM dead_messages WHERE message_id = :id", id=message_id)

    assert (found, jobs_of(account_id)) == (job_id, [])
    assert redriving.redrive(number) == [job_id]

    assert system.finished([job_id])[job_id].state == "settled"


@pytest.mark.usefixtures("ready")
def test_a_request_that_has_time_left_is_worked_on(system):
    job_id, kwargs = a_good_one(an_account(1_000))
    put(system.environment["BROKER_URL"], "requests", late_by(timedelta(hours=1), kwargs)[1])

    assert system.finished([job_id])[job_id].state == "settled"


# --- Queues ---


def consumed_queues() -> dict[str, set[str]]:
    """The queues that each of the two workers takes messages from."""
    answers = app.control.inspect(limit=2, timeout=10).active_queues() or {}
    assert len(answers) == 2
    return {worker: {queue["name"] for queue in queues} for worker, queues in answers.items()}


@pytest.fixture
def _silence(system):
    """Workers that take no messages, until the test is over."""
    before = consumed_queues()
    for queue in QUEUES:
        app.control.cancel_consumer(queue)
    wait_until(lambda: not any(consumed_queues().values()), what="silence")
    with redis.Redis.from_url(system.environment["BROKER_URL"]) as client:
        # What a worker had asked for before, it would still be given.
        wait_until(lambda: client.info("clients")["blocked_clients"] == 0, what="the end of every pending question")
    yield
    for worker, queues in before.items():
        for queue in queues:
            app.control.add_consumer(queue, destination=[worker])
    wait_until(lambda: consumed_queues() == before, what="workers that take messages again")


@pytest.mark.usefixtures("_silence")
def test_a_message_in_each_queue_lands_only_there(system):
    broker_url = system.environment["BROKER_URL"]
    ids = {queue: str(uuid4()) for queue in QUEUES}
    for queue, message_id in ids.items():
        app.send_task("generation.refund_credits", [[]], queue=queue, task_id=message_id)

    found = {queue: [Envelope.read(raw).headers["id"] for raw in waiting(broker_url, queue)] for queue in QUEUES}

    for queue, message_id in ids.items():
        assert [other for other in QUEUES if message_id in found[other]] == [queue]
    with redis.Redis.from_url(broker_url) as client:
        client.delete(*(PREFIX + queue for queue in QUEUES))
