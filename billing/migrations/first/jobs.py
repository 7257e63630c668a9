"""The tables of jobs: each request, what was delivered, each wire call, and what a settled job used."""

import sqlalchemy as sa
from alembic import op

from billing.migrations.first.columns import INSTANT, JSON, USD


def tables() -> None:
    op.create_table(
        "generation_jobs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.BigInteger()),
        sa.Column("operation_type", sa.Text(), nullable=False),
        sa.Column("model_name", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="queued", nullable=False),
        sa.Column("params", JSON, nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=False),
        sa.Column("request_hash", sa.Text(), nullable=False),
        sa.Column("related_object_type", sa.Text()),
        sa.Column("related_object_id", sa.BigInteger()),
        sa.Column("work", JSON, nullable=False),
        sa.Column("price", JSON),
        sa.Column("credits_estimated", sa.BigInteger()),
        sa.Column("credits_reserved", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("credits_charged", sa.BigInteger()),
        sa.Column("credits_overrun", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cost_usd", USD, server_default="0", nullable=False),
        sa.Column("limit_type", sa.Text()),
        sa.Column("limit_unit", sa.Text()),
        sa.Column("limit_period_start", sa.Date()),
        sa.Column("limit_reserved", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("limit_used", sa.BigInteger()),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lease_until", INSTANT),
        sa.Column("next_at", INSTANT, nullable=False),
        sa.Column("republished", sa.Integer(), server_default="0", nullable=False),
        sa.Column("deadline_at", INSTANT, nullable=False),
        sa.Column("error_code", sa.Text()),
        sa.Column("error_message", sa.Text()),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("reserved_at", INSTANT),
        sa.Column("generated_at", INSTANT),
        sa.Column("finished_at", INSTANT),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_generation_jobs")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_generation_jobs_account_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_generation_jobs_user_id")),
        sa.UniqueConstraint(
            "account_id", "idempotency_key", name=op.f("uq_generation_jobs_account_id_idempotency_key")
        ),
        sa.CheckConstraint(
            "state IN ('calling', 'cancelled', 'generated', 'queued', 'refunded', 'rejected', 'reserved', 'settled', "
            "'unknown')",
            name=op.f("ck_generation_jobs_state"),
        ),
        sa.CheckConstraint("kind IN ('text', 'image', 'embedding')", name=op.f("ck_generation_jobs_kind")),
        sa.CheckConstraint(
            "(state IN ('cancelled', 'refunded', 'rejected', 'settled')) = (finished_at IS NOT NULL)",
            name=op.f("ck_generation_jobs_terminal_is_finished"),
        ),
        sa.CheckConstraint(
            "NOT (state IN ('calling', 'generated', 'reserved', 'unknown')) OR price IS NOT NULL",
            name=op.f("ck_generation_jobs_open_has_price"),
        ),
        sa.CheckConstraint(
            "(state = 'calling') = (lease_until IS NOT NULL)", name=op.f("ck_generation_jobs_calling_is_leased")
        ),
        sa.CheckConstraint(
            "(state = 'settled') = (credits_charged IS NOT NULL)", name=op.f("ck_generation_jobs_settled_is_charged")
        ),
        # The estimate is an upper bound, so a charge never needs more than was reserved.
        sa.CheckConstraint(
            "credits_charged BETWEEN 0 AND credits_reserved", name=op.f("ck_generation_jobs_charge_within_reservation")
        ),
        sa.CheckConstraint(
            "limit_used BETWEEN 0 AND limit_reserved", name=op.f("ck_generation_jobs_limit_within_reservation")
        ),
        sa.CheckConstraint(
            "credits_reserved >= 0 AND credits_overrun >= 0 AND cost_usd >= 0",
            name=op.f("ck_generation_jobs_not_negative"),
        ),
        sa.CheckConstraint("attempts >= 0", name=op.f("ck_generation_jobs_attempts")),
        # Every step of a job updates its row: the updates find room on its page.
        postgresql_with={"fillfactor": 70},
    )
    op.create_index("ix_generation_jobs_account_id_created_at", "generation_jobs", ["account_id", "created_at"])
    # What the recovery task looks for: the open work, by when it is due for attention.
    op.create_index(
        "ix_generation_jobs_due",
        "generation_jobs",
        ["next_at"],
        postgresql_where=sa.text("state IN ('queued', 'reserved', 'calling', 'unknown', 'generated')"),
    )
    op.create_index("ix_generation_jobs_finished_at", "generation_jobs", ["finished_at"])
    # What the bound on open jobs counts.
    op.create_index(
        "ix_generation_jobs_unfinished",
        "generation_jobs",
        ["account_id"],
        postgresql_where=sa.text("finished_at IS NULL"),
    )
    op.create_table(
        "generation_results",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("content", JSON, nullable=False),
        sa.Column("finish_reason", sa.Text()),
        sa.Column("created_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_generation_results")),
        sa.ForeignKeyConstraint(["job_id"], ["generation_jobs.id"], name=op.f("fk_generation_results_job_id")),
    )
    op.create_table(
        "provider_calls",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("model_name", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=False),
        sa.Column("claimed_by", sa.Uuid()),
        sa.Column("asked", sa.Integer(), server_default="0", nullable=False),
        sa.Column("asked_at", INSTANT),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("finished_at", INSTANT),
        sa.Column("outcome", sa.Text()),
        sa.Column("failure", sa.Text()),
        sa.Column("http_status", sa.Integer()),
        sa.Column("provider_code", sa.Text()),
        sa.Column("provider_request_id", sa.Text()),
        sa.Column("usage", JSON),
        sa.Column("raw_usage", JSON),
        sa.Column("cost_usd", USD, server_default="0", nullable=False),
        sa.Column("exposure", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_provider_calls")),
        sa.ForeignKeyConstraint(["job_id"], ["generation_jobs.id"], name=op.f("fk_provider_calls_job_id")),
        sa.UniqueConstraint("job_id", "attempt", name=op.f("uq_provider_calls_job_id_attempt")),
        sa.CheckConstraint("outcome IN ('succeeded', 'failed', 'unknown')", name=op.f("ck_provider_calls_outcome")),
        sa.CheckConstraint(
            "(outcome IS NULL) = (finished_at IS NULL)", name=op.f("ck_provider_calls_finished_has_outcome")
        ),
        sa.CheckConstraint(
            "outcome <> 'succeeded' OR usage IS NOT NULL", name=op.f("ck_provider_calls_success_has_usage")
        ),
        sa.CheckConstraint("cost_usd >= 0", name=op.f("ck_provider_calls_cost_not_negative")),
    )
    op.create_table(
        "resolutions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("call_id", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("resolved_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_resolutions")),
        sa.ForeignKeyConstraint(["call_id"], ["provider_calls.id"], name=op.f("fk_resolutions_call_id")),
        # A call is resolved once: who was wrong writes an adjustment, not another history.
        sa.UniqueConstraint("call_id", name=op.f("uq_resolutions_call_id")),
        sa.CheckConstraint("outcome IN ('delivered', 'executed', 'not_executed')", name=op.f("ck_resolutions_outcome")),
        sa.CheckConstraint("length(evidence) BETWEEN 1 AND 2000", name=op.f("ck_resolutions_evidence")),
    )
    op.create_table(
        "credit_usage_logs",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("operation_type", sa.Text(), nullable=False),
        sa.Column("model_used", sa.Text(), nullable=False),
        sa.Column("credits_used", sa.BigInteger(), nullable=False),
        sa.Column("cost_usd", USD, nullable=False),
        sa.Column("price_per_credit_usd", USD, nullable=False),
        sa.Column("revenue_usd", USD, nullable=False),
        sa.Column("tokens_input", sa.BigInteger(), nullable=False),
        sa.Column("tokens_input_cached", sa.BigInteger(), nullable=False),
        sa.Column("tokens_output", sa.BigInteger(), nullable=False),
        sa.Column("tokens_reasoning", sa.BigInteger(), nullable=False),
        sa.Column("images", sa.BigInteger(), nullable=False),
        sa.Column("related_object_type", sa.Text()),
        sa.Column("related_object_id", sa.BigInteger()),
        sa.Column("metadata", JSON, server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_credit_usage_logs")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_credit_usage_logs_account_id")),
        sa.ForeignKeyConstraint(["job_id"], ["generation_jobs.id"], name=op.f("fk_credit_usage_logs_job_id")),
        sa.UniqueConstraint("job_id", name=op.f("uq_credit_usage_logs_job_id")),
        sa.CheckConstraint(
            "credits_used >= 0 AND cost_usd >= 0 AND revenue_usd >= 0", name=op.f("ck_credit_usage_logs_not_negative")
        ),
    )
    op.create_index(
        "ix_credit_usage_logs_account_id_operation_type_created_at",
        "credit_usage_logs",
        ["account_id", "operation_type", "created_at"],
    )
    op.create_index("ix_credit_usage_logs_created_at", "credit_usage_logs", ["created_at"])
    op.create_index(
        "ix_credit_usage_logs_operation_type_model_used_id", "credit_usage_logs", ["operation_type", "model_used", "id"]
    )
