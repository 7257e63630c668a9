"""What the tests of single guards share: calls in some order, how calls end, damage, what a database refuses."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from billing.jobs import calling, job_queries, recovery
from billing.jobs.calling import Refusal
from billing.jobs.policy import Failure, RetryBudget
from billing.jobs.states import State
from billing.reports import audit
from config.database import transaction
from tests.catalogue import sql
from tests.factories import MINUTE, NOON, a_delivery, rows
from tests.system import wait_until

BUDGET = RetryBudget(attempts=4, wait_max=MINUTE)
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


def at_once(*calls):
    """Run the calls side by side, each in a transaction of its own, starting together."""
    barrier = Barrier(len(calls))

    def run(call):
        barrier.wait()
        with transaction() as session:
            return call(session)

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def meanwhile(change, act):
    """What `act` answers that begins while a transaction with this change is open, which commits when `act` waits."""

    def run():
        with transaction() as session:
            return act(session)

    with ThreadPoolExecutor(1) as pool:
        with transaction() as session:
            change(session)
            later = pool.submit(run)
            wait_until(lambda: rows(WAITING) != [(0,)] or later.done(), what="the wait for the lock")
        return later.result()


def findings():
    with transaction(isolation="REPEATABLE READ", read_only=True) as session:
        return audit.audit(session, now=NOON)


def fail(claim, failure=Failure.RATE_LIMITED, usage=None):
    with transaction() as session:
        refusal = Refusal(failure, usage=usage)
        return calling.fail(session, claim, refusal, now=NOON, budget=BUDGET, look_after=MINUTE)


def lose(claim):
    with transaction() as session:
        jobs = job_queries.lock(session, [claim.job_id], {State.CALLING})
        calling.mark_unknown(session, jobs, Failure.WORKER_LOST, now=NOON, look_after=MINUTE)


def succeed(claim, delivery=None):
    with transaction() as session:
        return calling.succeed(session, claim, delivery or a_delivery(), now=NOON, publish_by=MINUTE)


def recover(state, now, done=None):
    done = done or recovery.Recovered()
    patience = recovery.Patience(republish_after=MINUTE, unknown_wait=10 * MINUTE)
    with transaction() as session:
        recovery.recover(session, state, done, now=now, patience=patience)
    return done


def read_rows_as_they_lie(session):
    """PostgreSQL may choose any way to the rows; this one finds a row that was updated behind the others."""
    session.execute(text("SET LOCAL enable_indexscan = off; SET LOCAL enable_bitmapscan = off"))


def break_books(*statements):
    """Damage that no code of ours can do: with the tables' guards out of the way."""
    with transaction() as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))
        for statement in statements:
            session.execute(text(statement))


def assert_refused(refused, rule):
    """Each of these (statement, rule) that breaks this rule is refused by the constraint of that name."""
    for statement in [statement for statement, broken in refused if broken == rule]:
        with pytest.raises(IntegrityError) as caught:
            sql(statement)

        assert caught.value.orig.diag.constraint_name == rule
