"""The tables of subscriptions: who is subscribed to what, each period of it, and what periodic work was done."""

from __future__ import annotations

from datetime import date, datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Identity, Index, Integer, func, text
from sqlalchemy.orm import Mapped, mapped_column

from billing.domain.subscriptions import Status
from billing.store.tables import in_list
from config.database import Base


class Subscription(Base):
    """An account's plan. Periods are counted from `anchor_date` in the account's time zone.

    The row says how things stood at its last turn; `billing.store.subscriptions` says how they stand at an instant.
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
    # The instant of the next turn: the period's end, or that of the grace. None when nothing will come.
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
        # What the periodic tasks look for: the periods that they have not worked on.
        Index("ix_subscription_periods_to_grant", "starts_at", postgresql_where=text("credits > 0 AND NOT granted")),
        Index("ix_subscription_periods_to_open", "starts_at", postgresql_where=text("NOT limits_opened")),
    )

    subscription_id: Mapped[int] = mapped_column(ForeignKey("subscriptions.id"), primary_key=True)
    period_start: Mapped[date] = mapped_column(primary_key=True)
    # The first day that is no longer part of the period.
    period_end: Mapped[date]
    plan_id: Mapped[int] = mapped_column(ForeignKey("plans.id"))
    # How the subscription stood when the period began.
    status: Mapped[str]
    starts_at: Mapped[datetime]
    # Credits that the period grants; those of a period that began past due are withheld until the payment comes.
    credits: Mapped[int]
    credits_withheld: Mapped[int] = mapped_column(server_default="0")
    granted: Mapped[bool] = mapped_column(server_default=text("false"))
    limits_opened: Mapped[bool] = mapped_column(server_default=text("false"))


class PeriodicRun(Base):
    """One hour of one periodic task: who works on it, and when it was last worked to its end."""

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
