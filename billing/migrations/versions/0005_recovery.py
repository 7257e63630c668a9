"""For recovery: whose claim it is, what the provider was asked again, what kills its worker, and when the audit ran."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005_recovery"
down_revision = "0004_operators"
branch_labels = None
depends_on = None

COLUMNS: dict[str, list[sa.Column[Any]]] = {
    "provider_calls": [
        sa.Column("claimed_by", sa.Uuid(), nullable=True),
        sa.Column("asked", sa.Integer(), server_default="0", nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=True),
    ],
    "global_integration_settings": [
        sa.Column("openai_honours_keys", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    ],
}


def upgrade() -> None:
    for table, columns in COLUMNS.items():
        for column in columns:
            op.add_column(table, column)
    op.create_table(
        "worker_losses",
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("losses", sa.Integer(), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("losses >= 1", name=op.f("ck_worker_losses_counted")),
        sa.PrimaryKeyConstraint("subject", name=op.f("pk_worker_losses")),
    )
    op.create_table(
        "audit_runs",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("ran_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("findings", sa.Integer(), nullable=False),
        sa.Column("accounts_frozen", sa.Integer(), nullable=False),
        sa.CheckConstraint("findings >= 0 AND accounts_frozen >= 0", name=op.f("ck_audit_runs_not_negative")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_runs")),
    )
    op.create_index("ix_audit_runs_ran_at", "audit_runs", ["ran_at"])


def downgrade() -> None:
    op.drop_table("audit_runs")
    op.drop_table("worker_losses")
    for table, columns in COLUMNS.items():
        for column in columns:
            op.drop_column(table, column.name)
