"""Keys for the HTTP API; jobs name the key that they were submitted with, and count against its cap."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

from billing.migrations.first.columns import INSTANT

revision = "0017_api_keys"
down_revision = "0016_tenants"
branch_labels = None
depends_on = None

# What a job holds of its key's cap is its estimate while it is open, and what it uses of it is its charge.
COUNT_OF_KEY = """
DECLARE
    held bigint := CASE WHEN NEW.finished_at IS NULL THEN coalesce(NEW.credits_estimated, 0) ELSE 0 END;
    used bigint := coalesce(NEW.credits_charged, 0);
    counted bigint;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        held := held - CASE WHEN OLD.finished_at IS NULL THEN coalesce(OLD.credits_estimated, 0) ELSE 0 END;
        used := used - coalesce(OLD.credits_charged, 0);
    END IF;
    SELECT coalesce(cap_of, id) INTO counted FROM SCHEMA.api_keys
    WHERE id = NEW.api_key_id AND (credit_cap IS NOT NULL OR cap_of IS NOT NULL);
    IF counted IS NULL THEN
        RETURN NULL;
    END IF;
    -- Only a new job is refused: what was let in may be charged, whatever it costs by then.
    UPDATE SCHEMA.api_keys SET credits_held = credits_held + held, credits_used = credits_used + used
    WHERE id = counted AND (TG_OP = 'UPDATE' OR credits_used + credits_held + held + used <= credit_cap);
    IF NOT FOUND THEN
        RAISE check_violation USING MESSAGE = 'the cap of a key does not cover a job',
            CONSTRAINT = 'ck_api_keys_cap_covers_jobs';
    END IF;
    RETURN NULL;
END
"""

ROLE = "creditmill_tenant"
ACCOUNT = "CAST(nullif(current_setting('creditmill.account_id', true), '') AS bigint)"
# What the API shows of an account beside its settings, jobs and ledger: the limits of its plan, and its usage.
ROWS = dict.fromkeys(
    ("subscriptions", "plan_limit_usage", "revenue_rollups", "revenue_changes"), f"account_id = {ACCOUNT}"
)


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("account_id", sa.BigInteger()),
        sa.Column("user_id", sa.BigInteger()),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("scopes", ARRAY(sa.Text()), nullable=False),
        sa.Column("key_hash", sa.Text(), nullable=False),
        sa.Column("begins_with", sa.Text(), nullable=False),
        sa.Column("ends_with", sa.Text(), nullable=False),
        sa.Column("credit_cap", sa.BigInteger()),
        sa.Column("cap_of", sa.BigInteger()),
        sa.Column("credits_held", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("credits_used", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("created_at", INSTANT, server_default=sa.func.now(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("expires_at", INSTANT),
        sa.Column("revoked_at", INSTANT),
        sa.Column("last_used_at", INSTANT),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("key_hash", name=op.f("uq_api_keys_key_hash")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_api_keys_account_id")),
        sa.ForeignKeyConstraint(["cap_of"], ["api_keys.id"], name=op.f("fk_api_keys_cap_of")),
        sa.ForeignKeyConstraint(
            ["user_id", "account_id"], ["users.id", "users.account_id"], name=op.f("fk_api_keys_user_id")
        ),
        sa.CheckConstraint("key_hash ~ '^[0-9a-f]{64}$'", name=op.f("ck_api_keys_key_hash")),
        sa.CheckConstraint("kind IN ('live', 'test')", name=op.f("ck_api_keys_kind")),
        sa.CheckConstraint(
            "cardinality(scopes) > 0 AND (scopes <@ ARRAY['admin:read', 'admin:write'] = (account_id IS NULL))",
            name=op.f("ck_api_keys_scopes"),
        ),
        sa.CheckConstraint("user_id IS NULL OR account_id IS NOT NULL", name=op.f("ck_api_keys_user_has_account")),
        sa.CheckConstraint(
            "credit_cap IS NULL OR (credit_cap > 0 AND account_id IS NOT NULL)", name=op.f("ck_api_keys_credit_cap")
        ),
        sa.CheckConstraint("credit_cap IS NULL OR cap_of IS NULL", name=op.f("ck_api_keys_cap_of_one_key")),
        sa.CheckConstraint("credits_held >= 0 AND credits_used >= 0", name=op.f("ck_api_keys_counts_not_negative")),
    )
    op.create_index("ix_api_keys_account_id_id", "api_keys", ["account_id", "id"])
    op.add_column("generation_jobs", sa.Column("api_key_id", sa.BigInteger()))
    op.create_foreign_key(op.f("fk_generation_jobs_api_key_id"), "generation_jobs", "api_keys", ["api_key_id"], ["id"])
    _function("count_of_key", COUNT_OF_KEY)
    op.execute(
        "CREATE TRIGGER count_of_key_new AFTER INSERT ON generation_jobs FOR EACH ROW "
        "WHEN (NEW.api_key_id IS NOT NULL) EXECUTE FUNCTION count_of_key()"
    )
    op.execute(
        "CREATE TRIGGER count_of_key_changed AFTER UPDATE ON generation_jobs FOR EACH ROW "
        "WHEN (NEW.api_key_id IS NOT NULL AND (OLD.finished_at, OLD.credits_estimated, OLD.credits_charged) "
        "IS DISTINCT FROM (NEW.finished_at, NEW.credits_estimated, NEW.credits_charged)) "
        "EXECUTE FUNCTION count_of_key()"
    )
    op.execute(f"GRANT SELECT ON plans TO {ROLE}")
    for table, rows in ROWS.items():
        op.execute(f"GRANT SELECT ON {table} TO {ROLE}")
        op.execute(f"CREATE POLICY tenant ON {table} FOR SELECT TO {ROLE} USING ({rows})")
        op.execute(
            f"CREATE POLICY operator ON {table} USING (NOT pg_has_role(current_user, '{ROLE}', 'USAGE')) "
            f"WITH CHECK (NOT pg_has_role(current_user, '{ROLE}', 'USAGE'))"
        )
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")


def downgrade() -> None:
    for table in ROWS:
        op.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
        op.execute(f"DROP POLICY operator ON {table}")
        op.execute(f"DROP POLICY tenant ON {table}")
        op.execute(f"REVOKE ALL ON {table} FROM {ROLE}")
    op.execute(f"REVOKE ALL ON plans FROM {ROLE}")
    op.execute("DROP TRIGGER count_of_key_changed ON generation_jobs")
    op.execute("DROP TRIGGER count_of_key_new ON generation_jobs")
    op.execute("DROP FUNCTION count_of_key()")
    op.drop_column("generation_jobs", "api_key_id")
    op.drop_table("api_keys")


def _function(name: str, body: str) -> None:
    schema = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
    op.execute(
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $${body.replace('SCHEMA.', f'{schema}.')}$$"
    )
