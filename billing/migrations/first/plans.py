"""The tables of plans: what they include, who is subscribed, each period, and what was used of a limit."""

import sqlalchemy as sa
from alembic import op

from billing.migrations.first.columns import INSTANT, JSON, USD


def tables() -> None:
    op.create_table(
        "plans",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("price", USD, server_default="0", nullable=False),
        sa.Column("included_credits", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("billing_interval", sa.Text(), server_default="month", nullable=False),
        sa.Column("limits", JSON, server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("is_active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("created_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_plans")),
        sa.UniqueConstraint("slug", name=op.f("uq_plans_slug")),
        sa.CheckConstraint("included_credits >= 0 AND price >= 0", name=op.f("ck_plans_amounts")),
        sa.CheckConstraint("billing_interval IN ('month', 'year')", name=op.f("ck_plans_billing_interval")),
        sa.CheckConstraint(
            "jsonb_typeof(limits) = 'object' AND NOT jsonb_path_exists(limits, "
            """'$.* ? (@.type() != "null" && (@.type() != "number" || @ < 0 || @.floor() != @))')""",
            name=op.f("ck_plans_limits_are_whole_numbers"),
        ),
    )
    op.create_table(
        "subscriptions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("plan_id", sa.BigInteger(), nullable=False),
        sa.Column("next_plan_id", sa.BigInteger()),
        sa.Column("status", sa.Text(), server_default="active", nullable=False),
        sa.Column("anchor_date", sa.Date(), nullable=False),
        sa.Column("current_period_start", sa.Date(), nullable=False),
        sa.Column("current_period_end", sa.Date(), nullable=False),
        sa.Column("cancel_at_period_end", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("grace_until", sa.Date()),
        sa.Column("renews_at", INSTANT),
        sa.Column("created_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subscriptions")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_subscriptions_account_id")),
        sa.ForeignKeyConstraint(["plan_id"], ["plans.id"], name=op.f("fk_subscriptions_plan_id")),
        sa.ForeignKeyConstraint(["next_plan_id"], ["plans.id"], name=op.f("fk_subscriptions_next_plan_id")),
        sa.UniqueConstraint("account_id", name=op.f("uq_subscriptions_account_id")),
        sa.CheckConstraint(
            "status IN ('active', 'cancelled', 'past_due', 'trialing')", name=op.f("ck_subscriptions_status")
        ),
        sa.CheckConstraint("current_period_start < current_period_end", name=op.f("ck_subscriptions_period")),
        sa.CheckConstraint(
            "(status = 'past_due') = (grace_until IS NOT NULL)", name=op.f("ck_subscriptions_past_due_has_grace")
        ),
        sa.CheckConstraint("(status = 'cancelled') = (renews_at IS NULL)", name=op.f("ck_subscriptions_live_renews")),
    )
    op.create_index("ix_subscriptions_plan_id", "subscriptions", ["plan_id"])
    op.create_index(
        "ix_subscriptions_renews_at", "subscriptions", ["renews_at"], postgresql_where=sa.text("renews_at IS NOT NULL")
    )
    op.create_table(
        "subscription_periods",
        sa.Column("subscription_id", sa.BigInteger(), nullable=False),
        sa.Column("period_start", sa.Date(), nullable=False),
        sa.Column("period_end", sa.Date(), nullable=False),
        sa.Column("plan_id", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("starts_at", INSTANT, nullable=False),
        sa.Column("credits", sa.BigInteger(), nullable=False),
        sa.Column("credits_withheld", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("granted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("limits_opened", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.PrimaryKeyConstraint("subscription_id", "period_start", name=op.f("pk_subscription_periods")),
        sa.ForeignKeyConstraint(
            ["subscription_id"], ["subscriptions.id"], name=op.f("fk_subscription_periods_subscription_id")
        ),
        sa.ForeignKeyConstraint(["plan_id"], ["plans.id"], name=op.f("fk_subscription_periods_plan_id")),
        sa.CheckConstraint("period_start < period_end", name=op.f("ck_subscription_periods_period")),
        sa.CheckConstraint("status IN ('active', 'past_due', 'trialing')", name=op.f("ck_subscription_periods_status")),
        sa.CheckConstraint("credits >= 0 AND credits_withheld >= 0", name=op.f("ck_subscription_periods_not_negative")),
        sa.CheckConstraint("credits > 0 OR NOT granted", name=op.f("ck_subscription_periods_grants_something")),
    )
    # What the periodic tasks look for: the periods that they have not worked on.
    op.create_index(
        "ix_subscription_periods_to_grant",
        "subscription_periods",
        ["starts_at"],
        postgresql_where=sa.text("credits > 0 AND NOT granted"),
    )
    op.create_index(
        "ix_subscription_periods_to_open",
        "subscription_periods",
        ["starts_at"],
        postgresql_where=sa.text("NOT limits_opened"),
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
        sa.Column("metadata", JSON, server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("created_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_plan_limit_usage")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_plan_limit_usage_account_id")),
        sa.ForeignKeyConstraint(
            ["limit_type"], ["plan_limit_types.limit_type"], name=op.f("fk_plan_limit_usage_limit_type")
        ),
        sa.UniqueConstraint(
            "account_id",
            "limit_type",
            "period_start",
            name=op.f("uq_plan_limit_usage_account_id_limit_type_period_start"),
        ),
        sa.CheckConstraint("amount_used >= 0 AND amount_reserved >= 0", name=op.f("ck_plan_limit_usage_not_negative")),
        sa.CheckConstraint("period_start < period_end", name=op.f("ck_plan_limit_usage_period")),
    )
    op.create_index("ix_plan_limit_usage_limit_type_period_start", "plan_limit_usage", ["limit_type", "period_start"])
