"""The table of the platform's provider keys, addresses and defaults."""

import sqlalchemy as sa
from alembic import op

from billing.migrations.first.columns import INSTANT


def tables() -> None:
    op.create_table(
        "global_integration_settings",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("openai_api_key", sa.Text()),
        sa.Column("openai_base_url", sa.Text()),
        sa.Column("openai_honours_keys", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("dalle_api_key", sa.Text()),
        sa.Column("anthropic_api_key", sa.Text()),
        sa.Column("anthropic_base_url", sa.Text()),
        sa.Column("runware_api_key", sa.Text()),
        sa.Column("runware_base_url", sa.Text()),
        sa.Column("google_api_key", sa.Text()),
        sa.Column("google_base_url", sa.Text()),
        sa.Column("openai_max_tokens", sa.Integer(), server_default="8192", nullable=False),
        sa.Column("openai_temperature", sa.Numeric(3, 2), server_default="0.7", nullable=False),
        sa.Column("default_text_provider", sa.Text(), server_default="openai", nullable=False),
        sa.Column("default_image_service", sa.Text(), server_default="openai", nullable=False),
        sa.Column("image_quality", sa.Text(), server_default="standard", nullable=False),
        sa.Column("image_style", sa.Text(), server_default="photorealistic", nullable=False),
        sa.Column("max_in_article_images", sa.Integer(), server_default="2", nullable=False),
        sa.Column("updated_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_global_integration_settings")),
        sa.CheckConstraint("id = 1", name=op.f("ck_global_integration_settings_singleton")),
    )
