"""Two rules by which usage becomes credits, of an operation or of an operation on one model, and the wanted markup."""

import sqlalchemy as sa
from alembic import op

from billing.migrations.first.columns import INSTANT

revision = "0011_pricing_rules"
down_revision = "0010_removals"
branch_labels = None
depends_on = None

OVERRIDES = "credit_cost_overrides"
RULE_CHECKS = {
    "priced_by": "priced_by IN ('tokens', 'cost')",
    "output_weight": "output_weight > 0 AND output_weight <= 1000",
    "markup_percent": "markup_percent >= 0 AND markup_percent <= 100000",
    "cost_has_markup": "priced_by <> 'cost' OR markup_percent IS NOT NULL",
}


def upgrade() -> None:
    op.add_column("credit_cost_config", sa.Column("priced_by", sa.Text(), server_default="tokens", nullable=False))
    op.add_column(
        "credit_cost_config", sa.Column("output_weight", sa.Numeric(20, 10), server_default="1", nullable=False)
    )
    op.add_column("credit_cost_config", sa.Column("markup_percent", sa.Numeric(20, 10)))
    for name, check in RULE_CHECKS.items():
        op.create_check_constraint(op.f(f"ck_credit_cost_config_{name}"), "credit_cost_config", check)
    op.add_column(
        "billing_configuration", sa.Column("wanted_markup_percent", sa.Integer(), server_default="150", nullable=False)
    )
    op.create_check_constraint(
        op.f("ck_billing_configuration_wanted_markup_percent"),
        "billing_configuration",
        "wanted_markup_percent BETWEEN 0 AND 100000",
    )
    op.create_table(
        OVERRIDES,
        sa.Column("operation_type", sa.Text(), nullable=False),
        sa.Column("model_name", sa.Text(), nullable=False),
        sa.Column("priced_by", sa.Text(), nullable=False),
        sa.Column("tokens_per_credit", sa.Integer(), nullable=False),
        sa.Column("output_weight", sa.Numeric(20, 10), nullable=False),
        sa.Column("markup_percent", sa.Numeric(20, 10)),
        sa.Column("min_credits", sa.Integer(), nullable=False),
        sa.Column("created_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("operation_type", "model_name", name=op.f(f"pk_{OVERRIDES}")),
        sa.ForeignKeyConstraint(
            ["operation_type"], ["credit_cost_config.operation_type"], name=op.f(f"fk_{OVERRIDES}_operation_type")
        ),
        sa.ForeignKeyConstraint(
            ["model_name"], ["ai_model_config.model_name"], name=op.f(f"fk_{OVERRIDES}_model_name")
        ),
        sa.CheckConstraint("tokens_per_credit >= 1", name=op.f(f"ck_{OVERRIDES}_tokens_per_credit")),
        sa.CheckConstraint("min_credits >= 0", name=op.f(f"ck_{OVERRIDES}_min_credits")),
        *(sa.CheckConstraint(check, name=op.f(f"ck_{OVERRIDES}_{name}")) for name, check in RULE_CHECKS.items()),
    )
    op.execute(
        f"CREATE TRIGGER renew_version BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {OVERRIDES} "
        "FOR EACH STATEMENT EXECUTE FUNCTION renew_catalog_version()"
    )
    op.execute(
        f"CREATE TRIGGER keep_history AFTER INSERT OR UPDATE OR DELETE ON {OVERRIDES} "
        "FOR EACH ROW EXECUTE FUNCTION keep_history('operation_type')"
    )
    op.execute(
        f"CREATE TRIGGER no_truncate BEFORE TRUNCATE ON {OVERRIDES} "
        "FOR EACH STATEMENT EXECUTE FUNCTION kept_rows_are_not_truncated()"
    )


def downgrade() -> None:
    op.drop_table(OVERRIDES)
    op.drop_column("billing_configuration", "wanted_markup_percent")
    for name in ("markup_percent", "output_weight", "priced_by"):
        op.drop_column("credit_cost_config", name)
