"""For operators: unknown outcomes resolved by hand, messages worked on after all, and a bound on open jobs."""

import sqlalchemy as sa
from alembic import op

revision = "0004_operators"
down_revision = "0003_prices"
branch_labels = None
depends_on = None

CHECKS = [
    ("ai_model_config", "default_is_active", "is_active OR NOT is_default"),
    (
        "ai_model_config",
        "api_fits_type",
        "(model_type = 'text' AND api IN ('responses', 'chat_completions')) OR (model_type = 'image' AND "
        "api = 'images') OR (model_type = 'embedding' AND api = 'embeddings')",
    ),
    (
        "credit_cost_config",
        "limit_unit_fits_type",
        "limit_unit = 'requests' OR (limit_unit = 'words' AND model_type = 'text') "
        "OR (limit_unit = 'images' AND model_type = 'image')",
    ),
    (
        "plans",
        "limits_are_whole_numbers",
        "jsonb_typeof(limits) = 'object' AND NOT jsonb_path_exists(limits, "
        """'$.* ? (@.type() != "null" && (@.type() != "number" || @ < 0 || @.floor() != @))')""",
    ),
]
KEPT = ("ai_model_config", "image_prices", "credit_cost_config", "billing_configuration", "plans", "subscriptions")
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
    for table, name, condition in CHECKS:
        op.create_check_constraint(op.f(f"ck_{table}_{name}"), table, condition)
    _history()


def downgrade() -> None:
    op.execute("DROP TRIGGER keep_history ON subscriptions")
    for table in KEPT:
        op.execute(f"DROP TRIGGER no_truncate ON {table}")
    op.execute("DROP FUNCTION kept_rows_are_not_truncated")
    for table, name, _ in CHECKS:
        op.drop_constraint(op.f(f"ck_{table}_{name}"), table)
    for column in BOUNDS:
        op.drop_column("billing_configuration", column)
    op.drop_index("ix_generation_jobs_unfinished", table_name="generation_jobs")
    op.drop_column("dead_messages", "redriven_at")
    op.drop_table("resolutions")
    op.execute("DROP FUNCTION resolutions_append_only")


def _history() -> None:
    # The history's table is named with its schema: a temporary table of the same name must not catch the rows.
    op.execute(
        """
        CREATE OR REPLACE FUNCTION keep_history() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE
            before jsonb := CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END;
            after jsonb := CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END;
        BEGIN
            IF before - 'updated_at' IS DISTINCT FROM after - 'updated_at' THEN
                EXECUTE format('INSERT INTO %I.change_history (table_name, row_name, action, old, new, actor) '
                               'VALUES ($1, $2, $3, $4, $5, $6)', TG_TABLE_SCHEMA)
                USING TG_TABLE_NAME::text, coalesce(after, before) ->> TG_ARGV[0], lower(TG_OP), before, after,
                      coalesce(nullif(current_setting('creditmill.actor', true), ''), session_user::text);
            END IF;
            RETURN NULL;
        END $$
        """
    )
    op.execute(
        "CREATE TRIGGER keep_history AFTER INSERT OR UPDATE OR DELETE ON subscriptions "
        "FOR EACH ROW EXECUTE FUNCTION keep_history('account_id')"
    )
    op.execute(
        """
        CREATE FUNCTION kept_rows_are_not_truncated() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION '% keeps the history of its rows: delete them instead', TG_TABLE_NAME;
        END $$
        """
    )
    for table in KEPT:
        op.execute(
            f"CREATE TRIGGER no_truncate BEFORE TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION kept_rows_are_not_truncated()"
        )
