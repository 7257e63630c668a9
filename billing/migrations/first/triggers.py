"""The triggers, with their functions: what is only added to, what keeps its history, and what counts revenue."""

import sqlalchemy as sa
from alembic import op

# Tables that rows are only ever added to, and what each says to whoever tries anything else.
APPEND_ONLY = {
    "credit_transactions": "credit_transactions is append-only: correct a mistake with an adjustment",
    "change_history": "change_history is append-only",
    "resolutions": "resolutions is append-only",
}
# table, the column that names a row in its history
KEPT = {
    "ai_model_config": "model_name",
    "image_prices": "model_name",
    "credit_cost_config": "operation_type",
    "billing_configuration": "id",
    "plans": "slug",
    "subscriptions": "account_id",
}

# A trigger sees every change, also one made by hand in psql. Who makes one says so in `creditmill.actor`.
# The history's table is named with its schema: a temporary table of the same name must not catch the rows.
KEEP_HISTORY = """
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
END
"""

KEPT_ROWS_ARE_NOT_TRUNCATED = """
BEGIN
    RAISE EXCEPTION '% keeps the history of its rows: delete them instead', TG_TABLE_NAME;
END
"""

KEEP_PREVIOUS_RATIO = """
BEGIN
    IF NEW.tokens_per_credit IS DISTINCT FROM OLD.tokens_per_credit THEN
        NEW.previous_tokens_per_credit := OLD.tokens_per_credit;
    END IF;
    RETURN NEW;
END
"""

# Exposure follows its job. The call's own trigger counts a call that is there only after its job: so a new job brings
# none. Before the row is changed, not after it: the rows of one statement are then counted one after the other, each
# seeing what was counted before it, even where one statement changes a job and its calls.
COUNT_JOB = """
BEGIN
    IF TG_OP <> 'INSERT' AND OLD.finished_at IS NOT NULL THEN
        INSERT INTO SCHEMA.revenue_changes
            (day, account_id, operation_type, model_name, jobs, cost_usd, exposure_usd)
        SELECT (OLD.finished_at AT TIME ZONE 'UTC')::date, OLD.account_id, OLD.operation_type, OLD.model_name,
            -1, -OLD.cost_usd, -coalesce(sum(c.cost_usd), 0)
        FROM SCHEMA.provider_calls c WHERE c.job_id = OLD.id AND c.exposure;
    END IF;
    IF TG_OP = 'INSERT' THEN
        INSERT INTO SCHEMA.revenue_changes (day, account_id, operation_type, model_name, jobs, cost_usd)
        VALUES ((NEW.finished_at AT TIME ZONE 'UTC')::date, NEW.account_id, NEW.operation_type, NEW.model_name,
            1, NEW.cost_usd);
    ELSIF TG_OP = 'UPDATE' AND NEW.finished_at IS NOT NULL THEN
        INSERT INTO SCHEMA.revenue_changes
            (day, account_id, operation_type, model_name, jobs, cost_usd, exposure_usd)
        SELECT (NEW.finished_at AT TIME ZONE 'UTC')::date, NEW.account_id, NEW.operation_type, NEW.model_name,
            1, NEW.cost_usd, coalesce(sum(c.cost_usd), 0)
        FROM SCHEMA.provider_calls c WHERE c.job_id = NEW.id AND c.exposure;
    END IF;
    IF TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    RETURN NEW;
END
"""

# A usage log stands for itself: settling writes one instant into the log and the job.
COUNT_USAGE = """
BEGIN
    IF TG_OP <> 'INSERT' THEN
        INSERT INTO SCHEMA.revenue_changes
            (day, account_id, operation_type, model_name, jobs_settled, credits, revenue_usd,
            tokens_input, tokens_input_cached, tokens_output, tokens_reasoning, images)
        VALUES ((OLD.created_at AT TIME ZONE 'UTC')::date, OLD.account_id, OLD.operation_type, OLD.model_used,
            -1, -OLD.credits_used, -OLD.revenue_usd,
            -OLD.tokens_input, -OLD.tokens_input_cached, -OLD.tokens_output, -OLD.tokens_reasoning, -OLD.images);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO SCHEMA.revenue_changes
            (day, account_id, operation_type, model_name, jobs_settled, credits, revenue_usd,
            tokens_input, tokens_input_cached, tokens_output, tokens_reasoning, images)
        VALUES ((NEW.created_at AT TIME ZONE 'UTC')::date, NEW.account_id, NEW.operation_type, NEW.model_used,
            1, NEW.credits_used, NEW.revenue_usd,
            NEW.tokens_input, NEW.tokens_input_cached, NEW.tokens_output, NEW.tokens_reasoning, NEW.images);
    END IF;
    RETURN NULL;
END
"""

# Whoever finishes the job at the same time holds its row: this waits for them and then finds it finished, or they wait
# for us and find the new exposure. Without the lock both could find the other's change not made yet. Whether the job is
# finished is asked only when its row is locked: asked together, an unfinished one would not be locked.
COUNT_EXPOSURE = """
BEGIN
    PERFORM FROM SCHEMA.generation_jobs WHERE id IN (OLD.job_id, NEW.job_id) ORDER BY id FOR NO KEY UPDATE;
    IF TG_OP <> 'INSERT' AND OLD.exposure THEN
        INSERT INTO SCHEMA.revenue_changes (day, account_id, operation_type, model_name, exposure_usd)
        SELECT (j.finished_at AT TIME ZONE 'UTC')::date, j.account_id, j.operation_type, j.model_name, -OLD.cost_usd
        FROM SCHEMA.generation_jobs j WHERE j.id = OLD.job_id AND j.finished_at IS NOT NULL;
    END IF;
    IF TG_OP <> 'DELETE' AND NEW.exposure THEN
        INSERT INTO SCHEMA.revenue_changes (day, account_id, operation_type, model_name, exposure_usd)
        SELECT (j.finished_at AT TIME ZONE 'UTC')::date, j.account_id, j.operation_type, j.model_name, NEW.cost_usd
        FROM SCHEMA.generation_jobs j WHERE j.id = NEW.job_id AND j.finished_at IS NOT NULL;
    END IF;
    IF TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    RETURN NEW;
END
"""


def create() -> None:
    _refuse_changes()
    _keep_history()
    _count_revenue()


def _refuse_changes() -> None:
    for table, sentence in APPEND_ONLY.items():
        _function(f"{table}_append_only", f"\nBEGIN\n    RAISE EXCEPTION '{sentence}';\nEND\n")
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_append_only()"
        )


def _keep_history() -> None:
    _function("keep_history", KEEP_HISTORY)
    _function("kept_rows_are_not_truncated", KEPT_ROWS_ARE_NOT_TRUNCATED)
    for table, column in KEPT.items():
        op.execute(
            f"CREATE TRIGGER keep_history AFTER INSERT OR UPDATE OR DELETE ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION keep_history('{column}')"
        )
        # No row's trigger sees a TRUNCATE.
        op.execute(
            f"CREATE TRIGGER no_truncate BEFORE TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION kept_rows_are_not_truncated()"
        )
    _function("keep_previous_ratio", KEEP_PREVIOUS_RATIO)
    op.execute(
        "CREATE TRIGGER keep_previous_ratio BEFORE UPDATE ON credit_cost_config "
        "FOR EACH ROW EXECUTE FUNCTION keep_previous_ratio()"
    )


def _count_revenue() -> None:
    # What counts of a row stands in the trigger's WHEN: an update that leaves it as it is costs nothing.
    _function("count_job", COUNT_JOB)
    op.execute(
        "CREATE TRIGGER count_new AFTER INSERT ON generation_jobs FOR EACH ROW "
        "WHEN (NEW.finished_at IS NOT NULL) EXECUTE FUNCTION count_job()"
    )
    op.execute(
        "CREATE TRIGGER count_changed BEFORE UPDATE ON generation_jobs FOR EACH ROW "
        "WHEN ((OLD.finished_at IS NOT NULL OR NEW.finished_at IS NOT NULL) AND "
        "(OLD.id, OLD.finished_at, OLD.account_id, OLD.operation_type, OLD.model_name, OLD.cost_usd) IS DISTINCT FROM "
        "(NEW.id, NEW.finished_at, NEW.account_id, NEW.operation_type, NEW.model_name, NEW.cost_usd)) "
        "EXECUTE FUNCTION count_job()"
    )
    op.execute(
        "CREATE TRIGGER count_removed BEFORE DELETE ON generation_jobs FOR EACH ROW "
        "WHEN (OLD.finished_at IS NOT NULL) EXECUTE FUNCTION count_job()"
    )
    _function("count_usage", COUNT_USAGE)
    op.execute("CREATE TRIGGER count_new AFTER INSERT ON credit_usage_logs FOR EACH ROW EXECUTE FUNCTION count_usage()")
    op.execute(
        "CREATE TRIGGER count_changed AFTER UPDATE ON credit_usage_logs FOR EACH ROW WHEN ("
        "(OLD.created_at, OLD.account_id, OLD.operation_type, OLD.model_used, OLD.credits_used, OLD.revenue_usd, "
        "OLD.tokens_input, OLD.tokens_input_cached, OLD.tokens_output, OLD.tokens_reasoning, OLD.images) "
        "IS DISTINCT FROM "
        "(NEW.created_at, NEW.account_id, NEW.operation_type, NEW.model_used, NEW.credits_used, NEW.revenue_usd, "
        "NEW.tokens_input, NEW.tokens_input_cached, NEW.tokens_output, NEW.tokens_reasoning, NEW.images)) "
        "EXECUTE FUNCTION count_usage()"
    )
    op.execute(
        "CREATE TRIGGER count_removed AFTER DELETE ON credit_usage_logs FOR EACH ROW EXECUTE FUNCTION count_usage()"
    )
    _function("count_exposure", COUNT_EXPOSURE)
    op.execute(
        "CREATE TRIGGER count_new AFTER INSERT ON provider_calls FOR EACH ROW "
        "WHEN (NEW.exposure) EXECUTE FUNCTION count_exposure()"
    )
    op.execute(
        "CREATE TRIGGER count_changed BEFORE UPDATE ON provider_calls FOR EACH ROW "
        "WHEN ((OLD.exposure OR NEW.exposure) AND "
        "(OLD.job_id, OLD.exposure, OLD.cost_usd) IS DISTINCT FROM (NEW.job_id, NEW.exposure, NEW.cost_usd)) "
        "EXECUTE FUNCTION count_exposure()"
    )
    op.execute(
        "CREATE TRIGGER count_removed BEFORE DELETE ON provider_calls FOR EACH ROW "
        "WHEN (OLD.exposure) EXECUTE FUNCTION count_exposure()"
    )


def _function(name: str, body: str) -> None:
    # Tables are named with their schema: a temporary table called revenue_changes must not catch the rows.
    schema = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
    op.execute(
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $${body.replace('SCHEMA.', f'{schema}.')}$$"
    )
