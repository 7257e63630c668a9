"""Queries over the runs of periodic tasks, and the lock that lets one of each work at a time."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from billing.upkeep.tables import PeriodicRun


def try_lock(session: Session, task: str) -> bool:
    """Lock a task until the transaction ends; False, without any waiting, while somebody else has locked it."""
    key = func.hashtext(f"creditmill.periodic_runs.{task}")
    return session.scalars(select(func.pg_try_advisory_xact_lock(key))).one()


def add(session: Session, task: str, *, worked: int, blocked: int, now: datetime) -> None:
    """Count one more run of this task, which ended now."""
    first = insert(PeriodicRun).values(task=task, runs=1, worked=worked, blocked=blocked, first_at=now, finished_at=now)
    more = first.on_conflict_do_update(
        index_elements=["task"],
        set_={
            "runs": PeriodicRun.runs + 1,
            "worked": PeriodicRun.worked + worked,
            "blocked": blocked,
            # By a clock that was set back since, the first run is yet to come.
            "first_at": func.least(PeriodicRun.first_at, now),
            "finished_at": now,
        },
    )
    session.execute(more)


def find_all(session: Session) -> list[PeriodicRun]:
    """The row of each task that has run to its end."""
    return list(session.scalars(select(PeriodicRun).order_by(PeriodicRun.task)))
