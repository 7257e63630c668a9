"""Queries over the runs of periodic tasks: one row for each task and hour (UTC).

A task that owes something to every hour claims the hours in their order; one that only looks at the present notes that
it ran. An hour is closed when it was worked on after it had ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from billing.upkeep.tables import PeriodicRun

HOUR = timedelta(hours=1)
LEASE = timedelta(minutes=3)
"""How long a claim lasts after its last step: longer than any statement may take."""


@dataclass(frozen=True)
class Claim:
    """The right to work on one hour of a task, for as long as its lease lasts."""

    task: str
    period: datetime
    by: UUID

    @property
    def end(self) -> datetime:
        """The last instant of the hour."""
        return self.period + HOUR - timedelta(microseconds=1)


def hour_of(at: datetime) -> datetime:
    """The first instant of the hour (UTC) that holds this one."""
    return at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def claim(
    session: Session, task: str, *, by: UUID, oldest: datetime | None, blocked: int, now: datetime
) -> Claim | None:
    """Claim the earliest hour that has something to do; None while somebody else works, and when nothing is to do.

    `oldest` is the earliest instant for which there is something to do, now or later: hours before it are closed
    without work, with a note of how many accounts are blocked.
    """
    session.execute(
        text("SELECT pg_advisory_xact_lock(hashtext('creditmill.periodic_runs.' || :task))"), {"task": task}
    )
    newest = session.scalar(select(func.max(PeriodicRun.period)).where(PeriodicRun.task == task))
    present = hour_of(now)
    due = present if oldest is None else hour_of(min(oldest, now))
    # Hours before the first run were nobody's: what is older is worked on in the present one.
    first = present
    if newest is not None:
        # Locked, it is in the middle of a batch, however old its lease: there is nothing to wait for.
        latest = session.get(PeriodicRun, (task, newest), with_for_update={"skip_locked": True}, populate_existing=True)
        if latest is None or _is_held(latest, now):
            return None
        closed = latest.finished_at is not None and latest.finished_at >= newest + HOUR
        # After a clock was set back this lies ahead, and stands for the present until the clock is there again.
        first = newest + HOUR if closed else newest
    period = max(first, due)
    _close(session, task, first, period, now)
    if oldest is None or oldest > now:
        _note(session, task, period, worked=0, blocked=blocked, now=now)
        return None
    # What was blocked stays until this run's end says otherwise.
    values = {"claimed_by": by, "lease_until": now + LEASE}
    statement = insert(PeriodicRun).values(task=task, period=period, runs=1, **values)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["task", "period"], set_={"runs": PeriodicRun.runs + 1, **values}
        )
    )
    return Claim(task, period, by)


def go_on(session: Session, claim: Claim, *, now: datetime) -> bool:
    """Prolong a claim and lock it up to the commit; False when somebody else has taken it over."""
    return _hold(session, claim, lease_until=now + LEASE)


def note_work(session: Session, claim: Claim, worked: int) -> None:
    """Count rows that were written under this claim."""
    _hold(session, claim, worked=PeriodicRun.worked + worked)


def finish(session: Session, claim: Claim, *, blocked: int, now: datetime) -> None:
    """End the work on a claimed hour, in the transaction of its last effect."""
    _hold(session, claim, claimed_by=None, lease_until=None, blocked=blocked, finished_at=now)


def note(session: Session, task: str, *, worked: int = 0, blocked: int = 0, now: datetime) -> None:
    """Note that a task which looks at the present only has done its work in this hour."""
    _note(session, task, hour_of(now), worked=worked, blocked=blocked, now=now)


def first_at(session: Session) -> datetime | None:
    """When the first run of any task finished."""
    return session.scalar(select(func.min(PeriodicRun.finished_at)))


def latest(session: Session) -> dict[str, PeriodicRun]:
    """The last hour of each task that was worked on to its end."""
    newest = (
        select(PeriodicRun.task, func.max(PeriodicRun.period).label("period"))
        .where(PeriodicRun.finished_at.is_not(None))
        .group_by(PeriodicRun.task)
        .subquery()
    )
    joined = select(PeriodicRun).join(
        newest, (newest.c.task == PeriodicRun.task) & (newest.c.period == PeriodicRun.period)
    )
    return {run.task: run for run in session.scalars(joined)}


def _note(session: Session, task: str, period: datetime, *, worked: int, blocked: int, now: datetime) -> None:
    done = {"blocked": blocked, "claimed_by": None, "lease_until": None, "finished_at": now}
    statement = insert(PeriodicRun).values(task=task, period=period, runs=1, worked=worked, **done)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["task", "period"],
            set_={"runs": PeriodicRun.runs + 1, "worked": PeriodicRun.worked + worked, **done},
        )
    )


def _is_held(run: PeriodicRun, now: datetime) -> bool:
    # A lease that ends later than any that is given now was given by a clock that was set back since.
    return run.lease_until is not None and now < run.lease_until <= now + LEASE


def _close(session: Session, task: str, first: datetime, end: datetime, now: datetime) -> None:
    """Close the hours from `first` up to `end`, in which there was nothing to do."""
    if first >= end:
        return
    session.execute(
        text(
            "INSERT INTO periodic_runs AS r (task, period, finished_at) "
            "SELECT :task, hour, :now FROM generate_series(:first, :last, interval '1 hour') hour "
            "ON CONFLICT (task, period) DO UPDATE SET finished_at = :now, claimed_by = NULL, lease_until = NULL "
            "WHERE r.finished_at IS NULL OR r.finished_at < :now"
        ),
        {"task": task, "first": first, "last": end - HOUR, "now": now},
    )


def _hold(session: Session, claim: Claim, **values: object) -> bool:
    statement = (
        update(PeriodicRun)
        .where(PeriodicRun.task == claim.task, PeriodicRun.period == claim.period, PeriodicRun.claimed_by == claim.by)
        .values(**values)
        .returning(PeriodicRun.task)
    )
    return session.scalar(statement.execution_options(synchronize_session=False)) is not None
