"""The tables of jobs: each request, what was delivered, each wire call, and what a settled job used."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    Integer,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

# A reference has the type of what it refers to: whoever has these tables needs those of accounts and keys.
import billing.access.tables
import billing.ledger.tables  # noqa: F401
from billing.jobs.states import OPEN, TERMINAL, State
from billing.sql import in_list
from config.database import Base


class GenerationJob(Base):
    """One request and everything that was decided about it. While the state is open, it is the reservation itself."""

    __tablename__ = "generation_jobs"
    __table_args__ = (
        UniqueConstraint("account_id", "idempotency_key"),
        CheckConstraint(in_list("state", State), name="state"),
        CheckConstraint("kind IN ('text', 'image', 'embedding')", name="kind"),
        CheckConstraint(f"({in_list('state', TERMINAL)}) = (finished_at IS NOT NULL)", name="terminal_is_finished"),
        CheckConstraint(f"NOT ({in_list('state', OPEN)}) OR price IS NOT NULL", name="open_has_price"),
        CheckConstraint("(state = 'calling') = (lease_until IS NOT NULL)", name="calling_is_leased"),
        CheckConstraint("taken_until IS NULL OR state = 'queued'", name="taken_is_queued"),
        CheckConstraint("(state = 'settled') = (credits_charged IS NOT NULL)", name="settled_is_charged"),
        # The estimate is an upper bound, so a charge never needs more than was reserved.
        CheckConstraint("credits_charged BETWEEN 0 AND credits_reserved", name="charge_within_reservation"),
        CheckConstraint("limit_used BETWEEN 0 AND limit_reserved", name="limit_within_reservation"),
        CheckConstraint("credits_reserved >= 0 AND credits_overrun >= 0 AND cost_usd >= 0", name="not_negative"),
        CheckConstraint("attempts >= 0", name="attempts"),
        CheckConstraint("parts_delivered BETWEEN 0 AND attempts", name="parts_delivered"),
        # Whoever paid for nothing was delivered nothing: what had been is concluded and charged, or written off.
        CheckConstraint("state <> 'refunded' OR parts_delivered = 0", name="refunded_delivers_nothing"),
        # What the recovery task looks for: the open work, by when it is due for attention.
        Index(
            "ix_generation_jobs_due",
            "next_at",
            postgresql_where=text("state IN ('queued', 'reserved', 'calling', 'unknown', 'generated')"),
        ),
        # What a take looks for: the waiting jobs of each account, and the accounts that are in another take.
        Index(
            "ix_generation_jobs_waiting",
            "account_id",
            "created_at",
            "id",
            postgresql_where=text("state = 'queued' AND taken_until IS NULL AND republished = 0"),
        ),
        Index("ix_generation_jobs_taken", "account_id", postgresql_where=text("taken_until IS NOT NULL")),
        # Without what is open: each step of a job would add an entry.
        Index("ix_generation_jobs_finished_at", "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
        # What the bound on open jobs counts, and lists show of them.
        Index(
            "ix_generation_jobs_unfinished",
            "account_id",
            "created_at",
            "id",
            postgresql_where=text("finished_at IS NULL"),
        ),
        # What lists show of finished jobs: those of one account, and all.
        Index(
            "ix_generation_jobs_listed_by_account",
            "account_id",
            "created_at",
            "id",
            postgresql_where=text("finished_at IS NOT NULL"),
        ),
        Index("ix_generation_jobs_listed", "created_at", "id", postgresql_where=text("finished_at IS NOT NULL")),
        {"postgresql_with": {"fillfactor": 70}},
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    operation_type: Mapped[str]
    model_name: Mapped[str]
    provider: Mapped[str]
    kind: Mapped[str]
    state: Mapped[str] = mapped_column(server_default=State.QUEUED)
    params: Mapped[dict[str, Any]]
    idempotency_key: Mapped[str]
    request_hash: Mapped[str]
    related_object_type: Mapped[str | None]
    related_object_id: Mapped[int | None]
    # By what the use of a plan's limit is told apart, such as a site of the account.
    label: Mapped[str | None]
    # The key that it was submitted with, where it came by the API.
    api_key_id: Mapped[int | None] = mapped_column(ForeignKey("api_keys.id"))

    # What the request can use at most, and the prices that it was reserved at.
    work: Mapped[dict[str, Any]]
    # The parameters that the request left open, each with the tier whose settings filled it in; NULL for older jobs.
    settings_used: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    price: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    credits_estimated: Mapped[int | None]
    credits_reserved: Mapped[int] = mapped_column(server_default="0")
    credits_charged: Mapped[int | None]
    credits_overrun: Mapped[int] = mapped_column(server_default="0")
    # What the provider is owed for this job, all attempts together, in USD.
    cost_usd: Mapped[Decimal] = mapped_column(server_default="0")

    limit_type: Mapped[str | None]
    limit_unit: Mapped[str | None]
    limit_period_start: Mapped[date | None]
    limit_reserved: Mapped[int] = mapped_column(server_default="0")
    limit_used: Mapped[int | None]

    # Wire calls made so far; the number of the latest one fences late writers.
    attempts: Mapped[int] = mapped_column(Integer, server_default="0")
    # How many of its calls delivered their part of the images, or all that was asked for.
    parts_delivered: Mapped[int] = mapped_column(Integer, server_default="0")
    lease_until: Mapped[datetime | None]
    # When recovery looks at this job again, unless a message has moved it on by then.
    next_at: Mapped[datetime]
    republished: Mapped[int] = mapped_column(Integer, server_default="0")
    # While a message has taken this queued job into its batch: until when recovery leaves it alone.
    taken_until: Mapped[datetime | None]
    deadline_at: Mapped[datetime]

    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    created_at: Mapped[datetime]
    reserved_at: Mapped[datetime | None]
    generated_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class GenerationResult(Base):
    """What the provider delivered for a job: its text, or its images."""

    __tablename__ = "generation_results"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("generation_jobs.id"), primary_key=True)
    content: Mapped[dict[str, Any]]
    finish_reason: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ProviderCall(Base):
    """One wire call to a provider: written before it is made, completed after it. The evidence for every cost."""

    __tablename__ = "provider_calls"
    __table_args__ = (
        UniqueConstraint("job_id", "attempt"),
        CheckConstraint("outcome IN ('succeeded', 'failed', 'unknown')", name="outcome"),
        CheckConstraint("(outcome IS NULL) = (finished_at IS NULL)", name="finished_has_outcome"),
        CheckConstraint("outcome <> 'succeeded' OR usage IS NOT NULL", name="success_has_usage"),
        CheckConstraint("cost_usd >= 0", name="cost_not_negative"),
        CheckConstraint("reported_cost_usd >= 0", name="reported_cost_not_negative"),
        # What an operator looks at: calls whose usage was mended, and whose cost the provider reports as another.
        Index("ix_provider_calls_usage_note", "finished_at", postgresql_where=text("usage_note IS NOT NULL")),
        Index("ix_provider_calls_reported_cost", "finished_at", postgresql_where=text("reported_cost_usd <> cost_usd")),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("generation_jobs.id"))
    attempt: Mapped[int] = mapped_column(Integer)
    provider: Mapped[str]
    model_name: Mapped[str]
    endpoint: Mapped[str]
    idempotency_key: Mapped[str]
    # Who made the claim: by this, a worker whose commit was not confirmed recognises its own claim.
    claimed_by: Mapped[UUID | None]
    # How often the provider was asked what became of this call, and when last.
    asked: Mapped[int] = mapped_column(Integer, server_default="0")
    asked_at: Mapped[datetime | None]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    outcome: Mapped[str | None]
    failure: Mapped[str | None]
    http_status: Mapped[int | None] = mapped_column(Integer)
    provider_code: Mapped[str | None]
    provider_request_id: Mapped[str | None]
    # Disjoint buckets, as the charge was computed from them; and what the provider itself said.
    usage: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    raw_usage: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    # Why the usage is not what the provider said, in the codes of `billing.jobs.mending`; NULL where it is.
    usage_note: Mapped[str | None]
    cost_usd: Mapped[Decimal] = mapped_column(server_default="0")
    # What the provider itself says that the call cost, in USD, kept beside ours; NULL where it says nothing.
    reported_cost_usd: Mapped[Decimal | None]
    # True where this cost was, or may have been, incurred and no customer pays for it.
    exposure: Mapped[bool] = mapped_column(server_default=text("false"))


class Resolution(Base):
    """How a call of unknown outcome was resolved, by whom, and on what evidence. Rows are only ever added."""

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


class CreditUsageLog(Base):
    """What one settled job used: credits, tokens or images, its cost and its revenue."""

    __tablename__ = "credit_usage_logs"
    __table_args__ = (
        UniqueConstraint("job_id"),
        CheckConstraint("credits_used >= 0 AND cost_usd >= 0 AND revenue_usd >= 0", name="not_negative"),
        Index(
            "ix_credit_usage_logs_account_id_operation_type_created_at", "account_id", "operation_type", "created_at"
        ),
        Index("ix_credit_usage_logs_operation_type_model_used_id", "operation_type", "model_used", "id"),
        Index("ix_credit_usage_logs_created_at", "created_at"),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    job_id: Mapped[UUID] = mapped_column(ForeignKey("generation_jobs.id"))
    operation_type: Mapped[str]
    model_used: Mapped[str]
    credits_used: Mapped[int]
    cost_usd: Mapped[Decimal]
    price_per_credit_usd: Mapped[Decimal]
    revenue_usd: Mapped[Decimal]
    tokens_input: Mapped[int]
    tokens_input_cached: Mapped[int]
    tokens_output: Mapped[int]
    tokens_reasoning: Mapped[int]
    images: Mapped[int]
    related_object_type: Mapped[str | None]
    related_object_id: Mapped[int | None]
    details: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=text("'{}'::jsonb"))
    created_at: Mapped[datetime]
