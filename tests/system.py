"""A whole running system for acceptance tests: workers, beat, Flower and the simulator as real processes."""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import psutil

from billing.jobs import job_queries
from billing.jobs.states import TERMINAL
from billing.jobs.tables import GenerationJob
from billing.reports import audit
from billing.reports.audit import Finding
from config import database
from config.database import transaction, utc_now
from config.integrations import set_connection
from tasks.app import app
from tests.conftest import SECRET_KEY
from workers import bootstrap
from workers.local import machine
from workers.local.supervisor import Supervisor
from workers.simulator.journal import Entry, read_journal

Found = TypeVar("Found")

PACE = {
    "CREDITMILL_TEXT_CALL_S": "4",
    "CREDITMILL_IMAGE_CALL_S": "4",
    "CREDITMILL_CALL_WAIT_MAX_S": "2",
    "CREDITMILL_UNKNOWN_WAIT_S": "3",
    "CREDITMILL_REPUBLISH_AFTER_S": "5",
    "CREDITMILL_RECOVER_EVERY_S": "1",
    "CREDITMILL_VISIBILITY_TIMEOUT_S": "10",
}

ATTEMPTS = 3
"""How often the fleet calls a provider for one job."""
FLEET = {
    "call_attempts": str(ATTEMPTS),
    "call_wait_max_s": "1",
    "recover_every_s": "0.5",
    "republish_after_s": "3",
    # A claim lasts as long as its call may take, and a bit: while one worker stands still, a text becomes unknown and
    # is given up, waits included, before an image that was called with it becomes unknown.
    "image_call_s": "8",
}
"""How the fleet's settings differ from those of a system of its own."""


def wait_until(condition: Callable[[], Found], *, within_s: float = 60, what: str = "the condition") -> Found:
    """Wait for something to become true, and return it; fails with its name after `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {within_s} s")
        time.sleep(0.05)


def forget_broker() -> None:
    """Let Celery look up its connections anew: those of an earlier test lead to that test's broker."""
    app._after_fork()


class System:
    """The running system. Environment variables carry the addresses, as they do in production."""

    def __init__(self, home: Path, environment: Mapping[str, str], supervisor: Supervisor, provider_url: str) -> None:
        self.home = home
        self.provider_url = provider_url
        self.environment = environment
        self.supervisor = supervisor

    @property
    def api_url(self) -> str:
        """Where the HTTP API answers."""
        return f"http://127.0.0.1:{self.environment['CREDITMILL_API_PORT']}"

    @property
    def flower_url(self) -> str:
        """Where Flower answers."""
        return f"http://127.0.0.1:{self.environment['CREDITMILL_FLOWER_PORT']}"

    def process(self, name: str) -> psutil.Process:
        """The main process of the program of this name."""
        return psutil.Process(self.supervisor.pids()[name])

    def flower(self, path: str) -> Any:
        """What Flower's API answers."""
        with urllib.request.urlopen(f"{self.flower_url}{path}", timeout=10) as answer:
            return json.load(answer)

    def finished(self, job_ids: Sequence[UUID], *, within_s: float = 60) -> dict[UUID, GenerationJob]:
        """Wait until these jobs are terminal; returns them."""

        def look() -> dict[UUID, GenerationJob]:
            with transaction() as session:
                jobs = {job.id: job for job in job_queries.find(session, job_ids)}
            done = len(jobs) == len(set(job_ids)) and all(job.state in TERMINAL for job in jobs.values())
            return jobs if done else {}

        return wait_until(look, within_s=within_s, what="the end of every job")

    def journal(self, event: str | None = None) -> list[Entry]:
        """What the simulated provider did: the ground truth."""
        entries = read_journal(self.home / "simulator-journal.jsonl")
        return [entry for entry in entries if event is None or entry.event == event]

    def executions(self) -> Counter[UUID]:
        """How often the simulated provider did billable work for each job."""
        keys = [entry.idempotency_key or "" for entry in self.journal("executed")]
        # The key of a further part has the part's number behind the job's id.
        return Counter(UUID(key.removeprefix("creditmill-")[:36]) for key in keys)

    def calls_in_flight(self) -> int:
        """How many requests the simulated provider has received and neither answered nor dropped."""
        events = Counter(entry.event for entry in self.journal())
        return events["received"] - events["answered"] - events["dropped"]

    def findings(self) -> list[Finding]:
        """What the audit finds: nothing, when the books balance."""
        with transaction(isolation="REPEATABLE READ", read_only=True) as session:
            return audit.audit(session, now=utc_now())

    def wait_for_workers(self, *names: str) -> None:
        """Wait until these workers (billing, generation) answer."""

        def look() -> bool:
            answering = {name.split("-")[0] for answer in app.control.ping(timeout=0.5) for name in answer}
            return set(names) <= answering

        wait_until(look, what=f"an answer from {', '.join(names)}")

    def logs(self) -> dict[str, str]:
        """Everything that each process logged, by the file's name."""
        return {path.name: path.read_text(errors="replace") for path in (self.home / "logs").iterdir()}


@contextmanager
def running_fleet(home: Path, database_url: str, broker_url: str) -> Iterator[System]:
    """The system that many tests share, ready for work."""
    with running_system(home, database_url, broker_url, **FLEET) as started:
        started.wait_for_workers("billing", "generation")
        yield started


@contextmanager
def running_system(
    home: Path,
    database_url: str,
    broker_url: str,
    *,
    programs: Sequence[str] = ("billing", "generation", "beat"),
    faults: Mapping[str, float] | None = None,
    latency_s: float = 0.05,
    honour_keys: bool = False,
    **settings: str,
) -> Iterator[System]:
    """Run these programs and the simulator on this database and broker, with this process able to publish.

    With `honour_keys` the simulated OpenAI does the work of one idempotency key once, and we know it. `settings` are
    further CREDITMILL_ variables, in lower case and without the prefix.
    """
    environment = {
        **PACE,
        "DATABASE_URL": database_url,
        "BROKER_URL": broker_url,
        "CREDITMILL_SECRET_KEY": SECRET_KEY,
        "CREDITMILL_FOLDER": str(home),
        "CREDITMILL_FLOWER_PORT": str(machine.free_port()),
        "CREDITMILL_API_PORT": str(machine.free_port()),
        **{f"CREDITMILL_{name.upper()}": value for name, value in settings.items()},
    }
    before, port = dict(os.environ), machine.free_port()
    provider_url = f"http://127.0.0.1:{port}/v1"
    os.environ.update(environment)
    try:
        forget_broker()
        bootstrap.publisher("tests")
        with transaction() as session:
            key = machine.SIMULATOR_KEY
            set_connection(session, "openai", api_key=key, base_url=provider_url, honours_keys=honour_keys)
            set_connection(session, "runware", api_key=key, base_url=f"http://127.0.0.1:{port}/runware/v1")
        options = ["--honour-keys"] if honour_keys else []
        wanted = [
            machine.simulator_program(home, port, faults=faults or {}, seed=1, latency_s=latency_s, options=options)
        ]
        arguments = {"billing": ["worker", "billing"], "generation": ["worker", "generation"]}
        wanted += [machine.program(name, arguments.get(name, [name]), stop_order=1) for name in programs]
        with (
            (home / "output.log").open("w") as output,
            machine.supervised(home, wanted, output, quiet=True) as supervisor,
        ):
            yield System(home, environment, supervisor, provider_url)
    finally:
        database.disconnect()
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def running_beside(system: System, name: str) -> Iterator[None]:
    """One more program of ours on a running system, as long as the block lasts."""
    home = system.home / name
    home.mkdir()
    wanted = [machine.program(name, [name], stop_order=1)]
    with (home / "output.log").open("w") as output, machine.supervised(home, wanted, output, quiet=True):
        yield
