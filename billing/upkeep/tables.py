"""The tables of upkeep: messages that were set aside, workers that were lost over a message, and periodic runs."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    Identity,
    Integer,
    Text,
    func,
)
from sqlalchemy.orm import Mapped, mapped_column

from config.database import Base


class DeadMessage(Base):
    """A message that cannot be worked on, set aside so that it blocks no queue. Its body is kept encrypted."""

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
    # When an operator redrove it.
    redriven_at: Mapped[datetime | None]


class WorkerLoss(Base):
    """How many workers in a row were lost while they worked on one message."""

    __tablename__ = "worker_losses"
    __table_args__ = (CheckConstraint("losses >= 1", name="counted"),)

    subject: Mapped[str] = mapped_column(primary_key=True)
    losses: Mapped[int] = mapped_column(Integer)
    last_at: Mapped[datetime]


class PeriodicRun(Base):
    """One hour of one periodic task: who has claimed it, and when its work last finished."""

    __tablename__ = "periodic_runs"
    __table_args__ = (
        CheckConstraint("(claimed_by IS NULL) = (lease_until IS NULL)", name="claim_is_leased"),
        CheckConstraint("runs >= 0 AND worked >= 0 AND blocked >= 0", name="not_negative"),
    )

    task: Mapped[str] = mapped_column(primary_key=True)
    # The hour's first instant.
    period: Mapped[datetime] = mapped_column(primary_key=True)
    claimed_by: Mapped[UUID | None]
    lease_until: Mapped[datetime | None]
    runs: Mapped[int] = mapped_column(Integer, server_default="0")
    # How many rows it wrote in this hour, and how many it could not work on when it last ran.
    worked: Mapped[int] = mapped_column(server_default="0")
    blocked: Mapped[int] = mapped_column(Integer, server_default="0")
    finished_at: Mapped[datetime | None]
