"""The catalogue has a version, which triggers renew: a process keeps the catalogue until its version changes."""

import sqlalchemy as sa
from alembic import op

revision = "0002_catalog_version"
down_revision = "0001_schema"
branch_labels = None
depends_on = None

TABLES = (
    "ai_model_config",
    "image_prices",
    "credit_cost_config",
    "billing_configuration",
    "plan_limit_types",
    "global_integration_settings",
)

# Before the change, not after it: whoever changes the catalogue by hand takes this row first, and two of them wait for
# each other in one order. The setting tells the transaction itself that what it reads is its own change.
RENEW = """
BEGIN
    UPDATE SCHEMA.catalog_version SET version = gen_random_uuid(), changed_at = now();
    PERFORM set_config('creditmill.catalog_changed', 'yes', true);
    RETURN NULL;
END
"""


def upgrade() -> None:
    op.create_table(
        "catalog_version",
        sa.Column("id", sa.Integer(), server_default="1", autoincrement=False, nullable=False),
        sa.Column("version", sa.UUID(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_catalog_version")),
        sa.CheckConstraint("id = 1", name=op.f("ck_catalog_version_singleton")),
    )
    op.execute("INSERT INTO catalog_version DEFAULT VALUES")
    schema = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
    op.execute(
        f"CREATE FUNCTION renew_catalog_version() RETURNS trigger LANGUAGE plpgsql "
        f"AS $${RENEW.replace('SCHEMA.', f'{schema}.')}$$"
    )
    for table in TABLES:
        op.execute(
            f"CREATE TRIGGER renew_version BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION renew_catalog_version()"
        )


def downgrade() -> None:
    for table in TABLES:
        op.execute(f"DROP TRIGGER renew_version ON {table}")
    op.execute("DROP FUNCTION renew_catalog_version()")
    op.drop_table("catalog_version")
