"""Where cases are run: a database, a broker and two workers, and the simulated provider that they call."""

from __future__ import annotations

import json
import urllib.request
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from uuid import UUID

import redis
from celery import Celery
from sqlalchemy import text
from sqlalchemy.orm import sessionmaker

from billing.reports import audit
from config.database import make_engine, utc_now
from tasks.messages.pending import LEFT_OUT_MARK, MARK
from tests.chaos.crash_hits import Plan
from tests.chaos.crashing import PLAN, Forks
from tests.conftest import SECRET_KEY
from workers.processes import GENERATION_QUEUES
from workers.simulator.journal import read_journal

QUEUES = ("requests", "billing", "text", "image", "embedding", "periodic")

PACE = {
    "CREDITMILL_TEXT_CALL_S": "10",
    # A provider's wish to wait a second is more than a worker waits for: the job is postponed.
    "CREDITMILL_CALL_WAIT_MAX_S": "0.1",
    # All others are far more than a case takes: they are over when the case says so.
    "CREDITMILL_UNKNOWN_WAIT_S": "600",
    "CREDITMILL_REPUBLISH_AFTER_S": "60",
    "CREDITMILL_VISIBILITY_TIMEOUT_S": "600",
    "CREDITMILL_BILLING_CONCURRENCY": "1",
    # As many as a scenario has jobs, and one for the message of several.
    "CREDITMILL_GENERATION_CONCURRENCY": "6",
}


@dataclass(frozen=True)
class Provider:
    """The simulated provider: its address, and its journal, which is the ground truth."""

    url: str
    journal: Path

    def is_up(self) -> bool:
        """Whether it answers."""
        try:
            self._answers("GET")
        except URLError:
            return False
        return True

    def hold(self) -> None:
        """Answer nobody until `release`."""
        self._answers("POST")

    def held(self) -> int:
        """How many answers are held."""
        return int(self._answers("GET")["waiting"])

    def release(self) -> None:
        """Answer all at once, and whoever comes later."""
        self._answers("DELETE")

    def _answers(self, method: str) -> dict[str, Any]:
        page = f"{self.url.removesuffix('/v1')}/simulator/hold"
        with urllib.request.urlopen(urllib.request.Request(page, method=method), timeout=10) as answer:
            return json.load(answer)

    def executions(self, job_id: UUID) -> int:
        """How often it did billable work for a job."""
        return self._events(job_id)["executed"]

    def in_flight(self, job_id: UUID) -> int:
        """How many of a job's requests it has received and neither answered nor dropped."""
        events = self._events(job_id)
        return events["received"] - events["answered"] - events["dropped"]

    def _events(self, job_id: UUID) -> Counter[str]:
        key = f"creditmill-{job_id}"
        # A further part of a job has a key of its own, which begins like this.
        ours = (entry for entry in read_journal(self.journal) if (entry.idempotency_key or "").startswith(key))
        return Counter(entry.event for entry in ours)


class Cell:
    """A database, a broker and two workers: here one case after the other is run."""

    def __init__(self, home: Path, forks: Forks, database_url: str, broker_url: str) -> None:
        home.mkdir()
        self.home = home
        self._engine = make_engine(database_url, application="crash points")
        self.transaction = sessionmaker(self._engine, expire_on_commit=False).begin
        self.broker = redis.Redis.from_url(broker_url)
        self.app = Celery("crash-points", broker=broker_url)
        self._forks = forks
        self._environment = {
            **PACE,
            "DATABASE_URL": database_url,
            "BROKER_URL": broker_url,
            "CREDITMILL_SECRET_KEY": SECRET_KEY,
            "CREDITMILL_FOLDER": str(home),
            PLAN: str(home / "plan.json"),
        }
        self._workers: dict[str, int] = {}
        self._remains: list[int] = []
        self._known: set[str] = set()

    def close(self) -> None:
        """End the workers and close the connections."""
        self.end_workers()
        self.app.close()
        self.broker.close()
        self._engine.dispose()

    def send(self, task: str, queue: str, *args: Any, **kwargs: Any) -> None:
        """Publish a message as another app would, or beat."""
        self.app.send_task(task, args=args, kwargs=kwargs, queue=queue, expires=60)

    def prepare(self, plan: Plan) -> None:
        """Empty the broker, and have both workers run by this plan."""
        plan.write(self.home / "plan.json")
        # The marks too: with that of a hint, which died before it was sent, the next case would send none.
        self.broker.delete(*QUEUES, "unacked", "unacked_index", "unacked_mutex", MARK, LEFT_OUT_MARK)
        for name in {"billing", "generation"} - set(self._workers):
            self._start_worker(name)

    def replace_worker(self, name: str) -> None:
        """Start a worker in the place of one that has died; what it left behind lives on for the time being."""
        self._remains.append(self._workers.pop(name))
        self._start_worker(name)

    def ended_workers(self) -> list[str]:
        """The workers whose main process has died."""
        ended = self._forks.ask("ended", pids=list(self._workers.values()))
        return [name for name, pid in self._workers.items() if pid in ended]

    def end_workers(self, *, all_of_them: bool = True) -> None:
        """Kill the workers with their children, or only what dead ones left behind."""
        if all_of_them:
            self._remains += self._workers.values()
            self._workers.clear()
        while self._remains:
            self._forks.ask("end", pid=self._remains.pop())

    def _start_worker(self, name: str) -> None:
        log = str(self.home / f"{name}.log")
        self._workers[name] = self._forks.ask("start", worker=name, environment=self._environment, log=log)

    def unacked_of(self, worker: str) -> set[str]:
        """The delivery tags of the messages that a worker has taken and not acknowledged."""
        taken = {tag.decode(): json.loads(raw)[2] for tag, raw in self.broker.hgetall("unacked").items()}
        called = {tag for tag, queue in taken.items() if queue in GENERATION_QUEUES.split(",")}
        return called if worker == "generation" else set(taken) - called

    def findings(self) -> list[str]:
        """What the audit finds now and did not find before, and which messages were set aside since."""
        with self.transaction() as session:
            session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            found = {f"audit: {each.rule}: {each.row}: {each.problem}" for each in audit.audit(session, now=utc_now())}
            dead = session.execute(text("SELECT id, task_name, code FROM dead_messages"))
            found |= {f"message {number} of {task} was set aside: {code}" for number, task, code in dead}
        new = found - self._known
        self._known |= new
        return sorted(new)
