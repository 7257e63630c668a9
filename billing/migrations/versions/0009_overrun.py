"""The roll-ups of revenue count overrun too: credits that jobs used beyond what was held for them."""

import sqlalchemy as sa
from alembic import op

from billing.migrations.first.triggers import COUNT_JOB

revision = "0009_overrun"
down_revision = "0008_parts"
branch_labels = None
depends_on = None

COUNTED = ("id", "finished_at", "account_id", "operation_type", "model_name", "cost_usd")
KEY = "day, account_id, operation_type, model_name"

COUNT_OVERRUN = """
BEGIN
    IF TG_OP <> 'INSERT' AND OLD.finished_at IS NOT NULL THEN
        INSERT INTO SCHEMA.revenue_changes
            (day, account_id, operation_type, model_name, jobs, credits_overrun, cost_usd, exposure_usd)
        SELECT (OLD.finished_at AT TIME ZONE 'UTC')::date, OLD.account_id, OLD.operation_type, OLD.model_name,
            -1, -OLD.credits_overrun, -OLD.cost_usd, -coalesce(sum(c.cost_usd), 0)
        FROM SCHEMA.provider_calls c WHERE c.job_id = OLD.id AND c.exposure;
    END IF;
    IF TG_OP = 'INSERT' THEN
        INSERT INTO SCHEMA.revenue_changes
            (day, account_id, operation_type, model_name, jobs, credits_overrun, cost_usd)
        VALUES ((NEW.finished_at AT TIME ZONE 'UTC')::date, NEW.account_id, NEW.operation_type, NEW.model_name,
            1, NEW.credits_overrun, NEW.cost_usd);
    ELSIF TG_OP = 'UPDATE' AND NEW.finished_at IS NOT NULL THEN
        INSERT INTO SCHEMA.revenue_changes
            (day, account_id, operation_type, model_name, jobs, credits_overrun, cost_usd, exposure_usd)
        SELECT (NEW.finished_at AT TIME ZONE 'UTC')::date, NEW.account_id, NEW.operation_type, NEW.model_name,
            1, NEW.credits_overrun, NEW.cost_usd, coalesce(sum(c.cost_usd), 0)
        FROM SCHEMA.provider_calls c WHERE c.job_id = NEW.id AND c.exposure;
    END IF;
    IF TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    RETURN NEW;
END
"""


def upgrade() -> None:
    for table in ("revenue_rollups", "revenue_changes"):
        op.add_column(table, sa.Column("credits_overrun", sa.BigInteger(), server_default="0", nullable=False))
    op.alter_column("revenue_rollups", "credits_overrun", server_default=None)
    # The trigger locks the jobs against writers: none is finished between its counting and that of the others.
    _count_jobs(COUNT_OVERRUN, (*COUNTED, "credits_overrun"))
    # What was finished before is one more change, which the next ticks add to the roll-ups.
    op.execute(
        f"INSERT INTO revenue_changes ({KEY}, credits_overrun) "
        "SELECT (finished_at AT TIME ZONE 'UTC')::date, account_id, operation_type, model_name, sum(credits_overrun) "
        "FROM generation_jobs WHERE finished_at IS NOT NULL AND credits_overrun > 0 GROUP BY 1, 2, 3, 4"
    )


def downgrade() -> None:
    _count_jobs(COUNT_JOB, COUNTED)
    for table in ("revenue_rollups", "revenue_changes"):
        op.drop_column(table, "credits_overrun")


def _count_jobs(body: str, counted: tuple[str, ...]) -> None:
    schema = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
    was, becomes = (", ".join(f"{row}.{name}" for name in counted) for row in ("OLD", "NEW"))
    op.execute("DROP TRIGGER count_changed ON generation_jobs")
    op.execute(
        "CREATE OR REPLACE FUNCTION count_job() RETURNS trigger LANGUAGE plpgsql AS "
        f"$${body.replace('SCHEMA.', f'{schema}.')}$$"
    )
    op.execute(
        "CREATE TRIGGER count_changed BEFORE UPDATE ON generation_jobs FOR EACH ROW "
        "WHEN ((OLD.finished_at IS NOT NULL OR NEW.finished_at IS NOT NULL) AND "
        f"({was}) IS DISTINCT FROM ({becomes})) EXECUTE FUNCTION count_job()"
    )
