"""The periodic audit computes again the charges that changed since it ran last: triggers queue their jobs."""

import sqlalchemy as sa
from alembic import op

revision = "0015_audit_changes"
down_revision = "0014_ledger_reasons"
branch_labels = None
depends_on = None

# A row that is committed late is there when the audit looks next: nothing is remembered but the queue itself.
QUEUE_JOB = """
BEGIN
    INSERT INTO SCHEMA.audit_changes (job_id) VALUES (NEW.id);
    RETURN NULL;
END
"""
QUEUE_CALL = """
BEGIN
    INSERT INTO SCHEMA.audit_changes (job_id) SELECT DISTINCT id FROM unnest(ARRAY[OLD.job_id, NEW.job_id]) id
    WHERE id IS NOT NULL;
    RETURN NULL;
END
"""
CHARGED = "state, price, credits_charged, credits_reserved, credits_overrun"


def upgrade() -> None:
    op.create_table(
        "audit_changes",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("job_id", sa.UUID(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_changes")),
    )
    _function("queue_audited_job", QUEUE_JOB)
    _function("queue_audited_call", QUEUE_CALL)
    op.execute(
        "CREATE TRIGGER audit_new AFTER INSERT ON generation_jobs FOR EACH ROW WHEN (NEW.state = 'settled') "
        "EXECUTE FUNCTION queue_audited_job()"
    )
    old, new = (", ".join(f"{row}.{name}" for name in CHARGED.split(", ")) for row in ("OLD", "NEW"))
    op.execute(
        "CREATE TRIGGER audit_changed AFTER UPDATE ON generation_jobs FOR EACH ROW "
        f"WHEN (NEW.state = 'settled' AND ({old}) IS DISTINCT FROM ({new})) EXECUTE FUNCTION queue_audited_job()"
    )
    # What a call brings at first is charged after it; only a later change is one of a charge.
    op.execute(
        "CREATE TRIGGER audit_changed AFTER UPDATE ON provider_calls FOR EACH ROW WHEN (OLD.outcome IS NOT NULL AND "
        "(OLD.job_id, OLD.outcome, OLD.exposure, OLD.usage) IS DISTINCT FROM "
        "(NEW.job_id, NEW.outcome, NEW.exposure, NEW.usage)) EXECUTE FUNCTION queue_audited_call()"
    )
    op.execute(
        "CREATE TRIGGER audit_removed AFTER DELETE ON provider_calls FOR EACH ROW WHEN (OLD.outcome = 'succeeded') "
        "EXECUTE FUNCTION queue_audited_call()"
    )


def downgrade() -> None:
    for table, trigger in [("provider_calls", "audit_removed"), ("provider_calls", "audit_changed"),
                           ("generation_jobs", "audit_changed"), ("generation_jobs", "audit_new")]:  # fmt: skip
        op.execute(f"DROP TRIGGER {trigger} ON {table}")
    for name in ("queue_audited_job", "queue_audited_call"):
        op.execute(f"DROP FUNCTION {name}()")
    op.drop_table("audit_changes")


def _function(name: str, body: str) -> None:
    schema = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
    op.execute(
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $${body.replace('SCHEMA.', f'{schema}.')}$$"
    )
