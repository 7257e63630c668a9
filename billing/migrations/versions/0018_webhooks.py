"""Webhooks: endpoints of accounts, and messages that the transitions themselves write, by triggers."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

from billing.migrations.first.columns import INSTANT, JSON

revision = "0018_webhooks"
down_revision = "0017_api_keys"
branch_labels = None
depends_on = None

EVENTS = (
    *("job.settled", "job.refunded", "job.rejected", "job.cancelled"),
    *("balance.threshold_crossed", "limit.threshold_crossed", "period.renewed"),
)
NAMED = f"ARRAY[{', '.join(repr(name) for name in EVENTS)}]"
ADD = "INSERT INTO SCHEMA.webhook_messages (endpoint_id, account_id, event, subject, data)"
TOLD = "FROM SCHEMA.webhook_endpoints e WHERE e.account_id = NEW.account_id AND e.disabled_reason IS NULL"
TELL_OF_JOB = f"""
BEGIN
    {ADD}
    SELECT e.id, e.account_id, 'job.' || NEW.state, 'job ' || NEW.id, jsonb_build_object(
        'id', NEW.id, 'state', NEW.state, 'operation', NEW.operation_type, 'model', NEW.model_name,
        'credits_charged', coalesce(NEW.credits_charged, 0), 'error', NEW.error_code,
        'idempotency_key', NEW.idempotency_key)
    {TOLD} AND 'job.' || NEW.state = ANY (e.events);
    RETURN NULL;
END
"""
# The balance falls below a threshold once, until it has risen above it again.
TELL_OF_BALANCE = f"""
BEGIN
    {ADD}
    SELECT e.id, NEW.id, 'balance.threshold_crossed', 'account ' || NEW.id, jsonb_build_object(
        'id', NEW.id, 'balance', NEW.balance, 'available', NEW.balance - NEW.reserved, 'threshold', e.balance_threshold)
    FROM SCHEMA.webhook_endpoints e WHERE e.account_id = NEW.id AND e.disabled_reason IS NULL
        AND 'balance.threshold_crossed' = ANY (e.events)
        AND OLD.balance >= e.balance_threshold AND NEW.balance < e.balance_threshold;
    RETURN NULL;
END
"""
TELL_OF_LIMIT = f"""
BEGIN
    {ADD}
    SELECT e.id, e.account_id, 'limit.threshold_crossed', 'limit ' || NEW.limit_type, jsonb_build_object(
        'id', NEW.limit_type, 'used', NEW.amount_used, 'allowed', a.allowed, 'period_end', NEW.period_end,
        'threshold_percent', e.limit_threshold_percent)
    FROM SCHEMA.webhook_endpoints e
    JOIN SCHEMA.subscriptions s ON s.account_id = e.account_id
    JOIN SCHEMA.plans p ON p.id = s.plan_id
    CROSS JOIN LATERAL (SELECT CAST(p.limits ->> NEW.limit_type AS bigint) AS allowed) a
    WHERE e.account_id = NEW.account_id AND e.disabled_reason IS NULL AND 'limit.threshold_crossed' = ANY (e.events)
        AND OLD.amount_used * 100 < a.allowed * e.limit_threshold_percent
        AND NEW.amount_used * 100 >= a.allowed * e.limit_threshold_percent;
    RETURN NULL;
END
"""
TELL_OF_PERIOD = f"""
BEGIN
    {ADD}
    SELECT e.id, e.account_id, 'period.renewed', 'subscription ' || NEW.subscription_id, jsonb_build_object(
        'id', NEW.subscription_id, 'plan', p.slug, 'period_start', NEW.period_start, 'period_end', NEW.period_end,
        'credits', NEW.credits)
    FROM SCHEMA.subscriptions s
    JOIN SCHEMA.webhook_endpoints e ON e.account_id = s.account_id
    JOIN SCHEMA.plans p ON p.id = NEW.plan_id
    WHERE s.id = NEW.subscription_id AND e.disabled_reason IS NULL AND 'period.renewed' = ANY (e.events);
    RETURN NULL;
END
"""
ROLE = "creditmill_tenant"
ACCOUNT = "CAST(nullif(current_setting('creditmill.account_id', true), '') AS bigint)"
ROWS = dict.fromkeys(("webhook_endpoints", "webhook_messages"), f"account_id = {ACCOUNT}")
# What an account sees of its endpoints is all but their secrets.
COLUMNS = {
    "webhook_endpoints": (
        "id, account_id, url, events, balance_threshold, limit_threshold_percent, disabled_reason, created_at"
    ),
    "webhook_messages": "*",
}


def upgrade() -> None:
    _tables()
    for name, body in (
        ("tell_of_job", TELL_OF_JOB),
        ("tell_of_balance", TELL_OF_BALANCE),
        ("tell_of_limit", TELL_OF_LIMIT),
        ("tell_of_period", TELL_OF_PERIOD),
    ):
        _function(name, body)
    op.execute(
        "CREATE TRIGGER tell_of_job AFTER UPDATE ON generation_jobs FOR EACH ROW "
        "WHEN (OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL) EXECUTE FUNCTION tell_of_job()"
    )
    op.execute(
        "CREATE TRIGGER tell_of_balance AFTER UPDATE ON accounts FOR EACH ROW "
        "WHEN (NEW.balance < OLD.balance) EXECUTE FUNCTION tell_of_balance()"
    )
    op.execute(
        "CREATE TRIGGER tell_of_limit AFTER UPDATE ON plan_limit_usage FOR EACH ROW "
        "WHEN (NEW.amount_used > OLD.amount_used) EXECUTE FUNCTION tell_of_limit()"
    )
    op.execute(
        "CREATE TRIGGER tell_of_period AFTER INSERT ON subscription_periods FOR EACH ROW "
        "EXECUTE FUNCTION tell_of_period()"
    )
    for table, rows in ROWS.items():
        columns = COLUMNS[table]
        op.execute(f"GRANT SELECT {'' if columns == '*' else f'({columns})'} ON {table} TO {ROLE}")
        op.execute(f"CREATE POLICY tenant ON {table} FOR SELECT TO {ROLE} USING ({rows})")
        op.execute(
            f"CREATE POLICY operator ON {table} USING (NOT pg_has_role(current_user, '{ROLE}', 'USAGE')) "
            f"WITH CHECK (NOT pg_has_role(current_user, '{ROLE}', 'USAGE'))"
        )
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")


def _tables() -> None:
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("events", ARRAY(sa.Text()), nullable=False),
        sa.Column("balance_threshold", sa.BigInteger()),
        sa.Column("limit_threshold_percent", sa.Integer(), server_default="80", nullable=False),
        sa.Column("secret_encrypted", sa.Text(), nullable=False),
        sa.Column("former_secret_encrypted", sa.Text()),
        sa.Column("former_until", INSTANT),
        sa.Column("disabled_reason", sa.Text()),
        sa.Column("created_at", INSTANT, server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_endpoints")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_webhook_endpoints_account_id")),
        sa.CheckConstraint(f"cardinality(events) > 0 AND events <@ {NAMED}", name=op.f("ck_webhook_endpoints_events")),
        sa.CheckConstraint("balance_threshold >= 0", name=op.f("ck_webhook_endpoints_balance_threshold")),
        sa.CheckConstraint(
            "limit_threshold_percent BETWEEN 1 AND 100", name=op.f("ck_webhook_endpoints_limit_threshold_percent")
        ),
    )
    op.create_index("ix_webhook_endpoints_account_id", "webhook_endpoints", ["account_id"])
    op.create_table(
        "webhook_messages",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("endpoint_id", sa.UUID(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("data", JSON, nullable=False),
        sa.Column("created_at", INSTANT, server_default=sa.func.clock_timestamp(), nullable=False),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_at", INSTANT, server_default=sa.func.clock_timestamp(), nullable=False),
        sa.Column("last_status", sa.Integer()),
        sa.Column("last_error", sa.Text()),
        sa.Column("delivered_at", INSTANT),
        sa.Column("replayed_at", INSTANT),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_messages")),
        sa.ForeignKeyConstraint(
            ["endpoint_id"],
            ["webhook_endpoints.id"],
            name=op.f("fk_webhook_messages_endpoint_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_webhook_messages_account_id")),
        sa.CheckConstraint("state IN ('pending', 'delivered', 'dead')", name=op.f("ck_webhook_messages_state")),
        sa.CheckConstraint(
            "(state = 'delivered') = (delivered_at IS NOT NULL)", name=op.f("ck_webhook_messages_delivered_has_time")
        ),
    )
    pending = sa.text("state = 'pending'")
    op.create_index("ix_webhook_messages_due", "webhook_messages", ["next_at", "id"], postgresql_where=pending)
    op.create_index(
        "ix_webhook_messages_of_subject",
        "webhook_messages",
        ["endpoint_id", "subject", "id"],
        postgresql_where=pending,
    )
    op.create_index("ix_webhook_messages_account_id_id", "webhook_messages", ["account_id", "id"])


def downgrade() -> None:
    for table, trigger in (
        ("subscription_periods", "tell_of_period"),
        ("plan_limit_usage", "tell_of_limit"),
        ("accounts", "tell_of_balance"),
        ("generation_jobs", "tell_of_job"),
    ):
        op.execute(f"DROP TRIGGER {trigger} ON {table}")
        op.execute(f"DROP FUNCTION {trigger}()")
    for table in ("webhook_messages", "webhook_endpoints"):
        op.drop_table(table)


def _function(name: str, body: str) -> None:
    schema = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
    op.execute(
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $${body.replace('SCHEMA.', f'{schema}.')}$$"
    )
