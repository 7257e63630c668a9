"""The tables of reports: the roll-ups, the changes that are still to be added to them, and when the audit ran."""

import sqlalchemy as sa
from alembic import op

from billing.migrations.first.columns import INSTANT, USD


def tables() -> None:
    # No CHECK: what is added to a roll-up may be negative, and an insert is checked before it turns out to be an update;
    # the audit compares every figure with its source. No foreign key: a tick must not stand still because an account was
    # deleted by hand.
    op.create_table(
        "revenue_rollups",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("operation_type", sa.Text(), nullable=False),
        sa.Column("model_name", sa.Text(), nullable=False),
        sa.Column("jobs", sa.BigInteger(), nullable=False),
        sa.Column("jobs_settled", sa.BigInteger(), nullable=False),
        sa.Column("credits", sa.BigInteger(), nullable=False),
        sa.Column("revenue_usd", USD, nullable=False),
        sa.Column("cost_usd", USD, nullable=False),
        sa.Column("exposure_usd", USD, nullable=False),
        sa.Column("margin_usd", USD, sa.Computed("revenue_usd - cost_usd", persisted=True), nullable=False),
        sa.Column("tokens_input", sa.BigInteger(), nullable=False),
        sa.Column("tokens_input_cached", sa.BigInteger(), nullable=False),
        sa.Column("tokens_output", sa.BigInteger(), nullable=False),
        sa.Column("tokens_reasoning", sa.BigInteger(), nullable=False),
        sa.Column("images", sa.BigInteger(), nullable=False),
        sa.Column("computed_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("day", "account_id", "operation_type", "model_name", name=op.f("pk_revenue_rollups")),
    )
    # By how much a change of a job, its usage or its exposed calls moves a roll-up: triggers write it, a tick adds it up.
    op.create_table(
        "revenue_changes",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("operation_type", sa.Text(), nullable=False),
        sa.Column("model_name", sa.Text(), nullable=False),
        sa.Column("jobs", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("jobs_settled", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("credits", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("revenue_usd", USD, server_default="0", nullable=False),
        sa.Column("cost_usd", USD, server_default="0", nullable=False),
        sa.Column("exposure_usd", USD, server_default="0", nullable=False),
        sa.Column("tokens_input", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("tokens_input_cached", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("tokens_output", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("tokens_reasoning", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("images", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_revenue_changes")),
    )
    op.create_table(
        "audit_runs",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("ran_at", INSTANT, nullable=False),
        sa.Column("findings", sa.Integer(), nullable=False),
        sa.Column("accounts_frozen", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_runs")),
        sa.CheckConstraint("findings >= 0 AND accounts_frozen >= 0", name=op.f("ck_audit_runs_not_negative")),
    )
    op.create_index("ix_audit_runs_ran_at", "audit_runs", ["ran_at"])
