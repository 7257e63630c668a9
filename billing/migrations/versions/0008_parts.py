"""A model says how many images it makes by one call; a job says how many of its calls delivered their part."""

import sqlalchemy as sa
from alembic import op

revision = "0008_parts"
down_revision = "0007_included"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("ai_model_config", sa.Column("images_per_call", sa.Integer()))
    op.create_check_constraint(op.f("ck_ai_model_config_images_per_call"), "ai_model_config", "images_per_call >= 1")
    op.add_column("generation_jobs", sa.Column("parts_delivered", sa.Integer(), server_default="0", nullable=False))
    op.create_check_constraint(
        op.f("ck_generation_jobs_parts_delivered"), "generation_jobs", "parts_delivered BETWEEN 0 AND attempts"
    )
    op.create_check_constraint(
        op.f("ck_generation_jobs_refunded_delivers_nothing"),
        "generation_jobs",
        "state <> 'refunded' OR parts_delivered = 0",
    )
    # What an installation starts with, and is given here, is no change that somebody made.
    op.execute("ALTER TABLE ai_model_config DISABLE TRIGGER keep_history")
    # OpenAI's reference of the images API: "For dall-e-3, only n=1 is supported."
    op.execute(
        "UPDATE ai_model_config SET images_per_call = 1 "
        "WHERE model_name = 'dall-e-3' AND model_type = 'image' AND provider = 'openai'"
    )
    op.execute("ALTER TABLE ai_model_config ENABLE TRIGGER keep_history")


def downgrade() -> None:
    op.drop_column("generation_jobs", "parts_delivered")
    op.drop_column("ai_model_config", "images_per_call")
