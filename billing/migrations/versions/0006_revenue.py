"""For revenue: each change of a job, its usage or its exposed calls is queued as a delta, which a tick adds up."""

import sqlalchemy as sa
from alembic import op

revision = "0006_revenue"
down_revision = "0005_recovery"
branch_labels = None
depends_on = None

KEY = "day, account_id, operation_type, model_name"
USED = ("tokens_input", "tokens_input_cached", "tokens_output", "tokens_reasoning", "images")
COUNTS = ("jobs", "jobs_settled", "credits", *USED)
AMOUNTS = ("revenue_usd", "cost_usd", "exposure_usd")
FIGURES = ", ".join((*COUNTS, *AMOUNTS))

DAY = "({0}.{1} AT TIME ZONE 'UTC')::date"
JOB_KEY = f"{DAY}, {{0}}.account_id, {{0}}.operation_type, {{0}}.model_name"
OLD_JOB = JOB_KEY.format("OLD", "finished_at")
NEW_JOB = JOB_KEY.format("NEW", "finished_at")
A_JOB = JOB_KEY.format("j", "finished_at")
# A usage log stands for itself: settling writes one instant into the log and the job.
LOG_KEY = f"{DAY}, {{0}}.account_id, {{0}}.operation_type, {{0}}.model_used"
LOG_COLUMNS = ("credits_used", "revenue_usd", *USED)
LOG_CHANGE = f"{KEY}, jobs_settled, credits, revenue_usd, {', '.join(USED)}"

# What counts of a row: an update that leaves it as it is costs nothing.
JOB = "({0}.id, {0}.finished_at, {0}.account_id, {0}.operation_type, {0}.model_name, {0}.cost_usd)"
LOG = f"({{0}}.created_at, {{0}}.account_id, {{0}}.operation_type, {{0}}.model_used, {', '.join('{0}.' + c for c in LOG_COLUMNS)})"
CALL = "({0}.job_id, {0}.exposure, {0}.cost_usd)"


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    # The roll-ups are computed anew from all of the history, which may be long.
    op.execute("SET LOCAL statement_timeout = 0")
    op.create_table(
        "revenue_changes",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("operation_type", sa.Text(), nullable=False),
        sa.Column("model_name", sa.Text(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), server_default="0", nullable=False) for name in COUNTS),
        *(sa.Column(name, sa.Numeric(precision=20, scale=10), server_default="0", nullable=False) for name in AMOUNTS),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_revenue_changes")),
    )
    # What is added to a roll-up may be negative, and an insert is checked before it turns out to be an update; the audit
    # compares every figure with its source. A tick must not stand still because an account was deleted by hand.
    op.drop_constraint(op.f("ck_revenue_rollups_not_negative"), "revenue_rollups")
    op.drop_constraint(op.f("fk_revenue_rollups_account_id"), "revenue_rollups")
    op.drop_column("revenue_rollups", "margin_usd")
    margin = sa.Computed("revenue_usd - cost_usd", persisted=True)
    op.add_column("revenue_rollups", sa.Column("margin_usd", sa.Numeric(20, 10), margin, nullable=False))
    # From here to the commit nobody else writes these tables: what is there is counted below, what comes by triggers.
    op.execute(
        "LOCK TABLE generation_jobs, provider_calls, credit_usage_logs, revenue_rollups IN SHARE ROW EXCLUSIVE MODE"
    )
    _count_jobs()
    _count_usage()
    _count_exposure()
    _compute_anew()


def downgrade() -> None:
    for table in ("generation_jobs", "credit_usage_logs", "provider_calls"):
        for trigger in ("count_new", "count_changed", "count_removed"):
            op.execute(f"DROP TRIGGER {trigger} ON {table}")
    for function in ("count_job", "count_usage", "count_exposure"):
        op.execute(f"DROP FUNCTION {function}")
    # What was queued is in the sources.
    op.drop_table("revenue_changes")
    _compute_anew()
    op.execute("ALTER TABLE revenue_rollups ALTER COLUMN margin_usd DROP EXPRESSION")
    op.create_foreign_key(op.f("fk_revenue_rollups_account_id"), "revenue_rollups", "accounts", ["account_id"], ["id"])
    op.create_check_constraint(op.f("ck_revenue_rollups_not_negative"), "revenue_rollups", "jobs >= 0 AND credits >= 0")


def _function(name: str, body: str) -> None:
    # Tables are named with their schema: a temporary table called revenue_changes must not catch the rows.
    schema = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
    named = body.replace("SCHEMA.", f"{schema}.")
    op.execute(f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ {named} $$")


def _count_jobs() -> None:
    # Exposure follows its job. The call's own trigger counts a call that is there only after its job: so a new job
    # brings none. Before the row is changed, not after it: the rows of one statement are then counted one after the
    # other, each seeing what was counted before it, even where one statement changes a job and its calls.
    _function(
        "count_job",
        f"""
        BEGIN
            IF TG_OP <> 'INSERT' AND OLD.finished_at IS NOT NULL THEN
                INSERT INTO SCHEMA.revenue_changes ({KEY}, jobs, cost_usd, exposure_usd)
                SELECT {OLD_JOB}, -1, -OLD.cost_usd, -coalesce(sum(c.cost_usd), 0)
                FROM SCHEMA.provider_calls c WHERE c.job_id = OLD.id AND c.exposure;
            END IF;
            IF TG_OP = 'INSERT' THEN
                INSERT INTO SCHEMA.revenue_changes ({KEY}, jobs, cost_usd) VALUES ({NEW_JOB}, 1, NEW.cost_usd);
            ELSIF TG_OP = 'UPDATE' AND NEW.finished_at IS NOT NULL THEN
                INSERT INTO SCHEMA.revenue_changes ({KEY}, jobs, cost_usd, exposure_usd)
                SELECT {NEW_JOB}, 1, NEW.cost_usd, coalesce(sum(c.cost_usd), 0)
                FROM SCHEMA.provider_calls c WHERE c.job_id = NEW.id AND c.exposure;
            END IF;
            IF TG_OP = 'DELETE' THEN
                RETURN OLD;
            END IF;
            RETURN NEW;
        END
        """,
    )
    op.execute(
        "CREATE TRIGGER count_new AFTER INSERT ON generation_jobs FOR EACH ROW "
        "WHEN (NEW.finished_at IS NOT NULL) EXECUTE FUNCTION count_job()"
    )
    op.execute(
        "CREATE TRIGGER count_changed BEFORE UPDATE ON generation_jobs FOR EACH ROW "
        "WHEN ((OLD.finished_at IS NOT NULL OR NEW.finished_at IS NOT NULL) "
        f"AND {JOB.format('OLD')} IS DISTINCT FROM {JOB.format('NEW')}) EXECUTE FUNCTION count_job()"
    )
    op.execute(
        "CREATE TRIGGER count_removed BEFORE DELETE ON generation_jobs FOR EACH ROW "
        "WHEN (OLD.finished_at IS NOT NULL) EXECUTE FUNCTION count_job()"
    )


def _count_usage() -> None:
    plus, minus = (
        ", ".join(f"{sign}{row}.{name}" for name in LOG_COLUMNS) for sign, row in (("", "NEW"), ("-", "OLD"))
    )
    _function(
        "count_usage",
        f"""
        BEGIN
            IF TG_OP <> 'INSERT' THEN
                INSERT INTO SCHEMA.revenue_changes ({LOG_CHANGE}) VALUES ({LOG_KEY.format("OLD", "created_at")}, -1, {minus});
            END IF;
            IF TG_OP <> 'DELETE' THEN
                INSERT INTO SCHEMA.revenue_changes ({LOG_CHANGE}) VALUES ({LOG_KEY.format("NEW", "created_at")}, 1, {plus});
            END IF;
            RETURN NULL;
        END
        """,
    )
    op.execute("CREATE TRIGGER count_new AFTER INSERT ON credit_usage_logs FOR EACH ROW EXECUTE FUNCTION count_usage()")
    op.execute(
        "CREATE TRIGGER count_changed AFTER UPDATE ON credit_usage_logs FOR EACH ROW "
        f"WHEN ({LOG.format('OLD')} IS DISTINCT FROM {LOG.format('NEW')}) EXECUTE FUNCTION count_usage()"
    )
    op.execute(
        "CREATE TRIGGER count_removed AFTER DELETE ON credit_usage_logs FOR EACH ROW EXECUTE FUNCTION count_usage()"
    )


def _count_exposure() -> None:
    # Whoever finishes the job at the same time holds its row: this waits for them and then finds it finished, or they
    # wait for us and find the new exposure. Without the lock both could find the other's change not made yet. Whether
    # the job is finished is asked only when its row is locked: asked together, an unfinished one would not be locked.
    _function(
        "count_exposure",
        f"""
        BEGIN
            PERFORM FROM SCHEMA.generation_jobs WHERE id IN (OLD.job_id, NEW.job_id) ORDER BY id FOR NO KEY UPDATE;
            IF TG_OP <> 'INSERT' AND OLD.exposure THEN
                INSERT INTO SCHEMA.revenue_changes ({KEY}, exposure_usd)
                SELECT {A_JOB}, -OLD.cost_usd FROM SCHEMA.generation_jobs j
                WHERE j.id = OLD.job_id AND j.finished_at IS NOT NULL;
            END IF;
            IF TG_OP <> 'DELETE' AND NEW.exposure THEN
                INSERT INTO SCHEMA.revenue_changes ({KEY}, exposure_usd)
                SELECT {A_JOB}, NEW.cost_usd FROM SCHEMA.generation_jobs j
                WHERE j.id = NEW.job_id AND j.finished_at IS NOT NULL;
            END IF;
            IF TG_OP = 'DELETE' THEN
                RETURN OLD;
            END IF;
            RETURN NEW;
        END
        """,
    )
    op.execute(
        "CREATE TRIGGER count_new AFTER INSERT ON provider_calls FOR EACH ROW "
        "WHEN (NEW.exposure) EXECUTE FUNCTION count_exposure()"
    )
    op.execute(
        "CREATE TRIGGER count_changed BEFORE UPDATE ON provider_calls FOR EACH ROW WHEN ((OLD.exposure OR NEW.exposure) "
        f"AND {CALL.format('OLD')} IS DISTINCT FROM {CALL.format('NEW')}) EXECUTE FUNCTION count_exposure()"
    )
    op.execute(
        "CREATE TRIGGER count_removed BEFORE DELETE ON provider_calls FOR EACH ROW "
        "WHEN (OLD.exposure) EXECUTE FUNCTION count_exposure()"
    )


def _compute_anew() -> None:
    used = ", ".join(USED)
    summed = ", ".join(f"sum({name})" for name in (*COUNTS, *AMOUNTS))
    op.execute("DELETE FROM revenue_rollups")
    op.execute(
        f"""
        INSERT INTO revenue_rollups ({KEY}, {FIGURES}, computed_at)
        SELECT {KEY}, {summed}, now() FROM (
            SELECT {A_JOB}, 1, 0, 0, 0, 0, 0, 0, 0, 0, j.cost_usd, 0
            FROM generation_jobs j WHERE j.finished_at IS NOT NULL
            UNION ALL
            SELECT {LOG_KEY.format("l", "created_at")}, 0, 1, credits_used, {used}, revenue_usd, 0, 0
            FROM credit_usage_logs l
            UNION ALL
            SELECT {A_JOB}, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, c.cost_usd
            FROM provider_calls c JOIN generation_jobs j ON j.id = c.job_id
            WHERE c.exposure AND j.finished_at IS NOT NULL
        ) source ({KEY}, {FIGURES})
        GROUP BY {KEY}
        """
    )
