"""The tables of plans: what they include, who is subscribed, each period, and what was used of a limit."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from billing.periods import Interval
from billing.plans.lifecycle import Status
from billing.sql import in_list
from config.database import Base


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


class Subscription(Base):
    """An account's plan. Periods are counted from `anchor_date` in the account's time zone.

    The row is the standing that was last written; `billing.plans.subscribed` computes the standing at an instant.
    """

    __tablename__ = "subscriptions"
    __table_args__ = (
        CheckConstraint(in_list("status", Status), name="status"),
        CheckConstraint("current_period_start < current_period_end", name="period"),
        CheckConstraint("(status = 'past_due') = (grace_until IS NOT NULL)", name="past_due_has_grace"),
        CheckConstraint("(status = 'cancelled') = (renews_at IS NULL)", name="live_renews"),
        Index("ix_subscriptions_renews_at", "renews_at", postgresql_where=text("renews_at IS NOT NULL")),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), unique=True)
    plan_id: Mapped[int] = mapped_column(ForeignKey("plans.id"), index=True)
    # The plan that takes over when the current period ends.
    next_plan_id: Mapped[int | None] = mapped_column(ForeignKey("plans.id"))
    status: Mapped[str] = mapped_column(server_default=Status.ACTIVE)
    anchor_date: Mapped[date]
    current_period_start: Mapped[date]
    current_period_end: Mapped[date]
    cancel_at_period_end: Mapped[bool] = mapped_column(server_default=text("false"))
    # While past due: the first day on which the account is no longer served.
    grace_until: Mapped[date | None]
    # The instant of the next turn: the period's end, or that of the grace. None when no turn will come.
    renews_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())


class SubscriptionPeriod(Base):
    """One period of a subscription: its plan, the credits that it includes, and what was done about them."""

    __tablename__ = "subscription_periods"
    __table_args__ = (
        CheckConstraint("period_start < period_end", name="period"),
        CheckConstraint(in_list("status", set(Status) - {Status.CANCELLED}), name="status"),
        CheckConstraint("credits >= 0 AND credits_withheld >= 0", name="not_negative"),
        CheckConstraint("credits > 0 OR NOT granted", name="grants_something"),
        CheckConstraint("credits + credits_withheld <= included_credits", name="within_included"),
        # What the periodic tasks look for: the periods that they have not worked on.
        Index("ix_subscription_periods_to_grant", "starts_at", postgresql_where=text("credits > 0 AND NOT granted")),
        Index("ix_subscription_periods_to_open", "starts_at", postgresql_where=text("NOT limits_opened")),
    )

    subscription_id: Mapped[int] = mapped_column(ForeignKey("subscriptions.id"), primary_key=True)
    period_start: Mapped[date] = mapped_column(primary_key=True)
    # The first day that is no longer part of the period.
    period_end: Mapped[date]
    plan_id: Mapped[int] = mapped_column(ForeignKey("plans.id"))
    # The subscription's status when the period began.
    status: Mapped[str]
    starts_at: Mapped[datetime]
    # The plan's credits when the period began: it grants those of the days that no earlier period covers. None in rows
    # that are older than this rule.
    included_credits: Mapped[int | None]
    # Credits that the period grants; those of a period that began past due are withheld until the payment comes.
    credits: Mapped[int]
    credits_withheld: Mapped[int] = mapped_column(server_default="0")
    granted: Mapped[bool] = mapped_column(server_default=text("false"))
    limits_opened: Mapped[bool] = mapped_column(server_default=text("false"))


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
        """How much of the plan's limit was used, in whole percent and at most 100; 0 for a limit of 0."""
        return min(100, self.amount_used * 100 // plan_limit) if plan_limit else 0

    def is_current_period(self, today: date) -> bool:
        """Whether this day, in the account's time zone, lies in the row's period; its end does not."""
        return self.period_start <= today < self.period_end
