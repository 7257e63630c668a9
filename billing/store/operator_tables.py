"""The tables of operators: what was set aside, what was resolved, what kills its worker, and when the audit ran."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Identity, Index, Integer, Text, UniqueConstraint, func
from sqlalchemy.orm import Mapped, mapped_column

from config.database import Base


class Resolution(Base):
    """What somebody found out about a call of unknown outcome, and how they know. Rows are only ever added."""

    __tablename__ = "resolutions"
    __table_args__ = (
        UniqueConstraint("call_id"),
        CheckConstraint("outcome IN ('delivered', 'executed', 'not_executed')", name="outcome"),
        CheckConstraint("length(evidence) BETWEEN 1 AND 2000", name="evidence"),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    call_id: Mapped[int] = mapped_column(ForeignKey("provider_calls.id"))
    outcome: Mapped[str]
    evidence: Mapped[str]
    actor: Mapped[str]
    resolved_at: Mapped[datetime]


class DeadMessage(Base):
    """A message that could not be understood, set aside so that it blocks no queue. Its body is kept encrypted."""

    __tablename__ = "dead_messages"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    message_id: Mapped[str | None] = mapped_column(Text, unique=True)
    job_id: Mapped[UUID | None] = mapped_column(index=True)
    task_name: Mapped[str | None]
    code: Mapped[str]
    reason: Mapped[str]
    body_encrypted: Mapped[str | None]
    times_seen: Mapped[int] = mapped_column(Integer, server_default="1")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    # When an operator had it worked on after all.
    redriven_at: Mapped[datetime | None]


class WorkerLoss(Base):
    """How often in a row the work of a message was begun from which its worker did not come back."""

    __tablename__ = "worker_losses"
    __table_args__ = (CheckConstraint("losses >= 1", name="counted"),)

    subject: Mapped[str] = mapped_column(primary_key=True)
    losses: Mapped[int] = mapped_column(Integer)
    last_at: Mapped[datetime]


class AuditRun(Base):
    """One run of the periodic audit, and what it found."""

    __tablename__ = "audit_runs"
    __table_args__ = (
        CheckConstraint("findings >= 0 AND accounts_frozen >= 0", name="not_negative"),
        Index("ix_audit_runs_ran_at", "ran_at"),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    ran_at: Mapped[datetime]
    findings: Mapped[int] = mapped_column(Integer)
    accounts_frozen: Mapped[int] = mapped_column(Integer)
