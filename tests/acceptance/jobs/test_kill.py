"""kill -9 and lost messages: every job comes to its end, is charged only if it was delivered, and is executed once."""

from __future__ import annotations

import os
import signal
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psutil
import pytest
import redis

from billing.reports.audit import Finding
from tasks import pipeline
from tests.conftest import emptied, fresh_database
from tests.factories import an_account, rows, the_account
from tests.system import System, running_system, wait_until
from workers.local.embedded.servers import Servers

pytestmark = pytest.mark.own_system

OPENING = 100_000
PACE = {"text_call_s": "4", "call_wait_max_s": "1", "unknown_wait_s": "2", "republish_after_s": "3"}


@dataclass(frozen=True)
class Books:
    """What stands written at the end: jobs by group, the account, and what the provider says that it did."""

    jobs: dict[str, list[dict[str, Any]]]
    balance: int
    reserved: int
    executions: Counter[UUID]
    findings: list[Finding]
    late_calls: list[tuple[Any, ...]]

    @property
    def all(self) -> list[dict[str, Any]]:
        return [job for group in self.jobs.values() for job in group]


def submit(account_id: int, count: int, *, latency_s: float = 0.05) -> list[UUID]:
    """Jobs that the provider answers after `latency_s`, each with a message of its own."""
    params = {"prompt": f"bread [[simulate: latency {latency_s}]]", "max_output_tokens": 64}
    return [pipeline.submit(account_id, "clustering", params).job_id for _ in range(count)]


def states(job_ids: list[UUID]) -> Counter[str]:
    return Counter(state for (state,) in rows("SELECT state FROM generation_jobs WHERE id = ANY(:jobs)", jobs=job_ids))


def kill(system: System, name: str) -> None:
    """kill -9 a program's main process, and wait until the supervisor runs it again."""
    pid = system.supervisor.pids()[name]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: system.supervisor.pids().get(name, pid) != pid, what=f"another {name}")


def kill_everything(system: System) -> None:
    """kill -9 every process of ours at once, children too; the provider lives on."""
    for name, pid in system.supervisor.pids().items():
        if name != "simulator":
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


def closed(system: System, account_id: int, groups: dict[str, list[UUID]]) -> Books:
    """Wait for the end of every job, and read the books."""
    ids = [job_id for group in groups.values() for job_id in group]
    finished = system.finished(ids, within_s=90)
    account = the_account(account_id)
    return Books(
        jobs={name: [vars(finished[job_id]) for job_id in group] for name, group in groups.items()},
        balance=account.balance,
        reserved=account.reserved,
        executions=system.executions(),
        findings=system.findings(),
        late_calls=rows("SELECT job_id, outcome, exposure, cost_usd > 0 FROM provider_calls WHERE exposure"),
    )


@pytest.fixture(scope="module")
def storm(tmp_path_factory: pytest.TempPathFactory, servers: Servers, template: str) -> Books:
    """One after the other: the generation worker, the billing worker, a child of it, beat, every message."""
    home = tmp_path_factory.mktemp("storm")
    groups: dict[str, list[UUID]] = {}
    with (
        fresh_database(servers, template) as database_url,
        running_system(home, database_url, emptied(servers), **PACE) as system,
    ):
        account_id = an_account(OPENING)
        system.wait_for_workers("billing", "generation")

        groups["generation"] = submit(account_id, 8, latency_s=2)
        wait_until(lambda: system.calls_in_flight() >= 4, what="calls in flight")
        kill(system, "generation")

        groups["billing"] = submit(account_id, 8)
        wait_until(lambda: states(groups["billing"])["queued"] < 8, what="the first reservation")
        kill(system, "billing")

        groups["child"] = submit(account_id, 8)
        system.wait_for_workers("billing", "generation")
        children = psutil.Process(system.supervisor.pids()["billing"]).children()
        children[0].kill()
        wait_until(lambda: not children[0].is_running() or children[0].status() == "zombie", what="the child's end")

        kill(system, "beat")
        groups["beat"] = submit(account_id, 4)

        groups["messages"] = submit(account_id, 8, latency_s=0.5)
        with redis.Redis.from_url(system.environment["BROKER_URL"]) as client:
            client.flushall()
        groups["after"] = submit(account_id, 4)
        return closed(system, account_id, groups)


@pytest.fixture(scope="module")
def restart(tmp_path_factory: pytest.TempPathFactory, servers: Servers, template: str) -> Books:
    """Everything at once, with calls in flight; then a new system on what is left. One of its calls comes back late."""
    groups: dict[str, list[UUID]] = {}
    home = tmp_path_factory.mktemp("restart")
    with fresh_database(servers, template) as database_url:
        broker_url = emptied(servers)
        with running_system(home, database_url, broker_url, **PACE) as system:
            account_id = an_account(OPENING)
            system.wait_for_workers("billing", "generation")
            groups["in flight"] = submit(account_id, 6, latency_s=2)
            wait_until(lambda: system.calls_in_flight() >= 3, what="calls in flight")
            kill_everything(system)
            groups["queued"] = submit(account_id, 6)
        with running_system(home, database_url, broker_url, **PACE) as system:
            system.wait_for_workers("billing", "generation")
            groups["new"] = submit(account_id, 6)
            system.finished(groups["new"])
            groups["late"] = submit(account_id, 1, latency_s=1)
            come_back_late(system, groups["late"])
            return closed(system, account_id, groups)


def come_back_late(system: System, job_ids: list[UUID]) -> None:
    """Suspend the generation worker during a call until the job is refunded; then let it go on."""
    wait_until(lambda: states(job_ids)["calling"], what="the call")
    worker = psutil.Process(system.supervisor.pids()["generation"])
    wait_until(lambda: system.calls_in_flight() > 0, what="the call at the provider")
    worker.suspend()
    try:
        system.finished(job_ids)
    finally:
        worker.resume()
    wait_until(
        lambda: rows("SELECT 1 FROM provider_calls WHERE job_id = ANY(:jobs) AND outcome = 'succeeded'", jobs=job_ids),
        what="the late success",
    )


@pytest.fixture(params=["storm", "restart"])
def books(request: pytest.FixtureRequest) -> Books:
    return request.getfixturevalue(request.param)


def test_every_job_comes_to_its_end(books):
    ended = Counter((job["state"], job["error_code"]) for job in books.all)

    assert set(ended) <= {("settled", None), ("refunded", "outcome_unknown")}
    assert books.reserved == 0


def test_a_job_is_charged_if_and_only_if_it_is_settled(books):
    charged = [job["credits_charged"] for job in books.all if job["state"] == "settled"]

    assert all(credits > 0 for credits in charged)
    assert books.balance == OPENING - sum(charged)


def test_no_job_is_executed_twice_and_every_settled_one_once(books):
    for job in books.all:
        assert books.executions[job["id"]] <= 1
        if job["state"] == "settled":
            assert books.executions[job["id"]] == 1


def test_what_was_executed_and_not_charged_is_our_exposure(books):
    exposed = {job_id for job_id, _, exposure, cost in books.late_calls if exposure and cost}

    for job in books.all:
        if books.executions[job["id"]] and job["state"] != "settled":
            assert job["id"] in exposed
            assert job["cost_usd"] > 0


def test_the_books_balance(books):
    assert books.findings == []


def test_calls_that_died_with_their_worker_are_refunded_not_repeated(storm):
    lost = [job for job in storm.jobs["generation"] if job["state"] == "refunded"]

    assert len(lost) >= 4
    assert {job["error_code"] for job in lost} == {"outcome_unknown"}
    assert {job["attempts"] for job in lost} == {1}


@pytest.mark.parametrize("group", ["billing", "child", "beat", "messages", "after"])
def test_work_that_no_provider_had_begun_is_done_all_the_same(storm, group):
    settled = [job for job in storm.jobs[group] if job["state"] == "settled"]

    # A lost message can leave a call of unknown outcome only where the worker was killed, which it was not.
    assert len(settled) == len(storm.jobs[group])


def test_a_new_system_finishes_what_the_killed_one_left(restart):
    assert {job["state"] for job in restart.jobs["queued"] + restart.jobs["new"]} == {"settled"}


def test_a_success_that_comes_after_the_refund_is_ours_to_pay(restart):
    (job,) = restart.jobs["late"]

    assert (job["state"], job["credits_charged"]) == ("refunded", None)
    assert [call[1:] for call in restart.late_calls if call[0] == job["id"]] == [("succeeded", True, True)]
