"""Token classes with rates of their own, notes on usage that was mended, and costs that providers report themselves."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0005_usage"
down_revision = "0004_lists"
branch_labels = None
depends_on = None

RATES = (
    "cache_write_cost_per_1m",
    "cache_write_1h_cost_per_1m",
    "image_input_cost_per_1m",
    "image_output_cost_per_1m",
    "audio_input_cost_per_1m",
    "audio_output_cost_per_1m",
)
LONG = (
    "long_context_input_cost_per_1m",
    "long_context_cached_input_cost_per_1m",
    "long_context_output_cost_per_1m",
)


def upgrade() -> None:
    for name in RATES:
        op.add_column("ai_model_config", sa.Column(name, sa.Numeric()))
    op.add_column("ai_model_config", sa.Column("long_context_above", sa.Integer()))
    for name in LONG:
        op.add_column("ai_model_config", sa.Column(name, sa.Numeric()))
    op.add_column("ai_model_config", sa.Column("service_tier_factors", JSONB()))
    op.create_check_constraint(
        op.f("ck_ai_model_config_further_rates"),
        "ai_model_config",
        " AND ".join(
            f"({name} IS NULL OR ({name} >= 0.0001 AND {name} < 10000 AND scale(trim_scale({name})) <= 6))"
            for name in (*RATES, *LONG)
        ),
    )
    op.create_check_constraint(
        op.f("ck_ai_model_config_long_context_is_whole"),
        "ai_model_config",
        "(long_context_above IS NULL) = (long_context_input_cost_per_1m IS NULL) "
        "AND (long_context_above IS NULL) = (long_context_output_cost_per_1m IS NULL) "
        "AND (long_context_above IS NOT NULL OR long_context_cached_input_cost_per_1m IS NULL) "
        "AND long_context_above >= 1",
    )
    op.create_check_constraint(
        op.f("ck_ai_model_config_service_tier_factors"),
        "ai_model_config",
        "jsonb_typeof(service_tier_factors) = 'object'",
    )
    op.add_column("provider_calls", sa.Column("usage_note", sa.Text()))
    op.add_column("provider_calls", sa.Column("reported_cost_usd", sa.Numeric()))
    op.create_check_constraint(
        op.f("ck_provider_calls_reported_cost_not_negative"), "provider_calls", "reported_cost_usd >= 0"
    )
    # What an operator looks at: calls whose usage was mended, and whose cost the provider reports as another.
    op.create_index(
        "ix_provider_calls_usage_note",
        "provider_calls",
        ["finished_at"],
        postgresql_where=sa.text("usage_note IS NOT NULL"),
    )
    op.create_index(
        "ix_provider_calls_reported_cost",
        "provider_calls",
        ["finished_at"],
        postgresql_where=sa.text("reported_cost_usd <> cost_usd"),
    )


def downgrade() -> None:
    op.drop_index("ix_provider_calls_reported_cost", "provider_calls")
    op.drop_index("ix_provider_calls_usage_note", "provider_calls")
    op.drop_column("provider_calls", "reported_cost_usd")
    op.drop_column("provider_calls", "usage_note")
    op.drop_column("ai_model_config", "service_tier_factors")
    for name in (*LONG, "long_context_above", *RATES):
        op.drop_column("ai_model_config", name)
