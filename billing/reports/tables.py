"""The tables of reports: the roll-ups, the changes that are still to be added to them, and when the audit ran."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import CheckConstraint, Computed, Identity, Index, Integer
from sqlalchemy.orm import Mapped, mapped_column

from config.database import Base


class RevenueRollup(Base):
    """Revenue, provider cost and volume of one day (UTC) x account x operation x model.

    No CHECK and no foreign key: what is wrong here is wrong in its sources, or a finding of the audit.
    """

    __tablename__ = "revenue_rollups"

    day: Mapped[date] = mapped_column(primary_key=True)
    account_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    operation_type: Mapped[str] = mapped_column(primary_key=True)
    model_name: Mapped[str] = mapped_column(primary_key=True)
    jobs: Mapped[int]
    jobs_settled: Mapped[int]
    credits: Mapped[int]
    credits_overrun: Mapped[int]
    revenue_usd: Mapped[Decimal]
    cost_usd: Mapped[Decimal]
    exposure_usd: Mapped[Decimal]
    margin_usd: Mapped[Decimal] = mapped_column(Computed("revenue_usd - cost_usd", persisted=True))
    tokens_input: Mapped[int]
    tokens_input_cached: Mapped[int]
    tokens_output: Mapped[int]
    tokens_reasoning: Mapped[int]
    images: Mapped[int]
    computed_at: Mapped[datetime]


class RevenueChange(Base):
    """By how much a change of a job, its usage or its exposure moves a roll-up. Triggers write it, a tick takes it."""

    __tablename__ = "revenue_changes"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    day: Mapped[date]
    account_id: Mapped[int]
    operation_type: Mapped[str]
    model_name: Mapped[str]
    jobs: Mapped[int] = mapped_column(server_default="0")
    jobs_settled: Mapped[int] = mapped_column(server_default="0")
    credits: Mapped[int] = mapped_column(server_default="0")
    credits_overrun: Mapped[int] = mapped_column(server_default="0")
    revenue_usd: Mapped[Decimal] = mapped_column(server_default="0")
    cost_usd: Mapped[Decimal] = mapped_column(server_default="0")
    exposure_usd: Mapped[Decimal] = mapped_column(server_default="0")
    tokens_input: Mapped[int] = mapped_column(server_default="0")
    tokens_input_cached: Mapped[int] = mapped_column(server_default="0")
    tokens_output: Mapped[int] = mapped_column(server_default="0")
    tokens_reasoning: Mapped[int] = mapped_column(server_default="0")
    images: Mapped[int] = mapped_column(server_default="0")


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


class AuditChange(Base):
    """A job whose charge the periodic audit has still to compute again: triggers add it, the audit takes it away."""

    __tablename__ = "audit_changes"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    job_id: Mapped[UUID]
