"""Settings of accounts and users over those of the platform, and what was effective kept with each job."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from billing.migrations.first.columns import INSTANT

revision = "0012_tiers"
down_revision = "0011_pricing_rules"
branch_labels = None
depends_on = None

PLATFORM = "global_integration_settings"
CHECKS = {
    **{f"{name}_temperature": f"{name}_temperature BETWEEN 0 AND 2" for name in ("openai", "anthropic", "google")},
    **{
        f"{name}_max_tokens": f"{name}_max_tokens BETWEEN 16 AND 10000000" for name in ("openai", "anthropic", "google")
    },
    **{f"{name}_size": f"{name}_size ~ '^[0-9]{{2,5}}x[0-9]{{2,5}}$'" for name in ("dalle", "runware")},
    "image_quality": "image_quality ~ '^[a-z]{1,20}$'",
    "image_style": "image_style ~ '^[a-z]{1,20}$'",
    "max_in_article_images": "max_in_article_images BETWEEN 1 AND 1000",
}
# table, the column that names a row in its history
TABLES = {"account_settings": "account_id", "integration_settings": "account_id", "user_settings": "user_id"}
CHOICES = ("default_text_provider", "default_image_service", "image_quality", "image_style")
OF_TEXTS = tuple(
    f"{name}.{field}" for name in ("openai", "anthropic", "google") for field in ("model", "temperature", "max_tokens")
)
OF_IMAGES = tuple(f"{name}.{field}" for name in ("dalle", "runware") for field in ("model", "size"))
IS_PLAIN = "jsonb_typeof(value) IN ('string', 'number', 'boolean') AND value <> '\"\"'"
ONLY_PARAMETERS = (
    "jsonb_typeof(config) = 'object' AND config <> '{}' "
    "AND config - ARRAY['max_tokens', 'model', 'size', 'temperature'] = '{}' "
    'AND NOT jsonb_path_exists(config, \'strict $.* ? (@.type() == "object" || @.type() == "array" '
    '|| @.type() == "null" || @ == "")\')'
)

# A job reads the settings of its account only where the account's row says that there are any. Whoever saves or
# removes one holds the account's row first: of two at once, the second sees what the first has left.
NOTE_SETTINGS = """
DECLARE
    of_account bigint := coalesce(NEW.account_id, OLD.account_id);
BEGIN
    PERFORM FROM SCHEMA.accounts WHERE id = of_account FOR NO KEY UPDATE;
    UPDATE SCHEMA.accounts a SET has_settings = found.any
    FROM (SELECT EXISTS (SELECT FROM SCHEMA.account_settings WHERE account_id = of_account)
              OR EXISTS (SELECT FROM SCHEMA.integration_settings WHERE account_id = of_account)
              OR EXISTS (SELECT FROM SCHEMA.user_settings WHERE account_id = of_account) AS any) found
    WHERE a.id = of_account AND a.has_settings <> found.any;
    RETURN NULL;
END
"""
# As the history of other tables, but for the keys: of a key it has what tells one ciphertext from another, and no more.
KEEP_SETTINGS_HISTORY = """
DECLARE
    before jsonb := CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END;
    after jsonb := CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END;
    name text;
BEGIN
    FOR name IN SELECT key FROM jsonb_object_keys(coalesce(after, before)) key WHERE key LIKE '%\\_api\\_key' LOOP
        before := jsonb_set(before, ARRAY[name], coalesce(to_jsonb(
            'encrypted ' || left(encode(sha256(convert_to(before ->> name, 'UTF8')), 'hex'), 8)), 'null'));
        after := jsonb_set(after, ARRAY[name], coalesce(to_jsonb(
            'encrypted ' || left(encode(sha256(convert_to(after ->> name, 'UTF8')), 'hex'), 8)), 'null'));
    END LOOP;
    IF before - 'updated_at' IS DISTINCT FROM after - 'updated_at' THEN
        INSERT INTO SCHEMA.change_history (table_name, row_name, action, old, new, actor)
        VALUES (TG_TABLE_NAME::text, coalesce(after, before) ->> 'id', lower(TG_OP), before, after,
                coalesce(nullif(current_setting('creditmill.actor', true), ''), session_user::text));
    END IF;
    RETURN NULL;
END
"""
# The platform's choice of provider is that of its default models: this keeps the settings' row true to it.
NAME_PROVIDER = """
BEGIN
    IF NEW.is_default AND NEW.model_type = 'text' THEN
        UPDATE SCHEMA.global_integration_settings SET default_text_provider = NEW.provider
        WHERE default_text_provider <> NEW.provider;
    ELSIF NEW.is_default AND NEW.model_type = 'image' THEN
        UPDATE SCHEMA.global_integration_settings SET default_image_service = NEW.provider
        WHERE default_image_service <> NEW.provider;
    END IF;
    RETURN NULL;
END
"""


def upgrade() -> None:
    _platform()
    op.add_column("accounts", sa.Column("has_settings", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column("generation_jobs", sa.Column("settings_used", JSONB()))
    op.add_column("generation_jobs", sa.Column("label", sa.Text()))
    op.add_column("ai_model_config", sa.Column("unknown_style", sa.Text(), server_default="prompt", nullable=False))
    op.create_check_constraint(
        op.f("ck_ai_model_config_unknown_style"), "ai_model_config", "unknown_style IN ('prompt', 'refuse')"
    )
    op.create_unique_constraint(op.f("uq_users_id_account_id"), "users", ["id", "account_id"])
    _tables()
    _function("note_settings", NOTE_SETTINGS)
    for table, column in TABLES.items():
        op.execute(
            f"CREATE TRIGGER note_settings AFTER INSERT OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION note_settings()"
        )
        op.execute(
            f"CREATE TRIGGER keep_history AFTER INSERT OR UPDATE OR DELETE ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION keep_history('{column}')"
        )
        op.execute(
            f"CREATE TRIGGER no_truncate BEFORE TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION kept_rows_are_not_truncated()"
        )
    _function("name_provider", NAME_PROVIDER)
    op.execute(
        "CREATE TRIGGER name_provider AFTER INSERT OR UPDATE OF is_default, provider ON ai_model_config "
        "FOR EACH ROW EXECUTE FUNCTION name_provider()"
    )
    op.execute("UPDATE ai_model_config SET is_default = is_default WHERE is_default")


def _platform() -> None:
    """The platform's own columns, their history, and for an installation that has worked what leaves its work as it was."""
    for name in ("anthropic", "google"):
        op.add_column(PLATFORM, sa.Column(f"{name}_max_tokens", sa.Integer(), server_default="8192", nullable=False))
        op.add_column(
            PLATFORM, sa.Column(f"{name}_temperature", sa.Numeric(3, 2), server_default="0.7", nullable=False)
        )
    for name in ("dalle", "runware"):
        op.add_column(PLATFORM, sa.Column(f"{name}_size", sa.Text(), server_default="1024x1024", nullable=False))
    # More images a request than the usual two went through so far, and no image was asked for in a style of ours.
    op.execute(
        f"UPDATE {PLATFORM} SET max_in_article_images = greatest(max_in_article_images, j.most), image_style = 'none' "
        "FROM (SELECT max(CAST(params ->> 'n' AS integer)) AS most FROM generation_jobs WHERE kind = 'image' "
        "HAVING count(*) > 0) j"
    )
    for name, check in CHECKS.items():
        op.create_check_constraint(op.f(f"ck_{PLATFORM}_{name}"), PLATFORM, check)
    _function("keep_settings_history", KEEP_SETTINGS_HISTORY)
    op.execute(
        f"CREATE TRIGGER keep_history AFTER INSERT OR UPDATE OR DELETE ON {PLATFORM} "
        "FOR EACH ROW EXECUTE FUNCTION keep_settings_history()"
    )
    op.execute(
        f"CREATE TRIGGER no_truncate BEFORE TRUNCATE ON {PLATFORM} "
        "FOR EACH STATEMENT EXECUTE FUNCTION kept_rows_are_not_truncated()"
    )


def _tables() -> None:
    op.create_table(
        "account_settings",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", JSONB(), nullable=False),
        sa.Column("updated_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "key", name=op.f("pk_account_settings")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_account_settings_account_id")),
        sa.CheckConstraint(_one_of("key", (*CHOICES, "max_in_article_images")), name=op.f("ck_account_settings_key")),
        sa.CheckConstraint(IS_PLAIN, name=op.f("ck_account_settings_value")),
    )
    op.create_table(
        "integration_settings",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("integration_type", sa.Text(), nullable=False),
        sa.Column("config", JSONB(), nullable=False),
        sa.Column("updated_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "integration_type", name=op.f("pk_integration_settings")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_integration_settings_account_id")),
        sa.CheckConstraint(
            _one_of("integration_type", ("openai", "anthropic", "google", "dalle", "runware")),
            name=op.f("ck_integration_settings_integration_type"),
        ),
        sa.CheckConstraint(ONLY_PARAMETERS, name=op.f("ck_integration_settings_config")),
    )
    op.create_table(
        "user_settings",
        sa.Column("user_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", JSONB(), nullable=False),
        sa.Column("updated_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "account_id", "key", name=op.f("pk_user_settings")),
        sa.ForeignKeyConstraint(
            ["user_id", "account_id"], ["users.id", "users.account_id"], name=op.f("fk_user_settings_user_id")
        ),
        sa.CheckConstraint(_one_of("key", (*CHOICES, *OF_TEXTS, *OF_IMAGES)), name=op.f("ck_user_settings_key")),
        sa.CheckConstraint(IS_PLAIN, name=op.f("ck_user_settings_value")),
    )
    op.create_index("ix_user_settings_account_id", "user_settings", ["account_id"])


def downgrade() -> None:
    op.execute(f"DROP TRIGGER no_truncate ON {PLATFORM}")
    op.execute(f"DROP TRIGGER keep_history ON {PLATFORM}")
    op.execute("DROP FUNCTION keep_settings_history()")
    for name in CHECKS:
        op.drop_constraint(op.f(f"ck_{PLATFORM}_{name}"), PLATFORM)
    added = ("anthropic_max_tokens", "anthropic_temperature", "google_max_tokens", "google_temperature")
    for name in (*added, "dalle_size", "runware_size"):
        op.drop_column(PLATFORM, name)
    op.execute("DROP TRIGGER name_provider ON ai_model_config")
    op.execute("DROP FUNCTION name_provider()")
    for table in TABLES:
        op.drop_table(table)
    op.execute("DROP FUNCTION note_settings()")
    op.drop_constraint(op.f("uq_users_id_account_id"), "users")
    op.drop_column("ai_model_config", "unknown_style")
    op.drop_column("generation_jobs", "label")
    op.drop_column("generation_jobs", "settings_used")
    op.drop_column("accounts", "has_settings")


def _one_of(column: str, names: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(repr(name) for name in names)})"


def _function(name: str, body: str) -> None:
    schema = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
    op.execute(
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $${body.replace('SCHEMA.', f'{schema}.')}$$"
    )
