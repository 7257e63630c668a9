"""The tables of the ledger: accounts, their users, and every change of a balance."""

import sqlalchemy as sa
from alembic import op

from billing.migrations.first.columns import INSTANT, JSON


def accounts() -> None:
    op.create_table(
        "accounts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("billing_email", sa.Text()),
        sa.Column("time_zone", sa.Text(), server_default="UTC", nullable=False),
        sa.Column("balance", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("reserved", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("frozen_reason", sa.Text()),
        sa.Column("created_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_accounts")),
        # What an account has always covers what its open jobs hold: nothing can be spent twice.
        sa.CheckConstraint("balance - reserved >= 0", name=op.f("ck_accounts_balance_covers_reserved")),
        sa.CheckConstraint("reserved >= 0", name=op.f("ck_accounts_reserved_not_negative")),
        # Every reservation and settlement updates this row: the updates find room on its page.
        postgresql_with={"fillfactor": 50},
    )
    op.create_table(
        "users",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_users_account_id")),
        sa.UniqueConstraint("email", name=op.f("uq_users_email")),
    )
    op.create_index("ix_users_account_id", "users", ["account_id"])


def transactions() -> None:
    op.create_table(
        "credit_transactions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("transaction_type", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("balance_after", sa.BigInteger(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Uuid()),
        sa.Column("subscription_id", sa.BigInteger()),
        sa.Column("period_start", sa.Date()),
        sa.Column("idempotency_key", sa.Text(), nullable=False),
        sa.Column("metadata", JSON, server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_credit_transactions")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_credit_transactions_account_id")),
        sa.ForeignKeyConstraint(["job_id"], ["generation_jobs.id"], name=op.f("fk_credit_transactions_job_id")),
        sa.ForeignKeyConstraint(
            ["subscription_id", "period_start"],
            ["subscription_periods.subscription_id", "subscription_periods.period_start"],
            name=op.f("fk_credit_transactions_subscription_id"),
        ),
        sa.UniqueConstraint(
            "account_id", "idempotency_key", name=op.f("uq_credit_transactions_account_id_idempotency_key")
        ),
        sa.CheckConstraint(
            "transaction_type IN ('purchase', 'subscription', 'refund', 'deduction', 'adjustment')",
            name=op.f("ck_credit_transactions_transaction_type"),
        ),
        sa.CheckConstraint(
            "CASE transaction_type WHEN 'deduction' THEN amount <= 0 WHEN 'adjustment' THEN amount <> 0 "
            "ELSE amount > 0 END",
            name=op.f("ck_credit_transactions_sign"),
        ),
        sa.CheckConstraint(
            "(transaction_type = 'subscription') = (subscription_id IS NOT NULL) "
            "AND (subscription_id IS NULL) = (period_start IS NULL)",
            name=op.f("ck_credit_transactions_subscription_has_period"),
        ),
        sa.CheckConstraint("balance_after >= 0", name=op.f("ck_credit_transactions_balance_after_not_negative")),
        sa.CheckConstraint(
            "(transaction_type = 'deduction') = (job_id IS NOT NULL)",
            name=op.f("ck_credit_transactions_deduction_has_job"),
        ),
    )
    op.create_index("ix_credit_transactions_account_id_created_at", "credit_transactions", ["account_id", "created_at"])
    op.create_index(
        "ix_credit_transactions_account_id_transaction_type", "credit_transactions", ["account_id", "transaction_type"]
    )
    op.create_index(
        "uq_credit_transactions_one_deduction_a_job",
        "credit_transactions",
        ["job_id"],
        unique=True,
        postgresql_where=sa.text("transaction_type = 'deduction'"),
    )
    op.create_index(
        "uq_credit_transactions_one_grant_a_period",
        "credit_transactions",
        ["subscription_id", "period_start"],
        unique=True,
        postgresql_where=sa.text("transaction_type = 'subscription'"),
    )
