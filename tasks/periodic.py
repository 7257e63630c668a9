"""Periodic work, as Celery tasks: beat sends them, and running any of them twice changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from sqlalchemy.orm import Session

from billing.jobs import recovery
from billing.jobs.recovery import Recovered
from billing.plans import renewals
from billing.plans.renewals import Worked
from billing.reports import audit, revenue
from billing.upkeep import periodic_runs
from billing.webhooks import deliveries
from config.database import database_now, transaction
from config.logging import get_logger
from tasks import pipeline
from tasks.app import app
from tasks.messages import endings, giving_up
from tasks.runtime import runtime

log = get_logger(__name__)

LOCK_TIMEOUT_S = 1
"""How long one row that somebody else has locked may hold up all others, in seconds."""
ROLL_UP_BATCHES = 100
"""The most transactions that one tick of the roll-ups takes."""


@app.task(name="periodic.recover_jobs")
def recover_jobs() -> dict[str, int]:
    """Bring lost work to its end: publish it again, give it up, or refund it."""
    done = Recovered()
    for state in recovery.states():
        found = Recovered()
        with transaction(lock_timeout_s=LOCK_TIMEOUT_S) as session:
            recovery.recover(session, state, found, now=database_now(session), patience=runtime().patience)
        # At once: what waited for the other states would be lost with their trouble.
        _publish(found)
        done.add(found)
    for job_id, error in done.blocked.items():
        log.error("job_blocked", job_id=str(job_id), error=error, hint="it is tried again later, and later each time")
    if done.counts():
        log.info("recovered", **done.counts())
    with transaction() as session:
        worked = sum(done.counts().values())
        periodic_runs.note(session, "recover_jobs", worked=worked, blocked=len(done.blocked), now=database_now(session))
    return done.counts()


def _publish(found: Recovered) -> None:
    pipeline.start_alone(found.started)
    pipeline.call(found.with_kinds(found.called))
    pipeline.ask(found.with_kinds(found.asked))
    pipeline.settle(found.settled)
    pipeline.refund(found.refunded)


@app.task(name="periodic.renew_subscriptions")
def renew_subscriptions() -> int:
    """Begin the periods of every subscription that have come since the last run, and grant what they include."""
    return in_batches("renew_subscriptions", renewals.renew)


@app.task(name="periodic.reset_plan_limits")
def reset_plan_limits() -> int:
    """Open the usage rows of every period that has begun since the last run."""
    return in_batches("reset_plan_limits", renewals.reset_limits)


def in_batches(
    task: str,
    batch: Callable[[Session, datetime, Worked], bool],
    *,
    clock: Callable[[Session], datetime] = database_now,
) -> int:
    """Work on batch after batch, each in its own transaction, until nothing is due; returns how many rows were written.

    One tick of a task works at a time, and whoever finds another at work ends: they would wait for each other's rows,
    and note them as blocked.
    """
    worked, more = Worked(), True
    while more:
        with transaction(lock_timeout_s=LOCK_TIMEOUT_S) as session:
            if not periodic_runs.try_lock(session, task):
                break
            now = clock(session)
            more = batch(session, now, worked)
            if not more:
                periodic_runs.note(session, task, worked=worked.periods, blocked=len(worked.blocked), now=now)
    for account_id, error in worked.blocked.items():
        log.error("subscription_blocked", task=task, account_id=account_id, error=error)
    return worked.periods


@app.task(name="periodic.roll_up_revenue")
def roll_up_revenue() -> int:
    """Add what changed since the last tick to the revenue roll-ups, batch by batch; returns how many changes that was.

    It ends after so many batches, however fast new changes come: the next tick goes on.
    """
    changes = 0
    for batch in range(1, ROLL_UP_BATCHES + 1):
        with transaction() as session:
            now = database_now(session)
            taken = revenue.roll_up(session, now=now, limit=revenue.BATCH)
            changes += taken
            if taken < revenue.BATCH or batch == ROLL_UP_BATCHES:
                periodic_runs.note(session, "roll_up_revenue", worked=changes, now=now)
                break
    return changes


@app.task(name="periodic.deliver_webhooks")
def deliver_webhooks() -> int:
    """Have the webhooks delivered that are due, such as those that failed before; returns how many there are."""
    with transaction() as session:
        now = database_now(session)
        there_are_any, due = deliveries.standing(session, now=now)
        periodic_runs.note(session, "deliver_webhooks", worked=due, now=now)
    endings.expect_webhooks(there_are_any)
    if due:
        pipeline.deliver_webhooks()
    return due


@app.task(name="periodic.audit_books")
def audit_books() -> int:
    """Check the books; each finding is logged as an error, and freezes the account whose credits do not add up.

    The run is kept, so that its figures can be watched (`creditmill metrics`).
    """
    with transaction(isolation="REPEATABLE READ", whole_tables=True) as session:
        findings = audit.audit_changed(session, now=database_now(session))
    for finding in findings:
        log.error("audit_finding", rule=finding.rule, row=finding.row, problem=finding.problem)
    with transaction() as session:
        frozen = audit.freeze(session, findings)
        now = database_now(session)
        audit.note(session, findings, frozen, now=now)
        periodic_runs.note(session, "audit_books", worked=len(findings), now=now)
    for account_id in frozen:
        log.error("account_frozen", account_id=account_id, hint="look into it, then: creditmill accounts unfreeze")
    # Nothing to do with the books, but as rarely due.
    giving_up.forget_old()
    return len(findings)
