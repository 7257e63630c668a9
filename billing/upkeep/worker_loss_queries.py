"""Queries over worker losses: how often in a row work was begun from which no worker came back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from billing.upkeep.tables import WorkerLoss


def count(session: Session, subject: str, *, now: datetime) -> int:
    """Count one more loss over this message; returns how many there were in a row."""
    first = insert(WorkerLoss).values(subject=subject, losses=1, last_at=now)
    more = first.on_conflict_do_update(
        index_elements=["subject"], set_={"losses": WorkerLoss.losses + 1, "last_at": now}
    )
    return session.scalars(more.returning(WorkerLoss.losses)).one()


def forget(session: Session, subjects: Sequence[str]) -> None:
    """Forget the losses of these: their work came to its end."""
    session.execute(delete(WorkerLoss).where(WorkerLoss.subject.in_(list(subjects))))


def forget_before(session: Session, before: datetime) -> None:
    """Forget losses that were never followed by another try."""
    session.execute(delete(WorkerLoss).where(WorkerLoss.last_at < before))
