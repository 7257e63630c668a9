"""What a job costs the database: the statements that its submitter and the workers send for it, and no more."""

from __future__ import annotations

import json
import time
import urllib.request
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread
from typing import Any
from uuid import UUID

import pytest

from billing.jobs import job_queries
from billing.jobs.requests import Submission
from config.database import transaction
from tasks import pipeline
from tasks.app import app
from tests.acceptance.envelopes import QUEUES, unacknowledged, waiting
from tests.conftest import emptied, fresh_database
from tests.factories import an_account
from tests.statements import Kind, Statement, recorded, work
from tests.system import System, running_system, wait_until
from workers.local.embedded.servers import Servers

pytestmark = pytest.mark.own_system

FOR_ONE_JOB = 13
"""Statements for one job on an idle system: submit 1, check 2, reserve 4, claim 2, record 2, settle 2.

Each is a round trip, and most of what a job costs this machine. Who needs one more says here what for; who needs fewer
lowers this.
"""
FOR_EACH_OF_MANY = 0.6
"""Statements for each of many jobs that are submitted together and answered at one time.

The statements are those of one job, and jobs share them: all of them those of their submission, batches of 100 those of
their check, reservation and claim. How many are recorded and settled together depends on how close to each other their
answers are read.
"""
PINGS = 0
"""Pings of pooled connections: none, as long as no server ends a session."""

MANY = 500
PATIENCE = {"text_call_s": "60", "visibility_timeout_s": "600"}
"""However slow the machine is, no call is given up and no message delivered again."""
SUBMITTER = "creditmill tests"
WORKERS = {"creditmill billing": "billing", "creditmill generation": "generation"}
PARAMS = {"prompt": "bread [[simulate: latency 0]]", "max_output_tokens": 64}


class Receptions:
    """Which task each worker took when, by what the workers tell Flower."""

    def __init__(self) -> None:
        self._taken: dict[str, list[tuple[float, str]]] = {name: [] for name in WORKERS.values()}
        self._names: dict[str, str] = {}
        self.heard: set[str] = set()

    @contextmanager
    def listening(self) -> Iterator[Receptions]:
        """Listen while the block lasts; it begins when every worker has been heard."""
        with app.connection_for_read() as connection:
            receiver = app.events.Receiver(connection, handlers={"*": self._note})
            thread = Thread(target=receiver.capture, kwargs={"wakeup": True}, daemon=True)
            thread.start()
            wait_until(lambda: self.heard >= set(WORKERS.values()), what="a word from each worker")
            yield self
            receiver.should_stop = True
            thread.join(30)

    def _note(self, event: dict[str, Any]) -> None:
        worker = event["hostname"].partition("-")[0]
        self.heard.add(worker)
        if event["type"] == "task-received" and worker in self._taken:
            # The log tells milliseconds.
            self._taken[worker].append((int(event["timestamp"] * 1000) / 1000, event["name"]))

    def task(self, statement: Statement) -> str:
        """The task that sent this statement, if its worker has one at a time: the one that it took last."""
        taken = sorted(self._taken.get(WORKERS.get(statement.application, ""), []))
        place = bisect_right([at for at, _ in taken], statement.at)
        return taken[place - 1][1] if place else statement.application


@dataclass(frozen=True)
class Site:
    """A running system without beat, whose statements are recorded."""

    system: System
    seen: Callable[[], list[Statement]]
    receptions: Receptions

    def statements_of(self, submissions: Sequence[Submission], *, together: bool = False) -> list[Statement]:
        """Everything that these jobs cost the database, from their submission until no worker has a message.

        With `together`, no call is answered before all jobs are being called.
        """
        if together:
            self._answers("POST")
        before = len(self.seen())
        jobs = [job.job_id for job in pipeline.submit_many(submissions)]
        # What this process asks from now on is the test's own curiosity.
        submitted = len(self.seen())
        if together:
            wait_until(lambda: self._states(jobs) == {"calling": len(jobs)}, what="a call for each job")
            wait_until(lambda: self._answers("GET")["waiting"] == len(jobs), what="each call's execution")
            self._answers("DELETE")
        self.come_to_rest(jobs)
        seen = self.seen()
        ours = [statement for statement in seen[before:submitted] if statement.application == SUBMITTER]
        return ours + [statement for statement in seen[before:] if statement.application in WORKERS]

    def _answers(self, method: str) -> dict[str, Any]:
        """Hold the provider's answers (POST), release them (DELETE) or look how many wait (GET)."""
        url = f"{self.system.provider_url.removesuffix('/v1')}/simulator/hold"
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=10) as answer:
            return json.load(answer)

    def _states(self, jobs: list[UUID]) -> Counter[str]:
        with transaction() as session:
            return Counter(job.state for job in job_queries.find(session, jobs))

    def come_to_rest(self, jobs: list[UUID]) -> None:
        finished = self.system.finished(jobs, within_s=120)
        assert {job.state for job in finished.values()} == {"settled"}
        for _ in range(2):
            # A message that is just being taken is for a moment neither waiting nor taken.
            wait_until(self._has_no_message, what="every acknowledgement")
            time.sleep(0.2)

    def _has_no_message(self) -> bool:
        broker_url = self.system.environment["BROKER_URL"]
        return not any(waiting(broker_url, queue) for queue in QUEUES) and unacknowledged(broker_url) == 0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, servers: Servers, template: str) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("counted")
    with (
        fresh_database(servers, template) as database_url,
        recorded(database_url) as seen,
        # One billing process: what each reads once in its life is read when the test begins to count.
        running_system(
            home,
            database_url,
            emptied(servers),
            programs=("billing", "generation"),
            billing_concurrency="1",
            # Many jobs are called at one time, all of them.
            generation_concurrency="512",
            **PATIENCE,
        ) as system,
    ):
        system.wait_for_workers("billing", "generation")
        with Receptions().listening() as receptions:
            site = Site(system, seen, receptions)
            for _ in range(3):
                site.statements_of(jobs_of(an_account(1000), 1))
            yield site


def jobs_of(account_id: int, count: int) -> list[Submission]:
    return [Submission(account_id=account_id, operation="clustering", params=PARAMS) for _ in range(count)]


def by_task(site: Site, statements: list[Statement]) -> str:
    """The statements under the names of their tasks, in the order in which they came."""
    tasks: dict[str, list[Statement]] = {}
    for statement in statements:
        tasks.setdefault(site.receptions.task(statement), []).append(statement)
    return "\n".join(
        line
        for task, group in tasks.items()
        for line in (f"{task}: {len(group)}", *(f"    {statement.text[:200]}" for statement in group))
    )


def most_frequent(statements: list[Statement]) -> str:
    """How often each statement came, whatever its values are."""
    count = Counter((statement.application, statement.text[:100]) for statement in statements)
    return "\n".join(f"{times:6} {application}: {text}" for (application, text), times in count.most_common(40))


def pings(statements: list[Statement]) -> int:
    return sum(statement.kind is Kind.PING for statement in statements)


def test_one_job_on_an_idle_system_costs_few_statements(site):
    statements = site.statements_of(jobs_of(an_account(1000), 1))

    assert len(work(statements)) <= FOR_ONE_JOB, by_task(site, statements)
    assert pings(statements) <= PINGS, by_task(site, statements)


def test_many_jobs_at_once_cost_few_statements_each(site):
    statements = site.statements_of(jobs_of(an_account(1_000_000), MANY), together=True)

    assert len(work(statements)) / MANY <= FOR_EACH_OF_MANY, most_frequent(statements)
    assert pings(statements) <= PINGS, most_frequent(statements)
