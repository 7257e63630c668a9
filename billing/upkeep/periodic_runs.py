"""Runs of periodic tasks: who may work now, and what is kept of the runs that came to their end.

What is due, and what was done already, is not known here: each task finds it in the rows that it works on.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from billing.upkeep import periodic_run_queries


@dataclass(frozen=True)
class Run:
    """The last run of a periodic task that came to its end."""

    finished_at: datetime
    # How many rows it could not work on.
    blocked: int
    # When the task's first run ended.
    first_at: datetime


def try_lock(session: Session, task: str) -> bool:
    """Be the only one to work on this task until the transaction ends; False when somebody else is."""
    return periodic_run_queries.try_lock(session, task)


def note(session: Session, task: str, *, worked: int = 0, blocked: int = 0, now: datetime) -> None:
    """Note that a run of this task has come to its end: how many rows it wrote, and how many it could not work on."""
    periodic_run_queries.add(session, task, worked=worked, blocked=blocked, now=now)


def latest(session: Session) -> dict[str, Run]:
    """The last run of each task that has run to its end, by the task's name."""
    return {
        row.task: Run(finished_at=row.finished_at, blocked=row.blocked, first_at=row.first_at)
        for row in periodic_run_queries.find_all(session)
    }
