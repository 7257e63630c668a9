"""Enumerates the crash points of a job's life and runs a case for each: crash there, recover, look at the books.

A recording run of each scenario lists every point that occurs; a case is one of them and a way to die. Time passes only
when nothing is under way: then what the system waits for (a lease, a republication, a visibility timeout) is over at
once. So a case takes no waiting, and nothing happens by chance of the clock.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import redis
from celery import Celery
from sqlalchemy import text
from sqlalchemy.orm import sessionmaker

from billing.jobs import requests, submitting
from billing.jobs.states import TERMINAL
from billing.ledger import accounts
from billing.reports import audit
from config.database import make_engine, utc_now
from config.integrations import set_connection
from tests.chaos.crashing import PLAN, Forks, Hit, Plan
from tests.conftest import SECRET_KEY
from tests.factories import HOUR, moment
from tests.system import wait_until
from workers.local import machine
from workers.processes import GENERATION_QUEUES
from workers.simulator.journal import read_journal

OPENING = 1_000
QUEUES = ("requests", "billing", "text", "image", "embedding", "periodic")
PATIENCE_S = 40
TICK_S = 0.03
STILL = 4  # looks in a row that must see the same before time passes

PACE = {
    "CREDITMILL_TEXT_CALL_S": "10",
    # A provider's wish to wait a second is more than a worker waits for: the job is postponed.
    "CREDITMILL_CALL_WAIT_MAX_S": "0.1",
    # All others are far more than a case takes: they are over when the case says so.
    "CREDITMILL_UNKNOWN_WAIT_S": "600",
    "CREDITMILL_REPUBLISH_AFTER_S": "60",
    "CREDITMILL_VISIBILITY_TIMEOUT_S": "600",
    "CREDITMILL_BILLING_CONCURRENCY": "1",
    "CREDITMILL_GENERATION_CONCURRENCY": "2",
}

MODES = {
    "billing child": ("child", "whole"),
    "billing main": ("main", "whole"),
    # Threads, not children: the process that dies is the whole worker.
    "generation": ("whole",),
}
LOST = ("refunded", "outcome_unknown")
MISSING = ("missing", None, None, False, OPENING, 0)


@dataclass(frozen=True)
class Scenario:
    """A job's life, by what its provider does, and how it ends.

    `recoveries` is how often the recovery task has to work on it, `announced` whether its first message arrives, and
    `honours_keys` whether the provider does the work of one key once.
    """

    name: str
    fault: str
    end: tuple[str, str | None]
    recoveries: int = 0
    announced: bool = True
    honours_keys: bool = False

    @property
    def params(self) -> dict[str, Any]:
        """What the job asks for."""
        marker = f" [[simulate: {self.fault}]]" if self.fault else ""
        return {"prompt": f"bread{marker}", "max_output_tokens": 64}


@dataclass(frozen=True)
class Case:
    """A scenario with one crash; without, it records.

    `mode` is who dies: the child, the main process alone, or the whole worker. `first` is what comes first after the
    death of a main process, as both happen: the recovery task, or the messages that it held.
    """

    scenario: Scenario
    hit: Hit | None = None
    mode: str = ""
    first: str = "recovery"
    # Whether it strikes while the provider may be at work: then nobody can know what came of it.
    during_call: bool = False


@dataclass
class Row:
    """What became of a case."""

    case: Case
    state: str = "missing"
    error_code: str | None = None
    charged: int | None = None
    executions: int = 0
    exposed: bool = False
    seconds: float = 0.0
    hits: list[Hit] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Look:
    """What can be seen of a job and of the broker from outside."""

    state: str | None
    version: tuple[Any, ...]
    queued: int
    unacked: frozenset[str]


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

    def send(self, task: str, queue: str, **kwargs: Any) -> None:
        """Publish a message as another app would, or beat."""
        self.app.send_task(task, kwargs=kwargs, queue=queue, expires=60)

    def prepare(self, plan: Plan) -> None:
        """Empty the broker, and have both workers run by this plan."""
        plan.write(self.home / "plan.json")
        self.broker.delete(*QUEUES, "unacked", "unacked_index", "unacked_mutex")
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


class Run:
    """One case in its cell: start, let time pass whenever nothing is under way, judge."""

    def __init__(self, cell: Cell, case: Case, provider: Provider, number: int) -> None:
        self.cell = cell
        self.case = case
        self.provider = provider
        self.row = Row(case)
        self.job_id = uuid4()
        self.plan = Plan(
            record=str(cell.home / f"{number}.hits"),
            marker=str(cell.home / f"{number}.crashed"),
            crash_at=case.hit,
            whole=case.mode == "whole",
        )
        # The messages that died with the worker that held them.
        self._stranded: set[str] = set()
        self._asked = False
        # What is recorded must not have an event by chance: a message is for a moment neither queued nor unacked.
        self._stillness = STILL if case.hit else 4 * STILL

    def carry_out(self) -> Row:
        """Run the case to its end; whatever goes wrong is a problem of its row."""
        started = time.monotonic()
        try:
            self._start()
            self._go_on(until=started + PATIENCE_S)
            self._judge()
        except Exception as error:  # noqa: BLE001 - a case that cannot be run is a red row, and the others go on
            self.row.problems.append(f"{type(error).__name__}: {error}")
        # A worker that lived through the case goes on with the next one, unless something was wrong with it.
        self.cell.end_workers(all_of_them=bool(self.row.problems))
        self.row.seconds = time.monotonic() - started
        return self.row

    def _start(self) -> None:
        self.cell.prepare(self.plan)
        connection = {"base_url": self.provider.url, "honours_keys": self.case.scenario.honours_keys}
        with self.cell.transaction() as session:
            set_connection(session, "openai", api_key=machine.SIMULATOR_KEY, **connection)
            account = accounts.create(session, "Corner Bakery")
            opening = {"idempotency_key": "opening", "description": "Opening credits"}
            accounts.top_up(session, account.id, OPENING, now=utc_now(), **opening)
        request = {
            "account_id": account.id,
            "operation": "clustering",
            "params": self.case.scenario.params,
            "job_id": str(self.job_id),
        }
        if self.case.scenario.announced:
            self.cell.send("generation.submit", "requests", **request)
            return
        with self.cell.transaction() as session:
            submitting.submit(
                session, [requests.parse(request)], at=moment(session, utc_now()), deadline=HOUR, publish_by=HOUR
            )

    def _go_on(self, *, until: float) -> None:
        seen, still = None, 0
        while time.monotonic() < until:
            self._replace_the_dead()
            look = self._look()
            still = still + 1 if look == seen else 0
            seen = look
            if still >= self._stillness and not look.queued and look.unacked <= self._stranded:
                if look.state in TERMINAL and not look.unacked and self._has_crashed():
                    return
                self._let_time_pass(look)
                still = 0
            time.sleep(TICK_S)
        self.row.problems.append(f"not over after {PATIENCE_S} s: {seen}")

    def _replace_the_dead(self) -> None:
        for name in self.cell.ended_workers():
            self._stranded |= self.cell.unacked_of(name)
            self.cell.replace_worker(name)

    def _has_crashed(self) -> bool:
        return self.case.hit is None or Path(self.plan.marker).exists()

    def _look(self) -> Look:
        with self.cell.broker.pipeline(transaction=True) as pipe:
            for queue in QUEUES:
                pipe.llen(queue)
            *queued, unacked = pipe.hkeys("unacked").execute()
        with self.cell.transaction() as session:
            statement = text("SELECT state, attempts, next_at, error_code FROM generation_jobs WHERE id = :id")
            job = tuple(session.execute(statement, {"id": self.job_id}).one_or_none() or ())
        return Look(job[0] if job else None, job, sum(queued), frozenset(tag.decode() for tag in unacked))

    def _let_time_pass(self, look: Look) -> None:
        """Nobody is at work, everybody waits: now what is waited for is over, one thing after the other."""
        recovers = look.state not in {None, *TERMINAL}
        if self._stranded and (self.case.first == "messages" or not recovers):
            # The visibility timeout of what the dead held; and of the lock that one of them may have died with.
            self.cell.broker.zadd("unacked_index", dict.fromkeys(self._stranded, 0), xx=True)
            self.cell.broker.delete("unacked_mutex")
            self._stranded = set()
        elif recovers:
            self._let_job_wait(unknown=look.state == "unknown")
            self.cell.send("periodic.recover_jobs", "periodic")

    def _let_job_wait(self, *, unknown: bool) -> None:
        # A lease that ends is what is waited for, not its length: its holder is dead, or holds it no more.
        later = (
            "UPDATE generation_jobs SET next_at = now() - interval '1 s',"
            " lease_until = CASE WHEN state = 'calling' THEN now() - interval '1 s' END WHERE id = :id"
        )
        # The provider may be asked again: whoever asked before is dead, or has no answer.
        again = "UPDATE provider_calls SET asked_at = asked_at - interval '1 h' WHERE job_id = :id"
        # One that cannot be asked is waited for once; then the longest time that it may take is over.
        ancient = (
            "UPDATE provider_calls SET started_at = started_at - interval '1 h', finished_at = finished_at"
            " - interval '1 h' WHERE job_id = :id AND outcome = 'unknown'"
        )
        gives_up = unknown and self._asked and not self.case.scenario.honours_keys
        with self.cell.transaction() as session:
            for statement in (later, again, *([ancient] if gives_up else [])):
                session.execute(text(statement), {"id": self.job_id})
        self._asked |= unknown

    def _judge(self) -> None:
        row, scenario = self.row, self.case.scenario
        wait_until(lambda: not self.provider.in_flight(self.job_id), within_s=10, what="the provider's end")
        statement = text(
            "SELECT state, error_code, credits_charged, EXISTS (SELECT FROM provider_calls c WHERE c.job_id = j.id"
            " AND exposure AND cost_usd > 0), balance, reserved"
            " FROM generation_jobs j JOIN accounts a ON a.id = account_id WHERE j.id = :id"
        )
        with self.cell.transaction() as session:
            found = session.execute(statement, {"id": self.job_id}).one_or_none()
        row.state, row.error_code, row.charged, row.exposed, balance, reserved = found or MISSING
        row.executions = self.provider.executions(self.job_id)
        row.hits = [Hit(**json.loads(line)) for line in Path(self.plan.record).read_text().splitlines()]
        blind = self.case.during_call and not scenario.honours_keys
        ends = {scenario.end, LOST} if blind else {scenario.end}
        settled, charged = row.state == "settled", row.charged or 0
        for holds, problem in (
            (self._has_crashed(), "the point was never reached"),
            (row.state in TERMINAL, "not terminal"),
            ((row.state, row.error_code) in ends, f"should have ended as {sorted(ends)}"),
            (row.executions <= 1, "executed more than once"),
            (not settled or row.executions >= 1, "settled, and never executed"),
            (settled == (charged > 0), "charged, and not settled, or settled for nothing"),
            (settled or not row.executions or row.exposed, "executed for nobody, and no exposure"),
            (balance == OPENING - charged, f"balance {balance}"),
            (reserved == 0, f"{reserved} credits still reserved"),
        ):
            if not holds:
                row.problems.append(problem)
        row.problems += self.cell.findings()


@dataclass(frozen=True)
class Provider:
    """The simulated provider: its address, and its journal, which is the ground truth."""

    url: str
    journal: Path

    def executions(self, job_id: UUID) -> int:
        """How often it did billable work for a job."""
        return self._events(job_id)["executed"]

    def in_flight(self, job_id: UUID) -> int:
        """How many of a job's requests it has received and neither answered nor dropped."""
        events = self._events(job_id)
        return events["received"] - events["answered"] - events["dropped"]

    def _events(self, job_id: UUID) -> Counter[str]:
        key = f"creditmill-{job_id}"
        return Counter(entry.event for entry in read_journal(self.journal) if entry.idempotency_key == key)


def cases_of(recorded: Row) -> list[Case]:
    """Every way to crash in a recorded life: at each point, each way to die, and what comes first after it."""
    cases = []
    for index, hit in enumerate(recorded.hits):
        case = replace(recorded.case, hit=hit, during_call=during_call(recorded.hits, index))
        for mode in MODES[hit.process]:
            firsts = ("recovery", "messages") if mode != "child" else ("recovery",)
            cases += [replace(case, mode=mode, first=first) for first in firsts]
    return cases


def during_call(hits: Sequence[Hit], index: int) -> bool:
    """Whether a worker that dies at this point leaves a claim without a verdict: from its commit to the verdict's."""
    if hits[index].process != "generation":
        return False
    own = [hit for hit in hits if hit.process == "generation"]
    at = own.index(hits[index])

    def is_inside(send: int) -> bool:
        claimed = [place for place in range(send) if own[place].is_at("commit", "after")]
        judged = [place for place in range(send, len(own)) if own[place].is_at("commit", "before")]
        return bool(claimed and judged) and claimed[-1] <= at <= judged[0]

    return any(is_inside(place) for place, hit in enumerate(own) if hit.is_at("send", "before"))
