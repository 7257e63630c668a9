"""The tables of upkeep: messages that were set aside, messages that end their worker, and periodic runs."""

import sqlalchemy as sa
from alembic import op

from billing.migrations.first.columns import INSTANT


def tables() -> None:
    op.create_table(
        "dead_messages",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("message_id", sa.Text()),
        sa.Column("job_id", sa.Uuid()),
        sa.Column("task_name", sa.Text()),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("body_encrypted", sa.Text()),
        sa.Column("times_seen", sa.Integer(), server_default="1", nullable=False),
        sa.Column("created_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.Column("redriven_at", INSTANT),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dead_messages")),
        sa.UniqueConstraint("message_id", name=op.f("uq_dead_messages_message_id")),
    )
    op.create_index("ix_dead_messages_job_id", "dead_messages", ["job_id"])
    op.create_table(
        "worker_losses",
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("losses", sa.Integer(), nullable=False),
        sa.Column("last_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("subject", name=op.f("pk_worker_losses")),
        sa.CheckConstraint("losses >= 1", name=op.f("ck_worker_losses_counted")),
    )
    op.create_table(
        "periodic_runs",
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("runs", sa.Integer(), nullable=False),
        sa.Column("worked", sa.BigInteger(), nullable=False),
        sa.Column("blocked", sa.Integer(), nullable=False),
        sa.Column("first_at", INSTANT, nullable=False),
        sa.Column("finished_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("task", name=op.f("pk_periodic_runs")),
        sa.CheckConstraint("runs >= 0 AND worked >= 0 AND blocked >= 0", name=op.f("ck_periodic_runs_not_negative")),
    )
