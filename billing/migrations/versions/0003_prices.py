"""Prices that cannot be wrong in silence: sharper checks, the plan limits as data, and the history of every change."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003_prices"
down_revision = "0002_catalogue"
branch_labels = None
depends_on = None

# The specification's choices of PlanLimitUsage.limit_type, with their names.
LIMIT_TYPES = [
    ("content_ideas", "Content Ideas"),
    ("content_words", "Content Words"),
    ("images_basic", "Basic Images"),
    ("images_premium", "Premium Images"),
    ("image_prompts", "Image Prompts"),
]
LIMITED = ("plan_limit_usage", "ai_model_config", "credit_cost_config")
RATES = ("input_cost_per_1m", "cached_input_cost_per_1m", "output_cost_per_1m", "reasoning_cost_per_1m")
# table, the column that names a row in its history
KEPT = [
    ("ai_model_config", "model_name"),
    ("image_prices", "model_name"),
    ("credit_cost_config", "operation_type"),
    ("billing_configuration", "id"),
    ("plans", "slug"),
]


def upgrade() -> None:
    _limit_types()
    _checks()
    _columns()
    # The size and quality of an image stand on the job from now on, not in the code.
    op.execute(
        "UPDATE generation_jobs SET params = jsonb_build_object('size', '1024x1024', 'quality', 'standard') || params "
        "WHERE kind = 'image' AND state NOT IN ('settled', 'refunded', 'rejected', 'cancelled')"
    )
    op.create_index(
        "ix_credit_usage_logs_operation_type_model_used_id", "credit_usage_logs", ["operation_type", "model_used", "id"]
    )
    _history()


def downgrade() -> None:
    for table, _ in KEPT:
        op.execute(f"DROP TRIGGER keep_history ON {table}")
    op.execute("DROP TRIGGER keep_previous_ratio ON credit_cost_config")
    op.drop_table("change_history")
    op.drop_index("ix_credit_usage_logs_operation_type_model_used_id", table_name="credit_usage_logs")
    for function in ("keep_history", "change_history_append_only", "keep_previous_ratio"):
        op.execute(f"DROP FUNCTION {function}")
    for column in ("words_per_100_tokens", "typical_output_percent", "min_margin_percent", "deprecation_notice_days"):
        op.drop_column("billing_configuration", column)
    for table in LIMITED:
        op.drop_constraint(op.f(f"fk_{table}_limit_type"), table)
    op.drop_table("plan_limit_types")
    op.create_check_constraint(
        op.f("ck_plan_limit_usage_limit_type"),
        "plan_limit_usage",
        "limit_type IN (" + ", ".join(f"'{name}'" for name, _ in LIMIT_TYPES) + ")",
    )
    for name in ("token_images_have_rates", "embedding_has_rate_and_limit"):
        op.drop_constraint(op.f(f"ck_ai_model_config_{name}"), "ai_model_config")
    _replace("ai_model_config", "rates", " AND ".join(_loose(column) for column in RATES))
    _replace("image_prices", "cost", "cost_per_image_usd >= 0.0001 AND cost_per_image_usd <> 'NaN'")
    for table, column in _CREDIT_PRICES:
        _replace(table, "price_per_credit", f"{column} >= 0.0001 AND {column} <> 'NaN'")


_CREDIT_PRICES = (
    ("credit_cost_config", "price_per_credit_usd"),
    ("billing_configuration", "default_credit_price_usd"),
)


def _limit_types() -> None:
    made = op.create_table(
        "plan_limit_types",
        sa.Column("limit_type", sa.Text(), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("limit_type", name=op.f("pk_plan_limit_types")),
    )
    op.bulk_insert(made, [{"limit_type": name, "display_name": shown} for name, shown in LIMIT_TYPES])
    op.drop_constraint(op.f("ck_plan_limit_usage_limit_type"), "plan_limit_usage")
    for table in LIMITED:
        op.create_foreign_key(op.f(f"fk_{table}_limit_type"), table, "plan_limit_types", ["limit_type"], ["limit_type"])


def _checks() -> None:
    _replace("ai_model_config", "rates", " AND ".join(f"({column} IS NULL OR ({_price(column)}))" for column in RATES))
    _replace("image_prices", "cost", _price("cost_per_image_usd"))
    for table, column in _CREDIT_PRICES:
        _replace(table, "price_per_credit", _price(column))
    op.create_check_constraint(
        op.f("ck_ai_model_config_token_images_have_rates"),
        "ai_model_config",
        "model_type <> 'image' OR output_cost_per_1m IS NULL "
        "OR (input_cost_per_1m IS NOT NULL AND max_output_tokens IS NOT NULL)",
    )
    op.create_check_constraint(
        op.f("ck_ai_model_config_embedding_has_rate_and_limit"),
        "ai_model_config",
        "model_type <> 'embedding' OR (input_cost_per_1m IS NOT NULL AND context_window IS NOT NULL)",
    )


def _columns() -> None:
    for column, default, check in (
        ("words_per_100_tokens", "75", "words_per_100_tokens >= 1"),
        ("typical_output_percent", "50", "typical_output_percent BETWEEN 1 AND 100"),
        ("min_margin_percent", "20", "min_margin_percent BETWEEN 0 AND 99"),
        ("deprecation_notice_days", "30", "deprecation_notice_days >= 0"),
    ):
        op.add_column("billing_configuration", sa.Column(column, sa.Integer(), server_default=default, nullable=False))
        op.create_check_constraint(op.f(f"ck_billing_configuration_{column}"), "billing_configuration", check)


def _history() -> None:
    op.create_table(
        "change_history",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("table_name", sa.Text(), nullable=False),
        sa.Column("row_name", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("old", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("new", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("action IN ('insert', 'update', 'delete')", name=op.f("ck_change_history_action")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_change_history")),
    )
    op.create_index("ix_change_history_table_name_row_name_id", "change_history", ["table_name", "row_name", "id"])
    # A trigger sees every change, also one made by hand in psql. Who makes one says so in `creditmill.actor`.
    op.execute(
        """
        CREATE FUNCTION keep_history() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE
            before jsonb := CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END;
            after jsonb := CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END;
        BEGIN
            IF before - 'updated_at' IS DISTINCT FROM after - 'updated_at' THEN
                INSERT INTO change_history (table_name, row_name, action, old, new, actor)
                VALUES (TG_TABLE_NAME, coalesce(after, before) ->> TG_ARGV[0], lower(TG_OP), before, after,
                        coalesce(nullif(current_setting('creditmill.actor', true), ''), session_user));
            END IF;
            RETURN NULL;
        END $$
        """
    )
    for table, column in KEPT:
        op.execute(
            f"CREATE TRIGGER keep_history AFTER INSERT OR UPDATE OR DELETE ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION keep_history('{column}')"
        )
    op.execute(
        """
        CREATE FUNCTION change_history_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'change_history is append-only';
        END $$
        """
    )
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON change_history "
        "FOR EACH STATEMENT EXECUTE FUNCTION change_history_append_only()"
    )
    op.execute(
        """
        CREATE FUNCTION keep_previous_ratio() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.tokens_per_credit IS DISTINCT FROM OLD.tokens_per_credit THEN
                NEW.previous_tokens_per_credit := OLD.tokens_per_credit;
            END IF;
            RETURN NEW;
        END $$
        """
    )
    op.execute(
        "CREATE TRIGGER keep_previous_ratio BEFORE UPDATE ON credit_cost_config "
        "FOR EACH ROW EXECUTE FUNCTION keep_previous_ratio()"
    )


def _replace(table: str, name: str, condition: str) -> None:
    op.drop_constraint(op.f(f"ck_{table}_{name}"), table)
    op.create_check_constraint(op.f(f"ck_{table}_{name}"), table, condition)


def _price(column: str) -> str:
    # NaN and infinity are larger than any number to PostgreSQL.
    return f"{column} >= 0.0001 AND {column} < 10000 AND scale(trim_scale({column})) <= 6"


def _loose(column: str) -> str:
    return f"({column} IS NULL OR ({column} >= 0.0001 AND {column} <> 'NaN'))"
