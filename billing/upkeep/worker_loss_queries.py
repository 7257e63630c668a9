"""Queries over worker losses: how many workers in a row were lost while they worked on one message."""

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
    """Forget the losses over these messages: their work has ended."""
    session.execute(delete(WorkerLoss).where(WorkerLoss.subject.in_(list(subjects))))


def forget_before(session: Session, before: datetime) -> None:
    """Forget the losses over messages that were last delivered before this instant."""
    session.execute(delete(WorkerLoss).where(WorkerLoss.last_at < before))
