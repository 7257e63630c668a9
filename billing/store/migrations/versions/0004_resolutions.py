"""For operators: unknown outcomes resolved by hand, messages worked on after all, and a bound on open jobs."""

import sqlalchemy as sa
from alembic import op

revision = "0004_resolutions"
down_revision = "0003_prices"
branch_labels = None
depends_on = None

BOUNDS = {"max_open_jobs_per_account": "10000", "max_open_jobs": "100000"}


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
    op.add_column("dead_messages", sa.Column("redriven_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index(
        "ix_generation_jobs_unfinished",
        "generation_jobs",
        ["account_id"],
        postgresql_where=sa.text("finished_at IS NULL"),
    )
    for column, default in BOUNDS.items():
        op.add_column("billing_configuration", sa.Column(column, sa.Integer(), server_default=default, nullable=False))
        op.create_check_constraint(
            op.f(f"ck_billing_configuration_{column}"), "billing_configuration", f"{column} >= 1"
        )


def downgrade() -> None:
    for column in BOUNDS:
        op.drop_column("billing_configuration", column)
    op.drop_index("ix_generation_jobs_unfinished", table_name="generation_jobs")
    op.drop_column("dead_messages", "redriven_at")
    op.drop_table("resolutions")
    op.execute("DROP FUNCTION resolutions_append_only")
