"""Queries over messages that were set aside."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from billing.paging import Key
from billing.upkeep.tables import DeadMessage


def keep(session: Session, values: dict[str, Any]) -> None:
    """Keep a message that cannot be worked on; a repeat of it is counted, not kept twice."""
    statement = insert(DeadMessage).values(**values)
    # A repeat is set aside again, even if the message was redriven meanwhile.
    anew = {name: statement.excluded[name] for name in ("code", "reason", "body_encrypted")}
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["message_id"],
            set_={"times_seen": DeadMessage.times_seen + 1, "redriven_at": None, **anew},
        )
    )


def of_job(session: Session, job_id: UUID) -> DeadMessage | None:
    """The message that asked for this job, if it was set aside."""
    return session.scalar(select(DeadMessage).where(DeadMessage.job_id == job_id).limit(1))


def count(session: Session) -> int:
    """How many messages are set aside."""
    return session.scalar(select(func.count()).where(DeadMessage.redriven_at.is_(None))) or 0


def newest(session: Session, *, after: Key | None, limit: int) -> list[DeadMessage]:
    """The messages that are set aside, the newest first, behind the one of this number."""
    statement = select(DeadMessage).where(DeadMessage.redriven_at.is_(None)).order_by(DeadMessage.id.desc())
    if after is not None:
        statement = statement.where(DeadMessage.id < after[0])
    return list(session.scalars(statement.limit(limit)))


def find(session: Session, dead_id: int) -> DeadMessage | None:
    """The message of this number."""
    return session.get(DeadMessage, dead_id) if 0 < dead_id < 2**63 else None


def mark_redriven(session: Session, dead_id: int, *, now: datetime) -> None:
    """Record that a message was worked on after all; the row stays as evidence, its body is deleted."""
    session.execute(update(DeadMessage).where(DeadMessage.id == dead_id).values(redriven_at=now, body_encrypted=None))


def bodies(session: Session) -> Iterator[tuple[int, str]]:
    """Every body that is kept, encrypted, with its message's number; some at a time."""
    statement = select(DeadMessage.id, DeadMessage.body_encrypted).where(DeadMessage.body_encrypted.is_not(None))
    found = session.execute(statement.order_by(DeadMessage.id).execution_options(yield_per=20))
    yield from ((dead_id, token) for dead_id, token in found if token is not None)


def replace_body(session: Session, dead_id: int, token: str) -> None:
    """Keep this body instead, unless it was deleted meanwhile."""
    session.execute(
        update(DeadMessage)
        .where(DeadMessage.id == dead_id, DeadMessage.body_encrypted.is_not(None))
        .values(body_encrypted=token)
        .execution_options(synchronize_session=False)
    )
