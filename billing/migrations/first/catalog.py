"""The tables of the catalogue: models, image prices, operations, the platform's defaults, and the history of each."""

import sqlalchemy as sa
from alembic import op

from billing.migrations.first.columns import INSTANT, JSON, USD

RATES = ("input_cost_per_1m", "cached_input_cost_per_1m", "output_cost_per_1m", "reasoning_cost_per_1m")


def tables() -> None:
    _models()
    _operations()
    _defaults()
    _history()


def _models() -> None:
    op.create_table(
        "plan_limit_types",
        sa.Column("limit_type", sa.Text(), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("limit_type", name=op.f("pk_plan_limit_types")),
    )
    op.create_table(
        "ai_model_config",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("model_name", sa.Text(), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.Column("model_type", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("api", sa.Text(), nullable=False),
        sa.Column("input_cost_per_1m", USD),
        sa.Column("cached_input_cost_per_1m", USD),
        sa.Column("output_cost_per_1m", USD),
        sa.Column("reasoning_cost_per_1m", USD),
        sa.Column("context_window", sa.Integer()),
        sa.Column("max_output_tokens", sa.Integer()),
        sa.Column("tokenizer", sa.Text()),
        sa.Column("valid_sizes", JSON),
        sa.Column("max_images", sa.Integer()),
        sa.Column("limit_type", sa.Text()),
        sa.Column("supports_json_mode", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("supports_vision", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("supports_function_calling", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("supports_temperature", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("is_active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("is_default", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("sort_order", sa.Integer(), server_default="0", nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("release_date", sa.Date()),
        sa.Column("deprecation_date", sa.Date()),
        sa.Column("created_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_by", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ai_model_config")),
        sa.ForeignKeyConstraint(
            ["limit_type"], ["plan_limit_types.limit_type"], name=op.f("fk_ai_model_config_limit_type")
        ),
        sa.ForeignKeyConstraint(["updated_by"], ["users.id"], name=op.f("fk_ai_model_config_updated_by")),
        sa.UniqueConstraint("model_name", name=op.f("uq_ai_model_config_model_name")),
        sa.CheckConstraint("model_type IN ('text', 'image', 'embedding')", name=op.f("ck_ai_model_config_model_type")),
        sa.CheckConstraint(
            "provider IN ('openai', 'anthropic', 'runware', 'google')", name=op.f("ck_ai_model_config_provider")
        ),
        sa.CheckConstraint(
            "api IN ('responses', 'chat_completions', 'images', 'embeddings')", name=op.f("ck_ai_model_config_api")
        ),
        sa.CheckConstraint(
            " AND ".join(f"({rate} IS NULL OR ({_price(rate)}))" for rate in RATES),
            name=op.f("ck_ai_model_config_rates"),
        ),
        sa.CheckConstraint("is_active OR NOT is_default", name=op.f("ck_ai_model_config_default_is_active")),
        sa.CheckConstraint(
            "(model_type = 'text' AND api IN ('responses', 'chat_completions')) OR (model_type = 'image' AND "
            "api = 'images') OR (model_type = 'embedding' AND api = 'embeddings')",
            name=op.f("ck_ai_model_config_api_fits_type"),
        ),
        sa.CheckConstraint(
            "context_window >= 1 AND max_output_tokens >= 1 AND max_images >= 1", name=op.f("ck_ai_model_config_limits")
        ),
        sa.CheckConstraint(
            "model_type <> 'text' OR (input_cost_per_1m IS NOT NULL AND output_cost_per_1m IS NOT NULL "
            "AND context_window IS NOT NULL AND max_output_tokens IS NOT NULL)",
            name=op.f("ck_ai_model_config_text_has_rates_and_limits"),
        ),
        sa.CheckConstraint(
            "model_type <> 'image' OR output_cost_per_1m IS NULL "
            "OR (input_cost_per_1m IS NOT NULL AND max_output_tokens IS NOT NULL)",
            name=op.f("ck_ai_model_config_token_images_have_rates"),
        ),
        sa.CheckConstraint(
            "model_type <> 'embedding' OR (input_cost_per_1m IS NOT NULL AND context_window IS NOT NULL)",
            name=op.f("ck_ai_model_config_embedding_has_rate_and_limit"),
        ),
    )
    op.create_index("ix_ai_model_config_model_type_is_active", "ai_model_config", ["model_type", "is_active"])
    op.create_index("ix_ai_model_config_provider_is_active", "ai_model_config", ["provider", "is_active"])
    op.create_index(
        "uq_ai_model_config_one_default_a_type",
        "ai_model_config",
        ["model_type"],
        unique=True,
        postgresql_where=sa.text("is_default"),
    )
    op.create_table(
        "image_prices",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("model_name", sa.Text(), nullable=False),
        sa.Column("size", sa.Text(), server_default="*", nullable=False),
        sa.Column("quality", sa.Text(), server_default="*", nullable=False),
        sa.Column("cost_per_image_usd", USD, nullable=False),
        sa.Column("credits_per_image", sa.BigInteger(), nullable=False),
        sa.Column("created_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_image_prices")),
        sa.ForeignKeyConstraint(
            ["model_name"], ["ai_model_config.model_name"], name=op.f("fk_image_prices_model_name")
        ),
        sa.UniqueConstraint("model_name", "size", "quality", name=op.f("uq_image_prices_model_name_size_quality")),
        sa.CheckConstraint(
            _price("cost_per_image_usd"),
            name=op.f("ck_image_prices_cost"),
        ),
        sa.CheckConstraint("credits_per_image >= 1", name=op.f("ck_image_prices_credits")),
    )


def _operations() -> None:
    op.create_table(
        "credit_cost_config",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("operation_type", sa.Text(), nullable=False),
        sa.Column("model_type", sa.Text(), nullable=False),
        sa.Column("tokens_per_credit", sa.Integer()),
        sa.Column("min_credits", sa.Integer(), server_default="1", nullable=False),
        sa.Column("price_per_credit_usd", USD),
        sa.Column("limit_type", sa.Text()),
        sa.Column("limit_unit", sa.Text(), server_default="requests", nullable=False),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("is_active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("previous_tokens_per_credit", sa.Integer()),
        sa.Column("created_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_by", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_credit_cost_config")),
        sa.ForeignKeyConstraint(
            ["limit_type"], ["plan_limit_types.limit_type"], name=op.f("fk_credit_cost_config_limit_type")
        ),
        sa.ForeignKeyConstraint(["updated_by"], ["users.id"], name=op.f("fk_credit_cost_config_updated_by")),
        sa.UniqueConstraint("operation_type", name=op.f("uq_credit_cost_config_operation_type")),
        sa.CheckConstraint("tokens_per_credit >= 1", name=op.f("ck_credit_cost_config_tokens_per_credit")),
        sa.CheckConstraint("min_credits >= 0", name=op.f("ck_credit_cost_config_min_credits")),
        sa.CheckConstraint(
            _price("price_per_credit_usd"),
            name=op.f("ck_credit_cost_config_price_per_credit"),
        ),
        sa.CheckConstraint(
            "model_type IN ('text', 'image', 'embedding')", name=op.f("ck_credit_cost_config_model_type")
        ),
        sa.CheckConstraint(
            "limit_unit IN ('requests', 'words', 'images')", name=op.f("ck_credit_cost_config_limit_unit")
        ),
        # A unit that a request never has would switch its limit off.
        sa.CheckConstraint(
            "limit_unit = 'requests' OR (limit_unit = 'words' AND model_type = 'text') "
            "OR (limit_unit = 'images' AND model_type = 'image')",
            name=op.f("ck_credit_cost_config_limit_unit_fits_type"),
        ),
    )


def _defaults() -> None:
    op.create_table(
        "billing_configuration",
        sa.Column("id", sa.Integer(), server_default="1", autoincrement=False, nullable=False),
        sa.Column("default_tokens_per_credit", sa.Integer(), server_default="100", nullable=False),
        sa.Column("default_credit_price_usd", USD, server_default="0.01", nullable=False),
        sa.Column("enable_token_based_reporting", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("credit_rounding_mode", sa.Text(), server_default="up", nullable=False),
        # English prose has about 75 words to 100 tokens (OpenAI's help pages).
        sa.Column("words_per_100_tokens", sa.Integer(), server_default="75", nullable=False),
        sa.Column("typical_output_percent", sa.Integer(), server_default="50", nullable=False),
        sa.Column("min_margin_percent", sa.Integer(), server_default="20", nullable=False),
        sa.Column("deprecation_notice_days", sa.Integer(), server_default="30", nullable=False),
        sa.Column("past_due_grace_days", sa.Integer(), server_default="7", nullable=False),
        sa.Column("max_open_jobs_per_account", sa.Integer(), server_default="10000", nullable=False),
        sa.Column("max_open_jobs", sa.Integer(), server_default="100000", nullable=False),
        sa.Column("updated_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_by", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_billing_configuration")),
        sa.ForeignKeyConstraint(["updated_by"], ["users.id"], name=op.f("fk_billing_configuration_updated_by")),
        sa.CheckConstraint("id = 1", name=op.f("ck_billing_configuration_singleton")),
        sa.CheckConstraint("default_tokens_per_credit >= 1", name=op.f("ck_billing_configuration_tokens_per_credit")),
        sa.CheckConstraint(
            _price("default_credit_price_usd"),
            name=op.f("ck_billing_configuration_price_per_credit"),
        ),
        sa.CheckConstraint(
            "credit_rounding_mode IN ('up', 'down', 'nearest')", name=op.f("ck_billing_configuration_rounding")
        ),
        sa.CheckConstraint("words_per_100_tokens >= 1", name=op.f("ck_billing_configuration_words_per_100_tokens")),
        sa.CheckConstraint(
            "typical_output_percent BETWEEN 1 AND 100", name=op.f("ck_billing_configuration_typical_output_percent")
        ),
        sa.CheckConstraint(
            "min_margin_percent BETWEEN 0 AND 99", name=op.f("ck_billing_configuration_min_margin_percent")
        ),
        sa.CheckConstraint(
            "deprecation_notice_days >= 0", name=op.f("ck_billing_configuration_deprecation_notice_days")
        ),
        sa.CheckConstraint(
            "past_due_grace_days BETWEEN 0 AND 366", name=op.f("ck_billing_configuration_past_due_grace_days")
        ),
        sa.CheckConstraint("max_open_jobs >= 1", name=op.f("ck_billing_configuration_max_open_jobs")),
        sa.CheckConstraint(
            "max_open_jobs_per_account >= 1", name=op.f("ck_billing_configuration_max_open_jobs_per_account")
        ),
    )


def _history() -> None:
    op.create_table(
        "change_history",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("table_name", sa.Text(), nullable=False),
        sa.Column("row_name", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("old", JSON),
        sa.Column("new", JSON),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("changed_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_change_history")),
        sa.CheckConstraint("action IN ('insert', 'update', 'delete')", name=op.f("ck_change_history_action")),
    )
    op.create_index("ix_change_history_table_name_row_name_id", "change_history", ["table_name", "row_name", "id"])


def _price(column: str) -> str:
    # NaN and infinity are larger than any number to PostgreSQL: the upper bound refuses them too.
    return f"{column} >= 0.0001 AND {column} < 10000 AND scale(trim_scale({column})) <= 6"
