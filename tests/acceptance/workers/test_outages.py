"""The broker, the database or a worker's ears are away: nothing is lost, nobody waits for ever, all heals by itself."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn
from uuid import UUID

import psycopg2
import pytest

from billing import migrating
from billing.jobs.requests import Submission
from config import database
from config.database import DatabaseAway
from tasks import pipeline
from tasks.app import app
from tests.acceptance.envelopes import QUEUES, unacknowledged, waiting
from tests.factories import an_account, rows, the_account
from tests.removals import keep_models
from tests.system import System, running_system, wait_until
from workers.local.embedded.postgres import Postgres
from workers.local.embedded.valkey import Valkey

pytestmark = pytest.mark.own_system

OPENING = 100_000
STALLED_AFTER_S = 3
OTHERS = "pid <> pg_backend_pid() AND datname IS NOT NULL"


@dataclass(frozen=True)
class Site:
    """A running system with servers of its own, which may be taken away."""

    system: System
    postgres: Postgres
    valkey: Valkey
    account_id: int

    def settle(self, job_ids: list[UUID]) -> None:
        """Wait for the end of these jobs: each executed once, called once, charged."""
        finished = self.system.finished(job_ids, within_s=90)
        assert {(job.state, job.attempts) for job in finished.values()} == {("settled", 1)}
        assert {self.system.executions()[job_id] for job_id in job_ids} == {1}
        assert self.system.findings() == []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with TemporaryDirectory(prefix="creditmill-outages-") as folder, ExitStack() as stack:
        postgres, valkey = Postgres(Path(folder) / "postgres"), Valkey(Path(folder) / "valkey")
        for server in (postgres, valkey):
            stack.callback(server.stop)
            server.start()
        database_url = postgres.create_database("outages")
        engine = database.make_engine(database_url)
        migrating.migrate(engine)
        keep_models(engine)
        engine.dispose()
        home = tmp_path_factory.mktemp("outages")
        system = stack.enter_context(
            running_system(home, database_url, valkey.url, text_call_s="20", stalled_after_s=str(STALLED_AFTER_S))
        )
        system.wait_for_workers("billing", "generation")
        yield Site(system, postgres, valkey, an_account(OPENING))


def submit(site: Site, count: int, *, latency_s: float = 0.05) -> list[UUID]:
    params = {"prompt": f"bread [[simulate: latency {latency_s}]]", "max_output_tokens": 64}
    wanted = [Submission(account_id=site.account_id, operation="clustering", params=params) for _ in range(count)]
    return [pipeline.submit_many([each])[0].job_id for each in wanted]


def take_every_connection(url: str, stack: ExitStack) -> NoReturn:
    """Connect until the database refuses; the connections are held until the stack is closed."""
    while True:
        stack.callback(psycopg2.connect(url).close)


def states(job_ids: list[UUID]) -> set[Any]:
    return {state for (state,) in rows("SELECT state FROM generation_jobs WHERE id = ANY(:jobs)", jobs=job_ids)}


def test_a_submit_succeeds_while_the_broker_is_away(site):
    site.valkey.kill()

    jobs = submit(site, 3)

    assert states(jobs) == {"queued"}
    site.valkey.start()
    site.settle(jobs)


def test_a_broker_that_comes_back_empty_loses_nothing(site):
    jobs = submit(site, 6, latency_s=1)
    wait_until(lambda: site.system.calls_in_flight() > 0, what="calls in flight")
    more = submit(site, 6)
    site.valkey.kill()
    shutil.rmtree(site.valkey.folder / "appendonlydir")
    site.valkey.start()

    site.settle(jobs + more)


def test_a_paid_result_is_recorded_although_the_database_was_away(site):
    jobs = submit(site, 4, latency_s=3)
    wait_until(lambda: site.system.calls_in_flight() == 4, what="calls in flight")
    site.postgres.kill()
    wait_until(lambda: site.system.calls_in_flight() == 0, what="the end of the calls")
    site.postgres.start()

    site.settle(jobs)


def test_a_submit_without_the_database_says_so_and_stores_nothing(site):
    before = rows("SELECT count(*) FROM generation_jobs")
    site.postgres.kill()
    try:
        with pytest.raises(DatabaseAway, match="send it again with the same idempotency key"):
            submit(site, 1)
    finally:
        site.postgres.start()

    assert wait_until(lambda: rows("SELECT count(*) FROM generation_jobs")) == before


def test_a_database_without_free_connections_is_waited_for(site):
    jobs = submit(site, 4, latency_s=2)
    wait_until(lambda: site.system.calls_in_flight() == 4, what="calls in flight")
    url = database.engine().url.set(drivername="postgresql").render_as_string(hide_password=False)
    with ExitStack() as stack:
        rows(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OTHERS}")
        with pytest.raises(psycopg2.OperationalError, match=r"too many clients|connection slots"):
            take_every_connection(url, stack)
        wait_until(lambda: site.system.calls_in_flight() == 0, what="the end of the calls")

    site.settle(jobs)


def test_a_worker_that_no_longer_listens_is_restarted(site):
    worker = site.system.supervisor.pids()["generation"]
    (name,) = [name for name in app.control.inspect(timeout=2).ping() if name.startswith("generation-")]
    app.control.cancel_consumer("text", destination=[name], reply=True)

    jobs = submit(site, 2)

    wait_until(lambda: site.system.supervisor.pids().get("generation", worker) != worker, what="another worker")
    site.settle(jobs)
    assert "worker_stalled" in site.system.logs()["generation.log"]


def test_a_worker_that_is_idle_is_left_alone(site):
    pids = {name: site.system.supervisor.pids()[name] for name in ("billing", "generation")}
    ticks = rows("SELECT now()")[0][0]

    wait_until(
        lambda: (rows("SELECT now()")[0][0] - ticks).total_seconds() > 2 * STALLED_AFTER_S, what="two watches' time"
    )

    assert {name: site.system.supervisor.pids()[name] for name in pids} == pids


def test_rolling_restarts_under_load_lose_and_repeat_nothing(site):
    jobs: list[UUID] = []
    for name in ("generation", "billing", "generation", "billing"):
        jobs += submit(site, 12, latency_s=1)
        wait_until(lambda: site.system.calls_in_flight() > 0, what="calls in flight")
        pid = site.system.supervisor.pids()[name]
        os.kill(pid, signal.SIGTERM)
        jobs += submit(site, 6)
        wait_until(lambda name=name, pid=pid: site.system.supervisor.pids().get(name, pid) != pid, what=f"a new {name}")

    site.settle(jobs)
    assert rows("SELECT DISTINCT outcome FROM provider_calls WHERE job_id = ANY(:jobs)", jobs=jobs) == [("succeeded",)]


def test_in_the_end_nothing_waits_and_the_account_is_right(site):
    broker_url = site.system.environment["BROKER_URL"]
    wait_until(lambda: unacknowledged(broker_url) == 0, what="every acknowledgement")
    wait_until(lambda: not any(waiting(broker_url, queue) for queue in QUEUES), what="empty queues")

    charged = rows("SELECT coalesce(sum(credits_charged), 0) FROM generation_jobs")[0][0]
    account = the_account(site.account_id)
    assert (account.balance, account.reserved) == (OPENING - charged, 0)
    assert rows("SELECT task_name, code FROM dead_messages") == []
