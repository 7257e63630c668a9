"""Working on every hour that a periodic task has missed, in their order, whoever else does the same.

An hour is claimed, its work is done batch by batch, and its end is committed together with its last effect. Whoever
dies leaves a claim that ends with its lease; whoever comes late to its own claim commits nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import uuid4

import structlog
from sqlalchemy.orm import Session

from billing.plans import renewals
from billing.plans.renewals import Worked
from billing.upkeep import periodic_runs
from config.database import database_now, transaction, wait_briefly

log = structlog.get_logger(__name__)

Clock = Callable[[Session], datetime]


@dataclass(frozen=True)
class Work:
    """What a task owes to every hour: its name, the earliest instant with something to do, and one batch of it."""

    task: str
    oldest: Callable[[Session, Worked], datetime | None]
    batch: Callable[[Session, datetime, Worked], None]


RENEWALS = Work("renew_subscriptions", renewals.oldest_to_renew, renewals.renew)
LIMITS = Work("reset_plan_limits", renewals.oldest_to_reset, renewals.reset_limits)


def catch_up(work: Work, *, clock: Clock = database_now) -> int:
    """Work on every hour that this task has not closed, up to the present one; returns how many rows it wrote."""
    me, worked = uuid4(), Worked()
    while True:
        with transaction() as session:
            now = clock(session)
            oldest, blocked = work.oldest(session, worked), len(worked.blocked)
            claim = periodic_runs.claim(session, work.task, by=me, oldest=oldest, blocked=blocked, now=now)
        if claim is None or not _whole_hour(work, claim, worked, clock) or claim.period >= periodic_runs.hour_of(now):
            break
    for account_id, error in worked.blocked.items():
        log.error("subscription_blocked", task=work.task, account_id=account_id, error=error)
    return worked.periods


def _whole_hour(work: Work, claim: periodic_runs.Claim, worked: Worked, clock: Clock) -> bool:
    worked.finished = False
    while not worked.finished:
        if not _one_batch(work, claim, worked, clock):
            return False
    return True


def _one_batch(work: Work, claim: periodic_runs.Claim, worked: Worked, clock: Clock) -> bool:
    """Do one batch of an hour's work, or end the hour; False when the claim was lost, and nothing was written."""
    before = worked.periods
    with transaction() as session:
        now = clock(session)
        if not periodic_runs.go_on(session, claim, now=now):
            log.warning("claim_lost", task=work.task, period=claim.period.isoformat())
            return False
        # One locked account must not hold up all others for as long as statements usually wait.
        wait_briefly(session)
        work.batch(session, min(claim.end, now), worked)
        periodic_runs.note_work(session, claim, worked.periods - before)
        if worked.finished:
            periodic_runs.finish(session, claim, blocked=len(worked.blocked), now=now)
    return True
