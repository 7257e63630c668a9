"""A model says which parameters it takes: qualities, styles, and the formats that are asked for."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0006_parameters"
down_revision = "0005_usage"
branch_labels = None
depends_on = None

LISTS = ("valid_qualities", "valid_styles")
FORMATS = ("response_format", "encoding_format")
# What OpenAI's reference of the images API says that each of its models takes.
TAKEN = (
    ("model_name = 'dall-e-3'", '["standard", "hd"]', '["vivid", "natural"]'),
    ("model_name = 'dall-e-2'", '["standard"]', None),
    ("model_name LIKE 'gpt-image-%'", '["auto", "low", "medium", "high"]', None),
)


def upgrade() -> None:
    for name in LISTS:
        op.add_column("ai_model_config", sa.Column(name, JSONB()))
    for name in FORMATS:
        op.add_column("ai_model_config", sa.Column(name, sa.Text()))
    op.create_check_constraint(
        op.f("ck_ai_model_config_formats"),
        "ai_model_config",
        "response_format IN ('url', 'b64_json') AND encoding_format IN ('float', 'base64')",
    )
    op.create_check_constraint(
        op.f("ck_ai_model_config_parameters_fit_type"),
        "ai_model_config",
        "(model_type = 'image' OR (valid_qualities IS NULL AND valid_styles IS NULL AND response_format IS NULL)) "
        "AND (model_type = 'embedding' OR encoding_format IS NULL)",
    )
    # What an installation starts with, and is given here, is no change that somebody made.
    op.execute("ALTER TABLE ai_model_config DISABLE TRIGGER keep_history")
    for whose, qualities, styles in TAKEN:
        op.execute(
            sa.text(
                "UPDATE ai_model_config SET valid_qualities = CAST(:qualities AS jsonb), "
                f"valid_styles = CAST(:styles AS jsonb) WHERE {whose} AND model_type = 'image' AND provider = 'openai'"
            ).bindparams(qualities=qualities, styles=styles)
        )
    # Of a model behind OpenAI's interface that we do not know, the image prices tell the qualities.
    op.execute(
        """
        UPDATE ai_model_config m SET valid_qualities = (
            SELECT jsonb_agg(quality ORDER BY quality) FROM (
                SELECT DISTINCT p.quality FROM image_prices p WHERE p.model_name = m.model_name AND p.quality <> '*'
            ) priced
        )
        WHERE m.model_type = 'image' AND m.provider = 'openai' AND m.valid_qualities IS NULL
        """
    )
    op.execute("ALTER TABLE ai_model_config ENABLE TRIGGER keep_history")


def downgrade() -> None:
    for name in (*LISTS, *FORMATS):
        op.drop_column("ai_model_config", name)
