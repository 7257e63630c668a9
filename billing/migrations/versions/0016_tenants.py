"""An account's reads by a role of their own, to which row-level security shows the rows of that account alone."""

import sqlalchemy as sa
from alembic import op

revision = "0016_tenants"
down_revision = "0015_audit_changes"
branch_labels = None
depends_on = None

ROLE = "creditmill_tenant"
# Nothing set is no account. After a transaction that set it, what was never set reads as ''.
ACCOUNT = "CAST(nullif(current_setting('creditmill.account_id', true), '') AS bigint)"
OF_A_JOB = "EXISTS (SELECT FROM generation_jobs j WHERE j.id = job_id)"
TIERS = ("account_settings", "integration_settings", "user_settings")
# table, which of its rows are the account's
ROWS = {
    "accounts": f"id = {ACCOUNT}",
    **dict.fromkeys(("users", "credit_transactions", "generation_jobs", *TIERS), f"account_id = {ACCOUNT}"),
    "generation_results": OF_A_JOB,
    "provider_calls": OF_A_JOB,
    "change_history": (
        "table_name IN ('ai_model_config', 'global_integration_settings') "
        f"OR (table_name IN ({', '.join(repr(table) for table in TIERS)}) "
        f"AND CAST(coalesce(new, old) ->> 'account_id' AS bigint) = {ACCOUNT})"
    ),
}
# What the platform's tier of the settings is read from; never a key.
COLUMNS = {
    "ai_model_config": (
        "model_name, model_type, provider, is_active, is_default, sort_order, deprecation_date, output_cost_per_1m, "
        "created_at"
    ),
    "image_prices": "model_name",
    "global_integration_settings": (
        "id, simulated, default_text_provider, default_image_service, image_quality, image_style, "
        "max_in_article_images, openai_temperature, openai_max_tokens, anthropic_temperature, anthropic_max_tokens, "
        "google_temperature, google_max_tokens, dalle_size, runware_size, updated_at"
    ),
}
# A role belongs to all databases of a server, so another one's migration may have created it.
CREATE_ROLE = f"""
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{ROLE}') THEN
        CREATE ROLE {ROLE} NOLOGIN;
        IF current_setting('is_superuser') <> 'on' THEN
            IF current_setting('server_version_num')::int >= 160000 THEN
                GRANT {ROLE} TO CURRENT_USER WITH INHERIT FALSE, SET TRUE;
            ELSE
                GRANT {ROLE} TO CURRENT_USER;
            END IF;
        END IF;
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
    WHEN insufficient_privilege THEN
        RAISE insufficient_privilege USING MESSAGE = format(
            'this user may not create roles: have an administrator of the database run '
            'CREATE ROLE {ROLE} NOLOGIN; GRANT {ROLE} TO %I; and then migrate again', current_user);
END
$$
"""


def upgrade() -> None:
    op.execute(CREATE_ROLE)
    op.execute(f"GRANT USAGE ON SCHEMA {_schema()} TO {ROLE}")
    for table, columns in COLUMNS.items():
        op.execute(f"GRANT SELECT ({columns}) ON {table} TO {ROLE}")
    for table, rows in ROWS.items():
        op.execute(f"GRANT SELECT ON {table} TO {ROLE}")
        op.execute(f"CREATE POLICY tenant ON {table} FOR SELECT TO {ROLE} USING ({rows})")
        # Row-level security hides every row from whoever has no policy: workers may run as another role than the owner.
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
    for table, columns in COLUMNS.items():
        op.execute(f"REVOKE SELECT ({columns}) ON {table} FROM {ROLE}")
    op.execute(f"REVOKE USAGE ON SCHEMA {_schema()} FROM {ROLE}")
    # The role stays: it belongs to the server, and other databases of it may have migrated too.


def _schema() -> str:
    return str(op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())")))
