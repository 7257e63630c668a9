"""The tables of upkeep: messages that were set aside, messages that end their worker, and periodic runs."""

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


class PeriodicRun(Base):
    """The runs of one periodic task that came to their end."""

    __tablename__ = "periodic_runs"
    __table_args__ = (CheckConstraint("runs >= 0 AND worked >= 0 AND blocked >= 0", name="not_negative"),)

    task: Mapped[str] = mapped_column(primary_key=True)
    runs: Mapped[int] = mapped_column(Integer)
    # How many rows all of them wrote, and how many the last one could not work on.
    worked: Mapped[int]
    blocked: Mapped[int] = mapped_column(Integer)
    # When the first and the last of them ended.
    first_at: Mapped[datetime]
    finished_at: Mapped[datetime]
