"""Stopping and concurrency of the generation worker: calls in flight are finished, and many are in flight at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from uuid import UUID

import psutil
import pytest

from billing.jobs.requests import Submission
from tasks import pipeline
from tests.acceptance.envelopes import QUEUES, unacknowledged, waiting
from tests.conftest import emptied, fresh_database
from tests.factories import an_account, rows, the_account
from tests.system import System, running_system, wait_until
from workers.local.embedded.servers import Servers
from workers.local.supervisor import is_alive

pytestmark = pytest.mark.own_system


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, servers: Servers, template: str) -> Iterator[System]:
    patience = {"text_call_s": "40", "visibility_timeout_s": "120", "republish_after_s": "60"}
    home = tmp_path_factory.mktemp("system")
    with (
        fresh_database(servers, template) as database_url,
        running_system(home, database_url, emptied(servers), **patience) as started,
    ):
        started.wait_for_workers("billing", "generation")
        yield started


def submit(account_id: int, count: int, *, latency_s: float) -> list[UUID]:
    params = {"prompt": f"bread [[simulate: latency {latency_s}]]", "max_output_tokens": 64}
    wanted = [Submission(account_id=account_id, operation="clustering", params=params) for _ in range(count)]
    return [job.job_id for job in pipeline.submit_many(wanted)]


def test_sixty_four_calls_are_in_flight_at_once_in_one_worker_process(system):
    account_id = an_account(10_000)
    before = len(system.journal())

    # Long enough for the first call to wait until a slow machine has begun the last one.
    jobs = submit(account_id, 64, latency_s=10)
    finished = system.finished(jobs)

    in_flight, most = 0, 0
    for entry in system.journal()[before:]:
        in_flight += {"received": 1, "answered": -1, "dropped": -1}.get(entry.event, 0)
        most = max(most, in_flight)
    assert most == 64
    assert {job.state for job in finished.values()} == {"settled"}
    assert {job.attempts for job in finished.values()} == {1}
    worker = psutil.Process(system.supervisor.pids()["generation"])
    assert worker.children() == []


def test_calls_in_flight_are_finished_when_the_worker_is_told_to_stop(system):
    account_id = an_account(10_000)
    broker_url = system.environment["BROKER_URL"]
    worker = psutil.Process(system.supervisor.pids()["generation"])

    jobs = submit(account_id, 8, latency_s=3)
    wait_until(lambda: system.calls_in_flight() == 8, what="eight calls in flight")
    worker.send_signal(signal.SIGTERM)
    more = submit(account_id, 3, latency_s=0.05)
    wait_until(lambda: not is_alive(worker), what="the end of the worker")

    assert system.calls_in_flight() == 0
    states = rows("SELECT DISTINCT state FROM generation_jobs WHERE id = ANY(:jobs)", jobs=jobs)
    assert {state for (state,) in states} <= {"generated", "settled"}
    finished = system.finished(jobs + more)
    assert {(job.state, job.attempts) for job in finished.values()} == {("settled", 1)}
    assert {system.executions()[job_id] for job_id in jobs + more} == {1}
    assert rows("SELECT 1 FROM provider_calls WHERE outcome <> 'succeeded'") == []
    wait_until(lambda: unacknowledged(broker_url) == 0, what="every acknowledgement")
    wait_until(lambda: not any(waiting(broker_url, queue) for queue in QUEUES), what="empty queues")
    assert the_account(account_id).reserved == 0
    assert system.findings() == []
