"""The tables of the ledger: accounts, their users, and every change of a balance."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    Computed,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from config.database import Base

REASON = (
    "CASE transaction_type WHEN 'purchase' THEN 'sold' WHEN 'subscription' THEN 'plan' WHEN 'deduction' THEN 'used' "
    "WHEN 'adjustment' THEN CASE WHEN goodwill THEN 'goodwill' ELSE 'adjusted' END ELSE 'adjusted' END"
)
"""Why a ledger row was written, in a word: it follows from the type, and the database keeps it with the row."""


class Account(Base):
    """A customer: what it has (`balance`) and what its open jobs hold (`reserved`), in credits."""

    __tablename__ = "accounts"
    __table_args__ = (
        # The balance always covers what the open jobs hold, so nothing can be spent twice.
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
    # Whether the account or one of its users has settings of its own: triggers keep it true.
    has_settings: Mapped[bool] = mapped_column(server_default=text("false"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())

    @property
    def available(self) -> int:
        """Credits that a new job may reserve."""
        return self.balance - self.reserved


class User(Base):
    """A person who belongs to an account."""

    __tablename__ = "users"
    # What belongs to a user of an account refers to both.
    __table_args__ = (UniqueConstraint("id", "account_id"),)

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), index=True)
    email: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str] = mapped_column(server_default="")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


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
        CheckConstraint("NOT goodwill OR (transaction_type = 'adjustment' AND amount > 0)", name="goodwill_is_given"),
        CheckConstraint("length(actor) BETWEEN 1 AND 100", name="actor"),
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
        # What a statement lists: rows may be dated back, so their order is that of their ids.
        Index("ix_credit_transactions_account_id_id", "account_id", "id"),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    transaction_type: Mapped[str]
    # Credits: positive adds to the balance, negative takes from it.
    amount: Mapped[int]
    balance_after: Mapped[int]
    description: Mapped[str]
    # Who made it: a person, or the product itself.
    actor: Mapped[str] = mapped_column(server_default="creditmill")
    # Whether an adjustment is a gift. It is no sale, so its type is not that of one.
    goodwill: Mapped[bool] = mapped_column(server_default=text("false"))
    reason: Mapped[str] = mapped_column(Computed(REASON, persisted=True))
    job_id: Mapped[UUID | None] = mapped_column(ForeignKey("generation_jobs.id"))
    # The subscription's period whose included credits these are.
    subscription_id: Mapped[int | None]
    period_start: Mapped[date | None]
    idempotency_key: Mapped[str]
    details: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=text("'{}'::jsonb"))
    created_at: Mapped[datetime]
