"""Messages that could not be understood, set aside with their reason. Bodies are encrypted: they may hold prompts."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from billing.store.tables import DeadMessage
from config.secrets import encrypt

BODY_MAX_CHARACTERS = 100_000


def set_aside(
    session: Session,
    *,
    message_id: str | None,
    task_name: str | None,
    code: str,
    reason: str,
    body: str,
    job_id: UUID | None = None,
) -> None:
    """Keep a message that cannot be worked on; the same message again is counted, not kept twice."""
    statement = insert(DeadMessage).values(
        message_id=message_id,
        job_id=job_id,
        task_name=(task_name or "")[:200] or None,
        code=code,
        reason=reason,
        body_encrypted=encrypt(body[:BODY_MAX_CHARACTERS]),
    )
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["message_id"], set_={"times_seen": DeadMessage.times_seen + 1, "reason": reason}
        )
    )


def of_job(session: Session, job_id: UUID) -> DeadMessage | None:
    """The message that asked for this job, if it was set aside."""
    return session.scalar(select(DeadMessage).where(DeadMessage.job_id == job_id).limit(1))


def count(session: Session) -> int:
    """How many messages were set aside."""
    return session.scalar(select(func.count()).select_from(DeadMessage)) or 0
