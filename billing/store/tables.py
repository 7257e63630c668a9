"""The tables of accounts, jobs and the ledger, with the constraints that say what must never happen.

Columns take the names of the product's specification. The catalogue's tables are in `catalog_tables`.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from billing.domain.periods import Interval
from billing.domain.states import OPEN, TERMINAL, State
from config.database import Base


def in_list(column: str, values: object) -> str:
    """`column IN ('a', 'b')`, for a CHECK."""
    quoted = ", ".join(f"'{value}'" for value in sorted(map(str, values)))  # type: ignore[call-overload]
    return f"{column} IN ({quoted})"


class Plan(Base):
    """What a subscription includes: credits each period, and limits by type (a missing type is unlimited)."""

    __tablename__ = "plans"
    __table_args__ = (
        CheckConstraint("included_credits >= 0 AND price >= 0", name="amounts"),
        CheckConstraint(in_list("billing_interval", Interval), name="billing_interval"),
        CheckConstraint(
            "jsonb_typeof(limits) = 'object' AND NOT jsonb_path_exists(limits, "
            """'$.* ? (@.type() != "null" && (@.type() != "number" || @ < 0 || @.floor() != @))')""",
            name="limits_are_whole_numbers",
        ),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    slug: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    price: Mapped[Decimal] = mapped_column(server_default="0")
    included_credits: Mapped[int] = mapped_column(server_default="0")
    billing_interval: Mapped[str] = mapped_column(server_default=Interval.MONTH)
    limits: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    is_active: Mapped[bool] = mapped_column(server_default=text("true"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())


class Account(Base):
    """A customer: what it has (`balance`) and what its open jobs hold (`reserved`), in credits."""

    __tablename__ = "accounts"
    __table_args__ = (
        # What an account has always covers what its open jobs hold: nothing can be spent twice.
        CheckConstraint("balance - reserved >= 0", name="balance_covers_reserved"),
        CheckConstraint("reserved >= 0", name="reserved_not_negative"),
        # Every reservation and settlement updates this row: keep the updates on its page.
        {"postgresql_with": {"fillfactor": 50}},
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    name: Mapped[str]
    billing_email: Mapped[str | None]
    time_zone: Mapped[str] = mapped_column(server_default="UTC")
    balance: Mapped[int] = mapped_column(server_default="0")
    reserved: Mapped[int] = mapped_column(server_default="0")
    frozen_reason: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())

    @property
    def available(self) -> int:
        """Credits that a new job may reserve."""
        return self.balance - self.reserved


class User(Base):
    """A person who belongs to an account."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), index=True)
    email: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str] = mapped_column(server_default="")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


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
        CheckConstraint("(state = 'settled') = (credits_charged IS NOT NULL)", name="settled_is_charged"),
        # The estimate is an upper bound, so a charge never needs more than was reserved.
        CheckConstraint("credits_charged BETWEEN 0 AND credits_reserved", name="charge_within_reservation"),
        CheckConstraint("limit_used BETWEEN 0 AND limit_reserved", name="limit_within_reservation"),
        CheckConstraint("credits_reserved >= 0 AND credits_overrun >= 0 AND cost_usd >= 0", name="not_negative"),
        CheckConstraint("attempts >= 0", name="attempts"),
        Index("ix_generation_jobs_account_id_created_at", "account_id", "created_at"),
        # What the recovery task looks for: the open work, by when it is due for attention.
        Index(
            "ix_generation_jobs_due",
            "next_at",
            postgresql_where=text("state IN ('queued', 'reserved', 'calling', 'unknown', 'generated')"),
        ),
        Index("ix_generation_jobs_finished_at", "finished_at"),
        # What the bound on open jobs counts.
        Index("ix_generation_jobs_unfinished", "account_id", postgresql_where=text("finished_at IS NULL")),
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

    # What the request can use at most, and the prices that it was reserved at.
    work: Mapped[dict[str, Any]]
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
    lease_until: Mapped[datetime | None]
    # When somebody should look at this job again, should its messages be lost.
    next_at: Mapped[datetime]
    republished: Mapped[int] = mapped_column(Integer, server_default="0")
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
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("generation_jobs.id"))
    attempt: Mapped[int] = mapped_column(Integer)
    provider: Mapped[str]
    model_name: Mapped[str]
    endpoint: Mapped[str]
    idempotency_key: Mapped[str]
    # Who made the claim: a worker whose commit was not confirmed knows its own claim again.
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
    cost_usd: Mapped[Decimal] = mapped_column(server_default="0")
    # True where this cost was, or may have been, incurred and no customer pays for it.
    exposure: Mapped[bool] = mapped_column(server_default=text("false"))


class CreditTransaction(Base):
    """One change of a balance. Rows are only ever added: a trigger refuses UPDATE and DELETE."""

    __tablename__ = "credit_transactions"
    __table_args__ = (
        CheckConstraint(
            "transaction_type IN ('purchase', 'subscription', 'refund', 'deduction', 'adjustment')",
            name="transaction_type",
        ),
        CheckConstraint(
            "CASE transaction_type WHEN 'deduction' THEN amount <= 0 WHEN 'adjustment' THEN amount <> 0 "
            "ELSE amount > 0 END",
            name="sign",
        ),
        CheckConstraint(
            "(transaction_type = 'subscription') = (subscription_id IS NOT NULL) "
            "AND (subscription_id IS NULL) = (period_start IS NULL)",
            name="subscription_has_period",
        ),
        ForeignKeyConstraint(
            ["subscription_id", "period_start"],
            ["subscription_periods.subscription_id", "subscription_periods.period_start"],
            name="fk_credit_transactions_subscription_id",
        ),
        CheckConstraint("balance_after >= 0", name="balance_after_not_negative"),
        CheckConstraint("(transaction_type = 'deduction') = (job_id IS NOT NULL)", name="deduction_has_job"),
        UniqueConstraint("account_id", "idempotency_key"),
        Index(
            "uq_credit_transactions_one_deduction_a_job",
            "job_id",
            unique=True,
            postgresql_where=text("transaction_type = 'deduction'"),
        ),
        Index(
            "uq_credit_transactions_one_grant_a_period",
            "subscription_id",
            "period_start",
            unique=True,
            postgresql_where=text("transaction_type = 'subscription'"),
        ),
        Index("ix_credit_transactions_account_id_transaction_type", "account_id", "transaction_type"),
        Index("ix_credit_transactions_account_id_created_at", "account_id", "created_at"),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    transaction_type: Mapped[str]
    # Credits: positive adds to the balance, negative takes from it.
    amount: Mapped[int]
    balance_after: Mapped[int]
    description: Mapped[str]
    job_id: Mapped[UUID | None] = mapped_column(ForeignKey("generation_jobs.id"))
    # The subscription's period whose included credits these are.
    subscription_id: Mapped[int | None]
    period_start: Mapped[date | None]
    idempotency_key: Mapped[str]
    details: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=text("'{}'::jsonb"))
    created_at: Mapped[datetime]


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


class PlanLimitUsage(Base):
    """How much of one plan limit an account has used and holds in one period. A period's row is never reset."""

    __tablename__ = "plan_limit_usage"
    __table_args__ = (
        UniqueConstraint("account_id", "limit_type", "period_start"),
        CheckConstraint("amount_used >= 0 AND amount_reserved >= 0", name="not_negative"),
        CheckConstraint("period_start < period_end", name="period"),
        Index("ix_plan_limit_usage_limit_type_period_start", "limit_type", "period_start"),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    limit_type: Mapped[str] = mapped_column(ForeignKey("plan_limit_types.limit_type"))
    amount_used: Mapped[int] = mapped_column(server_default="0")
    amount_reserved: Mapped[int] = mapped_column(server_default="0")
    period_start: Mapped[date]
    # The first day that is no longer part of the period.
    period_end: Mapped[date]
    details: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=text("'{}'::jsonb"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())

    def remaining_allowance(self, plan_limit: int) -> int:
        """Units of the plan's limit that were not used yet, held ones included."""
        return max(0, plan_limit - self.amount_used)

    def percentage_used(self, plan_limit: int) -> int:
        """How much of the plan's limit was used, in whole percent and at most 100; of a limit of 0, nothing."""
        return min(100, self.amount_used * 100 // plan_limit) if plan_limit else 0

    def is_current_period(self, today: date) -> bool:
        """Whether this day, in the account's time zone, lies in the row's period; its end does not."""
        return self.period_start <= today < self.period_end
