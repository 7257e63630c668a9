"""Runs one case: crash at a point, let time pass, recover, and look at the books.

Time passes only when nothing is under way: then what the system waits for (a lease, a republication, a visibility
timeout) is over at once. So a case takes no waiting, and nothing happens by chance of the clock.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import text

from billing.jobs import requests, submitting
from billing.jobs.states import TERMINAL
from billing.ledger import accounts, by_hand
from config.database import utc_now
from config.integrations import set_connection
from tests.chaos.crash_cases import OPENING, Became, Case, Life, Row
from tests.chaos.crash_cells import QUEUES, Cell, Provider
from tests.chaos.crash_hits import Hit, Plan
from tests.factories import HOUR, moment
from tests.system import wait_until
from workers.local import machine

PATIENCE_S = 40
TICK_S = 0.03
ONE_OF = "id = ANY (CAST(:ids AS uuid[]))"
STILL = 4  # looks in a row that must see the same before time passes


@dataclass(frozen=True)
class Look:
    """What can be seen of a case's jobs and of the broker from outside; a job that is not there yet has no state."""

    jobs: tuple[tuple[Any, ...], ...]
    queued: int
    unacked: frozenset[str]

    @property
    def states(self) -> list[str | None]:
        """The states of the jobs."""
        return [state for state, *_ in self.jobs]

    @property
    def is_over(self) -> bool:
        """Whether every job has come to its end."""
        return all(state in TERMINAL for state in self.states)


class Run:
    """One case in its cell: start, let time pass whenever nothing is under way, judge."""

    def __init__(self, cell: Cell, case: Case, provider: Provider, number: int) -> None:
        self.cell = cell
        self.case = case
        self.provider = provider
        self.row = Row(case)
        self.job_ids = [uuid4() for _ in case.scenario.lives]
        self.payers: list[int] = []
        self.plan = Plan(
            record=str(cell.home / f"{number}.hits"),
            marker=str(cell.home / f"{number}.crashed"),
            jobs=tuple(map(str, self.job_ids)),
            crash_at=case.hit,
            whole=case.mode == "whole",
        )
        # The messages that died with the worker that held them.
        self._stranded: set[str] = set()
        self._asked: set[UUID] = set()
        self._is_held = False
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
        if self.case.scenario.is_grouped:
            self.provider.hold()
            self._is_held = True
        connection = {"base_url": self.provider.url, "honours_keys": self.case.scenario.honours_keys}
        with self.cell.transaction() as session:
            set_connection(session, "openai", api_key=machine.SIMULATOR_KEY, **connection)
            for _ in {life.payer for life in self.case.scenario.lives}:
                account = accounts.create(session, "Corner Bakery")
                opening = {"idempotency_key": "opening", "description": "Opening credits"}
                by_hand.top_up(session, account.id, OPENING, now=utc_now(), **opening)
                self.payers.append(account.id)
        self._submit([self._request(*each) for each in zip(self.job_ids, self.case.scenario.lives, strict=True)])

    def _request(self, job_id: UUID, life: Life) -> dict[str, Any]:
        return {
            "account_id": self.payers[life.payer],
            "operation": life.operation,
            "params": life.params,
            "job_id": str(job_id),
        }

    def _submit(self, wanted: list[dict[str, Any]]) -> None:
        scenario = self.case.scenario
        if scenario.announced and not scenario.is_grouped:
            self.cell.send("generation.submit", "requests", **wanted[0])
            return
        with self.cell.transaction() as session:
            parsed = [requests.parse(request) for request in wanted]
            at = moment(session, utc_now(), of=parsed)
            submitting.submit(session, parsed, at=at, deadline=HOUR, publish_by=HOUR)
        if scenario.announced:
            self.cell.send("generation.check_balance", "billing", self.plan.jobs)

    def _go_on(self, *, until: float) -> None:
        seen, still = None, 0
        while time.monotonic() < until:
            self._replace_the_dead()
            self._release_together()
            look = self._look()
            still = still + 1 if look == seen else 0
            seen = look
            if still >= self._stillness and not look.queued and look.unacked <= self._stranded:
                if look.is_over and not look.unacked and self._has_crashed():
                    return
                self._let_time_pass(look)
                still = 0
            time.sleep(TICK_S)
        self.row.problems.append(f"not over after {PATIENCE_S} s: {seen}")

    def _replace_the_dead(self) -> None:
        for name in self.cell.ended_workers():
            self._stranded |= self.cell.unacked_of(name)
            self.cell.replace_worker(name)

    def _release_together(self) -> None:
        """Release the answers once all calls were sent; what is called after a crash is called by itself."""
        crashed = self.case.hit is not None and self._has_crashed()
        if self._is_held and (crashed or self._all_are_held()):
            self.provider.release()
            self._is_held = False

    def _all_are_held(self) -> bool:
        calls = len(self.case.scenario.called)
        # The provider may have a call before its sender has come to the next line.
        return self.provider.held() == calls == sum(hit.is_at("send", "after") for hit in self._hits())

    def _hits(self) -> list[Hit]:
        record = Path(self.plan.record)
        return [Hit.parsed(json.loads(line)) for line in record.read_text().splitlines()] if record.exists() else []

    def _has_crashed(self) -> bool:
        return self.case.hit is None or Path(self.plan.marker).exists()

    def _look(self) -> Look:
        with self.cell.broker.pipeline(transaction=True) as pipe:
            for queue in QUEUES:
                pipe.llen(queue)
            *queued, unacked = pipe.hkeys("unacked").execute()
        statement = text(f"SELECT id, state, attempts, next_at, error_code FROM generation_jobs WHERE {ONE_OF}")
        with self.cell.transaction() as session:
            found = {job_id: tuple(job) for job_id, *job in session.execute(statement, {"ids": self.job_ids})}
        jobs = tuple(found.get(job_id, (None,)) for job_id in self.job_ids)
        return Look(jobs, sum(queued), frozenset(tag.decode() for tag in unacked))

    def _let_time_pass(self, look: Look) -> None:
        """Nobody is at work, everybody waits: now what is waited for is over, one thing after the other."""
        recovers = not {None, *TERMINAL}.issuperset(look.states)
        if self._stranded and (self.case.first == "messages" or not recovers):
            # The visibility timeout of what the dead held; and of the lock that one of them may have died with.
            self.cell.broker.zadd("unacked_index", dict.fromkeys(self._stranded, 0), xx=True)
            self.cell.broker.delete("unacked_mutex")
            self._stranded = set()
        elif recovers:
            known = zip(self.job_ids, look.states, strict=True)
            self._let_jobs_wait(unknown={job_id for job_id, state in known if state == "unknown"})
            self.cell.send("periodic.recover_jobs", "periodic")

    def _let_jobs_wait(self, *, unknown: set[UUID]) -> None:
        # A lease that ends is what is waited for, not its length: its holder is dead, or holds it no more.
        later = (
            "UPDATE generation_jobs SET next_at = now() - interval '1 s',"
            f" lease_until = CASE WHEN state = 'calling' THEN now() - interval '1 s' END WHERE {ONE_OF}"
            " AND finished_at IS NULL"
        )
        # The provider may be asked again: whoever asked before is dead, or has no answer.
        again = f"UPDATE provider_calls SET asked_at = asked_at - interval '1 h' WHERE job_{ONE_OF}"
        # One that cannot be asked is waited for once; then the longest time that it may take is over.
        ancient = (
            "UPDATE provider_calls SET started_at = started_at - interval '1 h', finished_at = finished_at"
            f" - interval '1 h' WHERE job_{ONE_OF} AND outcome = 'unknown'"
        )
        given_up = set() if self.case.scenario.honours_keys else unknown & self._asked
        with self.cell.transaction() as session:
            for statement, ids in ((later, self.job_ids), (again, self.job_ids), (ancient, list(given_up))):
                session.execute(text(statement), {"ids": ids})
        self._asked |= unknown

    def _judge(self) -> None:
        row, several = self.row, self.case.scenario.is_grouped
        row.jobs = [self._what_became_of(job_id) for job_id in self.job_ids]
        row.hits = self._hits()
        if not self._has_crashed():
            row.problems.append("the point was never reached")
        for place, became in enumerate(row.jobs):
            where = f"job {place}: " if several else ""
            wrong = became.problems(self.case.may_end(place, row.hits), self.case.scenario.lives[place])
            row.problems += [f"{where}{problem}" for problem in wrong]
        for payer in range(len(self.payers)):
            row.problems += self._problems_of_payer(payer)
        row.problems += self.cell.findings()

    def _what_became_of(self, job_id: UUID) -> Became:
        wait_until(lambda: not self.provider.in_flight(job_id), within_s=10, what="the provider's end")
        statement = text(
            "SELECT state, error_code, credits_charged, EXISTS (SELECT FROM provider_calls c WHERE c.job_id = j.id"
            " AND exposure AND cost_usd > 0) FROM generation_jobs j WHERE j.id = :id"
        )
        with self.cell.transaction() as session:
            found = session.execute(statement, {"id": job_id}).one_or_none()
        return replace(Became(*found or ()), executions=self.provider.executions(job_id))

    def _problems_of_payer(self, payer: int) -> list[str]:
        charged = sum(
            became.charged or 0
            for life, became in zip(self.case.scenario.lives, self.row.jobs, strict=True)
            if life.payer == payer
        )
        with self.cell.transaction() as session:
            account = accounts.get(session, self.payers[payer])
            balance, reserved = account.balance, account.reserved
        problems = [] if balance == OPENING - charged else [f"balance {balance}, and {charged} were charged"]
        return problems + ([f"{reserved} credits still reserved"] if reserved else [])
