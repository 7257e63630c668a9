"""Each row of the ledger says why it was written, and by whom: goodwill is no sale."""

import sqlalchemy as sa
from alembic import op

revision = "0014_ledger_reasons"
down_revision = "0013_bound_secrets"
branch_labels = None
depends_on = None

TABLE = "credit_transactions"
CHECKS = {
    "goodwill_is_given": "NOT goodwill OR (transaction_type = 'adjustment' AND amount > 0)",
    "actor": "length(actor) BETWEEN 1 AND 100",
}
REASON = (
    "CASE transaction_type WHEN 'purchase' THEN 'sold' WHEN 'subscription' THEN 'plan' WHEN 'deduction' THEN 'used' "
    "WHEN 'adjustment' THEN CASE WHEN goodwill THEN 'goodwill' ELSE 'adjusted' END ELSE 'adjusted' END"
)


def upgrade() -> None:
    op.add_column(TABLE, sa.Column("actor", sa.Text(), server_default="creditmill", nullable=False))
    op.add_column(TABLE, sa.Column("goodwill", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column(TABLE, sa.Column("reason", sa.Text(), sa.Computed(REASON, persisted=True), nullable=False))
    op.create_index("ix_credit_transactions_account_id_id", TABLE, ["account_id", "id"])
    op.drop_index("ix_credit_transactions_account_id_created_at", TABLE)
    for name, check in CHECKS.items():
        op.create_check_constraint(op.f(f"ck_{TABLE}_{name}"), TABLE, check)


def downgrade() -> None:
    op.create_index("ix_credit_transactions_account_id_created_at", TABLE, ["account_id", "created_at"])
    op.drop_index("ix_credit_transactions_account_id_id", TABLE)
    for name in ("reason", "goodwill", "actor"):
        op.drop_column(TABLE, name)
