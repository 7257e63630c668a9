"""Unknown outcomes that an operator resolved by hand, each with its evidence."""

import sqlalchemy as sa
from alembic import op

revision = "0004_resolutions"
down_revision = "0003_prices"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "resolutions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("call_id", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("resolved_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("outcome IN ('delivered', 'executed', 'not_executed')", name=op.f("ck_resolutions_outcome")),
        sa.CheckConstraint("length(evidence) BETWEEN 1 AND 2000", name=op.f("ck_resolutions_evidence")),
        sa.ForeignKeyConstraint(["call_id"], ["provider_calls.id"], name=op.f("fk_resolutions_call_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_resolutions")),
        # A call is resolved once: who was wrong writes an adjustment, not another history.
        sa.UniqueConstraint("call_id", name=op.f("uq_resolutions_call_id")),
    )
    op.execute(
        """
        CREATE FUNCTION resolutions_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'resolutions is append-only';
        END $$
        """
    )
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON resolutions "
        "FOR EACH STATEMENT EXECUTE FUNCTION resolutions_append_only()"
    )


def downgrade() -> None:
    op.drop_table("resolutions")
    op.execute("DROP FUNCTION resolutions_append_only")
