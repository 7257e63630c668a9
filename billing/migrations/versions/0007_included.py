"""A period says what its plan included, so that what it was granted can be compared with its days."""

import sqlalchemy as sa
from alembic import op

revision = "0007_included"
down_revision = "0006_parameters"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Unknown for the periods that have begun: they were granted everything, whatever an earlier period covered.
    op.add_column("subscription_periods", sa.Column("included_credits", sa.BigInteger()))
    op.create_check_constraint(
        op.f("ck_subscription_periods_within_included"),
        "subscription_periods",
        "credits + credits_withheld <= included_credits",
    )


def downgrade() -> None:
    op.drop_column("subscription_periods", "included_credits")
