"""schema"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001_schema"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A migration that has to wait for a lock must not make everybody else wait behind it.
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table(
        "accounts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("billing_email", sa.Text(), nullable=True),
        sa.Column("time_zone", sa.Text(), server_default="UTC", nullable=False),
        sa.Column("balance", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("reserved", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("frozen_reason", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("balance - reserved >= 0", name=op.f("ck_accounts_balance_covers_reserved")),
        sa.CheckConstraint("reserved >= 0", name=op.f("ck_accounts_reserved_not_negative")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_accounts")),
        postgresql_with={"fillfactor": 50},
    )
    op.create_table(
        "dead_messages",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=True),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column("task_name", sa.Text(), nullable=True),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("body_encrypted", sa.Text(), nullable=True),
        sa.Column("times_seen", sa.Integer(), server_default="1", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dead_messages")),
        sa.UniqueConstraint("message_id", name=op.f("uq_dead_messages_message_id")),
    )
    op.create_index(op.f("ix_dead_messages_job_id"), "dead_messages", ["job_id"], unique=False)
    op.create_table(
        "global_integration_settings",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("openai_api_key", sa.Text(), nullable=True),
        sa.Column("openai_base_url", sa.Text(), nullable=True),
        sa.Column("dalle_api_key", sa.Text(), nullable=True),
        sa.Column("anthropic_api_key", sa.Text(), nullable=True),
        sa.Column("anthropic_base_url", sa.Text(), nullable=True),
        sa.Column("runware_api_key", sa.Text(), nullable=True),
        sa.Column("runware_base_url", sa.Text(), nullable=True),
        sa.Column("google_api_key", sa.Text(), nullable=True),
        sa.Column("google_base_url", sa.Text(), nullable=True),
        sa.Column("openai_max_tokens", sa.Integer(), server_default="8192", nullable=False),
        sa.Column("openai_temperature", sa.Numeric(precision=3, scale=2), server_default="0.7", nullable=False),
        sa.Column("default_text_provider", sa.Text(), server_default="openai", nullable=False),
        sa.Column("default_image_service", sa.Text(), server_default="openai", nullable=False),
        sa.Column("image_quality", sa.Text(), server_default="standard", nullable=False),
        sa.Column("image_style", sa.Text(), server_default="photorealistic", nullable=False),
        sa.Column("max_in_article_images", sa.Integer(), server_default="2", nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_global_integration_settings_singleton")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_global_integration_settings")),
    )
    op.create_table(
        "plans",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("price", sa.Numeric(precision=20, scale=10), server_default="0", nullable=False),
        sa.Column("included_credits", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column(
            "limits", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("is_active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("included_credits >= 0 AND price >= 0", name=op.f("ck_plans_amounts")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_plans")),
        sa.UniqueConstraint("slug", name=op.f("uq_plans_slug")),
    )
    op.create_table(
        "plan_limit_usage",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("limit_type", sa.Text(), nullable=False),
        sa.Column("amount_used", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("amount_reserved", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("period_start", sa.Date(), nullable=False),
        sa.Column("period_end", sa.Date(), nullable=False),
        sa.Column(
            "metadata", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "limit_type IN ('content_ideas', 'content_words', 'images_basic', 'images_premium', 'image_prompts')",
            name=op.f("ck_plan_limit_usage_limit_type"),
        ),
        sa.CheckConstraint("amount_used >= 0 AND amount_reserved >= 0", name=op.f("ck_plan_limit_usage_not_negative")),
        sa.CheckConstraint("period_start < period_end", name=op.f("ck_plan_limit_usage_period")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_plan_limit_usage_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_plan_limit_usage")),
        sa.UniqueConstraint(
            "account_id",
            "limit_type",
            "period_start",
            name=op.f("uq_plan_limit_usage_account_id_limit_type_period_start"),
        ),
    )
    op.create_index(
        "ix_plan_limit_usage_limit_type_period_start", "plan_limit_usage", ["limit_type", "period_start"], unique=False
    )
    op.create_table(
        "revenue_rollups",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("operation_type", sa.Text(), nullable=False),
        sa.Column("model_name", sa.Text(), nullable=False),
        sa.Column("jobs", sa.BigInteger(), nullable=False),
        sa.Column("jobs_settled", sa.BigInteger(), nullable=False),
        sa.Column("credits", sa.BigInteger(), nullable=False),
        sa.Column("revenue_usd", sa.Numeric(precision=20, scale=10), nullable=False),
        sa.Column("cost_usd", sa.Numeric(precision=20, scale=10), nullable=False),
        sa.Column("exposure_usd", sa.Numeric(precision=20, scale=10), nullable=False),
        sa.Column("margin_usd", sa.Numeric(precision=20, scale=10), nullable=False),
        sa.Column("tokens_input", sa.BigInteger(), nullable=False),
        sa.Column("tokens_input_cached", sa.BigInteger(), nullable=False),
        sa.Column("tokens_output", sa.BigInteger(), nullable=False),
        sa.Column("tokens_reasoning", sa.BigInteger(), nullable=False),
        sa.Column("images", sa.BigInteger(), nullable=False),
        sa.Column("computed_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("jobs >= 0 AND credits >= 0", name=op.f("ck_revenue_rollups_not_negative")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_revenue_rollups_account_id")),
        sa.PrimaryKeyConstraint("day", "account_id", "operation_type", "model_name", name=op.f("pk_revenue_rollups")),
    )
    op.create_table(
        "subscriptions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("plan_id", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), server_default="active", nullable=False),
        sa.Column("anchor_date", sa.Date(), nullable=False),
        sa.Column("current_period_start", sa.Date(), nullable=False),
        sa.Column("current_period_end", sa.Date(), nullable=False),
        sa.Column("cancel_at_period_end", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "status IN ('trialing', 'active', 'past_due', 'cancelled')", name=op.f("ck_subscriptions_status")
        ),
        sa.CheckConstraint("current_period_start < current_period_end", name=op.f("ck_subscriptions_period")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_subscriptions_account_id")),
        sa.ForeignKeyConstraint(["plan_id"], ["plans.id"], name=op.f("fk_subscriptions_plan_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subscriptions")),
        sa.UniqueConstraint("account_id", name=op.f("uq_subscriptions_account_id")),
    )
    op.create_index(op.f("ix_subscriptions_plan_id"), "subscriptions", ["plan_id"], unique=False)
    op.create_table(
        "users",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_users_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("email", name=op.f("uq_users_email")),
    )
    op.create_index(op.f("ix_users_account_id"), "users", ["account_id"], unique=False)
    op.create_table(
        "ai_model_config",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("model_name", sa.Text(), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.Column("model_type", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("api", sa.Text(), nullable=False),
        sa.Column("input_cost_per_1m", sa.Numeric(precision=20, scale=10), nullable=True),
        sa.Column("cached_input_cost_per_1m", sa.Numeric(precision=20, scale=10), nullable=True),
        sa.Column("output_cost_per_1m", sa.Numeric(precision=20, scale=10), nullable=True),
        sa.Column("reasoning_cost_per_1m", sa.Numeric(precision=20, scale=10), nullable=True),
        sa.Column("context_window", sa.Integer(), nullable=True),
        sa.Column("max_output_tokens", sa.Integer(), nullable=True),
        sa.Column("tokenizer", sa.Text(), nullable=True),
        sa.Column("valid_sizes", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("max_images", sa.Integer(), nullable=True),
        sa.Column("limit_type", sa.Text(), nullable=True),
        sa.Column("supports_json_mode", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("supports_vision", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("supports_function_calling", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("supports_temperature", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("is_active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("is_default", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("sort_order", sa.Integer(), server_default="0", nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("release_date", sa.Date(), nullable=True),
        sa.Column("deprecation_date", sa.Date(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_by", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "(input_cost_per_1m IS NULL OR (input_cost_per_1m >= 0.0001 AND input_cost_per_1m <> 'NaN')) AND (cached_input_cost_per_1m IS NULL OR (cached_input_cost_per_1m >= 0.0001 AND cached_input_cost_per_1m <> 'NaN')) AND (output_cost_per_1m IS NULL OR (output_cost_per_1m >= 0.0001 AND output_cost_per_1m <> 'NaN')) AND (reasoning_cost_per_1m IS NULL OR (reasoning_cost_per_1m >= 0.0001 AND reasoning_cost_per_1m <> 'NaN'))",
            name=op.f("ck_ai_model_config_rates"),
        ),
        sa.CheckConstraint(
            "api IN ('responses', 'chat_completions', 'images', 'embeddings')", name=op.f("ck_ai_model_config_api")
        ),
        sa.CheckConstraint(
            "model_type <> 'text' OR (input_cost_per_1m IS NOT NULL AND output_cost_per_1m IS NOT NULL AND context_window IS NOT NULL AND max_output_tokens IS NOT NULL)",
            name=op.f("ck_ai_model_config_text_has_rates_and_limits"),
        ),
        sa.CheckConstraint("model_type IN ('text', 'image', 'embedding')", name=op.f("ck_ai_model_config_model_type")),
        sa.CheckConstraint(
            "provider IN ('openai', 'anthropic', 'runware', 'google')", name=op.f("ck_ai_model_config_provider")
        ),
        sa.CheckConstraint(
            "context_window >= 1 AND max_output_tokens >= 1 AND max_images >= 1", name=op.f("ck_ai_model_config_limits")
        ),
        sa.ForeignKeyConstraint(["updated_by"], ["users.id"], name=op.f("fk_ai_model_config_updated_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ai_model_config")),
        sa.UniqueConstraint("model_name", name=op.f("uq_ai_model_config_model_name")),
    )
    op.create_index(
        "ix_ai_model_config_model_type_is_active", "ai_model_config", ["model_type", "is_active"], unique=False
    )
    op.create_index("ix_ai_model_config_provider_is_active", "ai_model_config", ["provider", "is_active"], unique=False)
    op.create_index(
        "uq_ai_model_config_one_default_a_type",
        "ai_model_config",
        ["model_type"],
        unique=True,
        postgresql_where=sa.text("is_default"),
    )
    op.create_table(
        "billing_configuration",
        sa.Column("id", sa.Integer(), server_default="1", autoincrement=False, nullable=False),
        sa.Column("default_tokens_per_credit", sa.Integer(), server_default="100", nullable=False),
        sa.Column(
            "default_credit_price_usd", sa.Numeric(precision=20, scale=10), server_default="0.01", nullable=False
        ),
        sa.Column("enable_token_based_reporting", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("credit_rounding_mode", sa.Text(), server_default="up", nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_by", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "credit_rounding_mode IN ('up', 'down', 'nearest')", name=op.f("ck_billing_configuration_rounding")
        ),
        sa.CheckConstraint(
            "default_credit_price_usd >= 0.0001 AND default_credit_price_usd <> 'NaN'",
            name=op.f("ck_billing_configuration_price_per_credit"),
        ),
        sa.CheckConstraint("default_tokens_per_credit >= 1", name=op.f("ck_billing_configuration_tokens_per_credit")),
        sa.CheckConstraint("id = 1", name=op.f("ck_billing_configuration_singleton")),
        sa.ForeignKeyConstraint(["updated_by"], ["users.id"], name=op.f("fk_billing_configuration_updated_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_billing_configuration")),
    )
    op.create_table(
        "credit_cost_config",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("operation_type", sa.Text(), nullable=False),
        sa.Column("model_type", sa.Text(), nullable=False),
        sa.Column("tokens_per_credit", sa.Integer(), nullable=True),
        sa.Column("min_credits", sa.Integer(), server_default="1", nullable=False),
        sa.Column("price_per_credit_usd", sa.Numeric(precision=20, scale=10), nullable=True),
        sa.Column("limit_type", sa.Text(), nullable=True),
        sa.Column("limit_unit", sa.Text(), server_default="requests", nullable=False),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("is_active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("previous_tokens_per_credit", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_by", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "limit_unit IN ('requests', 'words', 'images')", name=op.f("ck_credit_cost_config_limit_unit")
        ),
        sa.CheckConstraint(
            "model_type IN ('text', 'image', 'embedding')", name=op.f("ck_credit_cost_config_model_type")
        ),
        sa.CheckConstraint(
            "price_per_credit_usd >= 0.0001 AND price_per_credit_usd <> 'NaN'",
            name=op.f("ck_credit_cost_config_price_per_credit"),
        ),
        sa.CheckConstraint("min_credits >= 0", name=op.f("ck_credit_cost_config_min_credits")),
        sa.CheckConstraint("tokens_per_credit >= 1", name=op.f("ck_credit_cost_config_tokens_per_credit")),
        sa.ForeignKeyConstraint(["updated_by"], ["users.id"], name=op.f("fk_credit_cost_config_updated_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_credit_cost_config")),
        sa.UniqueConstraint("operation_type", name=op.f("uq_credit_cost_config_operation_type")),
    )
    op.create_table(
        "generation_jobs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=True),
        sa.Column("operation_type", sa.Text(), nullable=False),
        sa.Column("model_name", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="queued", nullable=False),
        sa.Column("params", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=False),
        sa.Column("request_hash", sa.Text(), nullable=False),
        sa.Column("related_object_type", sa.Text(), nullable=True),
        sa.Column("related_object_id", sa.BigInteger(), nullable=True),
        sa.Column("work", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("price", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("credits_estimated", sa.BigInteger(), nullable=True),
        sa.Column("credits_reserved", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("credits_charged", sa.BigInteger(), nullable=True),
        sa.Column("credits_overrun", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cost_usd", sa.Numeric(precision=20, scale=10), server_default="0", nullable=False),
        sa.Column("limit_type", sa.Text(), nullable=True),
        sa.Column("limit_unit", sa.Text(), nullable=True),
        sa.Column("limit_period_start", sa.Date(), nullable=True),
        sa.Column("limit_reserved", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("limit_used", sa.BigInteger(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("republished", sa.Integer(), server_default="0", nullable=False),
        sa.Column("deadline_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reserved_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("generated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(state = 'calling') = (lease_until IS NOT NULL)", name=op.f("ck_generation_jobs_calling_is_leased")
        ),
        sa.CheckConstraint(
            "(state = 'settled') = (credits_charged IS NOT NULL)", name=op.f("ck_generation_jobs_settled_is_charged")
        ),
        sa.CheckConstraint(
            "(state IN ('cancelled', 'refunded', 'rejected', 'settled')) = (finished_at IS NOT NULL)",
            name=op.f("ck_generation_jobs_terminal_is_finished"),
        ),
        sa.CheckConstraint(
            "NOT (state IN ('calling', 'generated', 'reserved', 'unknown')) OR price IS NOT NULL",
            name=op.f("ck_generation_jobs_open_has_price"),
        ),
        sa.CheckConstraint("kind IN ('text', 'image', 'embedding')", name=op.f("ck_generation_jobs_kind")),
        sa.CheckConstraint(
            "state IN ('calling', 'cancelled', 'generated', 'queued', 'refunded', 'rejected', 'reserved', 'settled', 'unknown')",
            name=op.f("ck_generation_jobs_state"),
        ),
        sa.CheckConstraint("attempts >= 0", name=op.f("ck_generation_jobs_attempts")),
        sa.CheckConstraint(
            "credits_charged BETWEEN 0 AND credits_reserved", name=op.f("ck_generation_jobs_charge_within_reservation")
        ),
        sa.CheckConstraint(
            "credits_reserved >= 0 AND credits_overrun >= 0 AND cost_usd >= 0",
            name=op.f("ck_generation_jobs_not_negative"),
        ),
        sa.CheckConstraint(
            "limit_used BETWEEN 0 AND limit_reserved", name=op.f("ck_generation_jobs_limit_within_reservation")
        ),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_generation_jobs_account_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_generation_jobs_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_generation_jobs")),
        sa.UniqueConstraint(
            "account_id", "idempotency_key", name=op.f("uq_generation_jobs_account_id_idempotency_key")
        ),
        postgresql_with={"fillfactor": 70},
    )
    op.create_index(
        "ix_generation_jobs_account_id_created_at", "generation_jobs", ["account_id", "created_at"], unique=False
    )
    op.create_index(
        "ix_generation_jobs_due",
        "generation_jobs",
        ["next_at"],
        unique=False,
        postgresql_where=sa.text("state IN ('queued', 'reserved', 'calling', 'unknown', 'generated')"),
    )
    op.create_index("ix_generation_jobs_finished_at", "generation_jobs", ["finished_at"], unique=False)
    op.create_table(
        "credit_transactions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("transaction_type", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("balance_after", sa.BigInteger(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=False),
        sa.Column(
            "metadata", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "(transaction_type = 'deduction') = (job_id IS NOT NULL)",
            name=op.f("ck_credit_transactions_deduction_has_job"),
        ),
        sa.CheckConstraint(
            "CASE transaction_type WHEN 'deduction' THEN amount <= 0 WHEN 'adjustment' THEN amount <> 0 ELSE amount > 0 END",
            name=op.f("ck_credit_transactions_sign"),
        ),
        sa.CheckConstraint(
            "transaction_type IN ('purchase', 'subscription', 'refund', 'deduction', 'adjustment')",
            name=op.f("ck_credit_transactions_transaction_type"),
        ),
        sa.CheckConstraint("balance_after >= 0", name=op.f("ck_credit_transactions_balance_after_not_negative")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_credit_transactions_account_id")),
        sa.ForeignKeyConstraint(["job_id"], ["generation_jobs.id"], name=op.f("fk_credit_transactions_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_credit_transactions")),
        sa.UniqueConstraint(
            "account_id", "idempotency_key", name=op.f("uq_credit_transactions_account_id_idempotency_key")
        ),
    )
    op.create_index(
        "ix_credit_transactions_account_id_created_at",
        "credit_transactions",
        ["account_id", "created_at"],
        unique=False,
    )
    op.create_index(
        "ix_credit_transactions_account_id_transaction_type",
        "credit_transactions",
        ["account_id", "transaction_type"],
        unique=False,
    )
    op.create_index(
        "uq_credit_transactions_one_deduction_a_job",
        "credit_transactions",
        ["job_id"],
        unique=True,
        postgresql_where=sa.text("transaction_type = 'deduction'"),
    )
    op.create_table(
        "credit_usage_logs",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("operation_type", sa.Text(), nullable=False),
        sa.Column("model_used", sa.Text(), nullable=False),
        sa.Column("credits_used", sa.BigInteger(), nullable=False),
        sa.Column("cost_usd", sa.Numeric(precision=20, scale=10), nullable=False),
        sa.Column("price_per_credit_usd", sa.Numeric(precision=20, scale=10), nullable=False),
        sa.Column("revenue_usd", sa.Numeric(precision=20, scale=10), nullable=False),
        sa.Column("tokens_input", sa.BigInteger(), nullable=False),
        sa.Column("tokens_input_cached", sa.BigInteger(), nullable=False),
        sa.Column("tokens_output", sa.BigInteger(), nullable=False),
        sa.Column("tokens_reasoning", sa.BigInteger(), nullable=False),
        sa.Column("images", sa.BigInteger(), nullable=False),
        sa.Column("related_object_type", sa.Text(), nullable=True),
        sa.Column("related_object_id", sa.BigInteger(), nullable=True),
        sa.Column(
            "metadata", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "credits_used >= 0 AND cost_usd >= 0 AND revenue_usd >= 0", name=op.f("ck_credit_usage_logs_not_negative")
        ),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_credit_usage_logs_account_id")),
        sa.ForeignKeyConstraint(["job_id"], ["generation_jobs.id"], name=op.f("fk_credit_usage_logs_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_credit_usage_logs")),
        sa.UniqueConstraint("job_id", name=op.f("uq_credit_usage_logs_job_id")),
    )
    op.create_index(
        "ix_credit_usage_logs_account_id_operation_type_created_at",
        "credit_usage_logs",
        ["account_id", "operation_type", "created_at"],
        unique=False,
    )
    op.create_index("ix_credit_usage_logs_created_at", "credit_usage_logs", ["created_at"], unique=False)
    op.create_table(
        "generation_results",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("content", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("finish_reason", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["generation_jobs.id"], name=op.f("fk_generation_results_job_id")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_generation_results")),
    )
    op.create_table(
        "image_prices",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("model_name", sa.Text(), nullable=False),
        sa.Column("size", sa.Text(), server_default="*", nullable=False),
        sa.Column("quality", sa.Text(), server_default="*", nullable=False),
        sa.Column("cost_per_image_usd", sa.Numeric(precision=20, scale=10), nullable=False),
        sa.Column("credits_per_image", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "cost_per_image_usd >= 0.0001 AND cost_per_image_usd <> 'NaN'", name=op.f("ck_image_prices_cost")
        ),
        sa.CheckConstraint("credits_per_image >= 1", name=op.f("ck_image_prices_credits")),
        sa.ForeignKeyConstraint(
            ["model_name"], ["ai_model_config.model_name"], name=op.f("fk_image_prices_model_name")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_image_prices")),
        sa.UniqueConstraint("model_name", "size", "quality", name=op.f("uq_image_prices_model_name_size_quality")),
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
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.Column("http_status", sa.Integer(), nullable=True),
        sa.Column("provider_code", sa.Text(), nullable=True),
        sa.Column("provider_request_id", sa.Text(), nullable=True),
        sa.Column("usage", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("raw_usage", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("cost_usd", sa.Numeric(precision=20, scale=10), server_default="0", nullable=False),
        sa.Column("exposure", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.CheckConstraint(
            "outcome <> 'succeeded' OR usage IS NOT NULL", name=op.f("ck_provider_calls_success_has_usage")
        ),
        sa.CheckConstraint("outcome IN ('succeeded', 'failed', 'unknown')", name=op.f("ck_provider_calls_outcome")),
        sa.CheckConstraint(
            "(outcome IS NULL) = (finished_at IS NULL)", name=op.f("ck_provider_calls_finished_has_outcome")
        ),
        sa.CheckConstraint("cost_usd >= 0", name=op.f("ck_provider_calls_cost_not_negative")),
        sa.ForeignKeyConstraint(["job_id"], ["generation_jobs.id"], name=op.f("fk_provider_calls_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_provider_calls")),
        sa.UniqueConstraint("job_id", "attempt", name=op.f("uq_provider_calls_job_id_attempt")),
    )
    op.execute(
        """
        CREATE FUNCTION credit_transactions_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'credit_transactions is append-only: correct a mistake with an adjustment';
        END $$
        """
    )
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON credit_transactions "
        "FOR EACH STATEMENT EXECUTE FUNCTION credit_transactions_append_only()"
    )


def downgrade() -> None:
    op.drop_table("provider_calls")
    op.drop_table("image_prices")
    op.drop_table("generation_results")
    op.drop_index("ix_credit_usage_logs_created_at", table_name="credit_usage_logs")
    op.drop_index("ix_credit_usage_logs_account_id_operation_type_created_at", table_name="credit_usage_logs")
    op.drop_table("credit_usage_logs")
    op.drop_index(
        "uq_credit_transactions_one_deduction_a_job",
        table_name="credit_transactions",
        postgresql_where=sa.text("transaction_type = 'deduction'"),
    )
    op.drop_index("ix_credit_transactions_account_id_transaction_type", table_name="credit_transactions")
    op.drop_index("ix_credit_transactions_account_id_created_at", table_name="credit_transactions")
    op.drop_table("credit_transactions")
    op.drop_index("ix_generation_jobs_finished_at", table_name="generation_jobs")
    op.drop_index(
        "ix_generation_jobs_due",
        table_name="generation_jobs",
        postgresql_where=sa.text("state IN ('queued', 'reserved', 'calling', 'unknown', 'generated')"),
    )
    op.drop_index("ix_generation_jobs_account_id_created_at", table_name="generation_jobs")
    op.drop_table("generation_jobs")
    op.drop_table("credit_cost_config")
    op.drop_table("billing_configuration")
    op.drop_index(
        "uq_ai_model_config_one_default_a_type", table_name="ai_model_config", postgresql_where=sa.text("is_default")
    )
    op.drop_index("ix_ai_model_config_provider_is_active", table_name="ai_model_config")
    op.drop_index("ix_ai_model_config_model_type_is_active", table_name="ai_model_config")
    op.drop_table("ai_model_config")
    op.drop_index(op.f("ix_users_account_id"), table_name="users")
    op.drop_table("users")
    op.drop_index(op.f("ix_subscriptions_plan_id"), table_name="subscriptions")
    op.drop_table("subscriptions")
    op.drop_table("revenue_rollups")
    op.drop_index("ix_plan_limit_usage_limit_type_period_start", table_name="plan_limit_usage")
    op.drop_table("plan_limit_usage")
    op.drop_table("plans")
    op.drop_table("global_integration_settings")
    op.drop_index(op.f("ix_dead_messages_job_id"), table_name="dead_messages")
    op.drop_table("dead_messages")
    op.drop_table("accounts")
    op.execute("DROP FUNCTION credit_transactions_append_only")
