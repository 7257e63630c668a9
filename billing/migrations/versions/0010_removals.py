"""The catalogue knows when OpenAI takes its models away; with simulated providers, nobody does."""

import sqlalchemy as sa
from alembic import op

revision = "0010_removals"
down_revision = "0009_overrun"
branch_labels = None
depends_on = None

# "Upcoming deprecations" of https://developers.openai.com/api/docs/deprecations, as of November 2026.
TAKEN_AWAY = {"gpt-4o": "2027-01-14", "gpt-4o-mini": "2027-01-14", "gpt-5.1": "2027-04-01"}


def upgrade() -> None:
    op.add_column(
        "global_integration_settings",
        sa.Column("simulated", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
    # What an installation starts with, and is given here, is no change that somebody made.
    op.execute("ALTER TABLE ai_model_config DISABLE TRIGGER keep_history")
    for name, day in TAKEN_AWAY.items():
        op.execute(
            sa.text(
                "UPDATE ai_model_config SET deprecation_date = CAST(:day AS date) "
                "WHERE model_name = :name AND provider = 'openai' AND deprecation_date IS NULL"
            ).bindparams(name=name, day=day)
        )
    op.execute("ALTER TABLE ai_model_config ENABLE TRIGGER keep_history")


def downgrade() -> None:
    op.drop_column("global_integration_settings", "simulated")
