"""Worker losses: how many workers in a row were lost while they worked on one message."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from billing.upkeep import worker_loss_queries

KEPT = timedelta(days=1)
"""How long a count is kept after its message was last delivered."""


def count(session: Session, subject: str, *, now: datetime) -> int:
    """Count one more loss over this message; returns how many there were in a row."""
    return worker_loss_queries.count(session, subject, now=now)


def forget(session: Session, subjects: Sequence[str]) -> None:
    """Forget the losses over these messages: their work has ended."""
    worker_loss_queries.forget(session, subjects)


def forget_old(session: Session, *, now: datetime) -> None:
    """Forget the losses over messages that were not delivered for a day."""
    worker_loss_queries.forget_before(session, now - KEPT)
