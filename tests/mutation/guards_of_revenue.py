"""The guards of revenue: its triggers, its queue, its roll-ups and its reports."""

from __future__ import annotations

from tests.mutation.guard import code, rule, trigger

REVENUE_STORE = "billing/store/revenue.py"
COUNTING = "billing/store/migrations/versions/0006_revenue.py"
CORRECTION = "revenue::test_a_correction_by_hand_is_counted"
RACE = "revenue::test_exposure_that_is_written_while_its_job_is_finished_is_counted_once"

OF_REVENUE = [
    *(
        trigger(table, name, f"{what} counted", test)
        for table, name, what, test in [
            ("generation_jobs", "count_new", "a finished job that is inserted is", f"{CORRECTION}[27]"),
            ("generation_jobs", "count_changed", "a job that finishes is", "revenue::test_a_day_adds_up_to_its_jobs"),
            ("generation_jobs", "count_removed", "a finished job that is deleted is no longer", f"{CORRECTION}[23]"),
            ("credit_usage_logs", "count_new", "new usage is", "revenue::test_a_day_adds_up_to_its_jobs"),
            ("credit_usage_logs", "count_changed", "usage that is corrected is", f"{CORRECTION}[10]"),
            ("credit_usage_logs", "count_removed", "usage that is deleted is no longer", f"{CORRECTION}[17]"),
            ("provider_calls", "count_new", "the exposure of a late call is", f"{CORRECTION}[22]"),
            ("provider_calls", "count_changed", "exposure that is corrected is", f"{CORRECTION}[18]"),
            ("provider_calls", "count_removed", "the exposure of a deleted call is no longer", f"{CORRECTION}[21]"),
        ]
    ),
    rule("revenue_rollups", "pk_revenue_rollups", "a day's revenue is rolled up in one row"),
    code(
        "billing/revenue.py",
        "ticks wait for each other and for rebuilds",
        "    store.lock_rollups(session)\n    return store.take_changes",
        "    return store.take_changes",
        "revenue::test_ticks_at_once_take_each_change_once",
    ),
    code(
        "billing/revenue.py",
        "a rebuild waits for the tick",
        "    store.lock_rollups(session)\n    return store.replace",
        "    return store.replace",
        "revenue::test_a_rebuild_waits_for_the_tick_and_counts_nothing_twice",
    ),
    code(
        "billing/revenue.py",
        "a rebuild sees sources and queue at one moment",
        "    assert session.scalar",
        "    session.scalar",
        "revenue::test_a_rebuild_without_one_snapshot_is_refused",
    ),
    code(
        REVENUE_STORE,
        "a rebuild takes what is queued for its days",
        'session.execute(text("DELETE FROM revenue_changes WHERE day BETWEEN :first AND :last"), days)',
        "pass",
        "revenue::test_a_rebuild_takes_the_place_of_whatever_is_there",
    ),
    code(
        REVENUE_STORE,
        "a rebuild leaves what is queued for other days",
        "DELETE FROM revenue_changes WHERE day BETWEEN :first AND :last",
        "DELETE FROM revenue_changes",
        "revenue::test_a_rebuild_takes_the_place_of_whatever_is_there",
    ),
    code(
        REVENUE_STORE,
        "a rebuild takes the place of the rows of its days",
        "DELETE FROM revenue_rollups WHERE day BETWEEN :first AND :last",
        "DELETE FROM revenue_rollups WHERE false AND day BETWEEN :first AND :last",
        "revenue::test_a_rebuild_takes_the_place_of_whatever_is_there",
    ),
    code(
        REVENUE_STORE,
        "a change is taken once",
        "DELETE FROM revenue_changes WHERE id = ANY (ARRAY(SELECT id FROM revenue_changes ORDER BY id LIMIT :limit))\n"
        "        RETURNING {_KEY}, {_FIGURES}",
        "SELECT {_KEY}, {_FIGURES} FROM revenue_changes ORDER BY id LIMIT :limit",
        "revenue::test_rolling_up_twice_changes_nothing",
    ),
    code(
        REVENUE_STORE,
        "what is new is added to what was rolled up",
        "{name} = r.{name} + EXCLUDED.{name}",
        "{name} = EXCLUDED.{name}",
        "revenue::test_a_tick_takes_the_oldest_changes_first_and_the_task_all_of_them",
        "revenue::test_ticks_at_once_take_each_change_once",
    ),
    code(
        COUNTING,
        "a change of usage counts as new minus old",
        'VALUES ({LOG_KEY.format("OLD", "created_at")}, -1, {minus});',
        'SELECT {LOG_KEY.format("OLD", "created_at")}, -1, {minus} WHERE false;',
        f"{CORRECTION}[10]",
    ),
    code(
        COUNTING,
        "a change of a job counts as new minus old",
        "-1, -OLD.cost_usd, -coalesce(sum(c.cost_usd), 0)",
        "0, 0, 0",
        f"{CORRECTION}[0]",
    ),
    code(
        COUNTING,
        "a change of exposure counts as new minus old",
        "SELECT {A_JOB}, -OLD.cost_usd FROM",
        "SELECT {A_JOB}, 0 FROM",
        f"{CORRECTION}[18]",
    ),
    code(
        COUNTING,
        "exposure moves with its job",
        "SELECT {NEW_JOB}, 1, NEW.cost_usd, coalesce(sum(c.cost_usd), 0)",
        "SELECT {NEW_JOB}, 1, NEW.cost_usd, 0 * coalesce(sum(c.cost_usd), 0)",
        f"{CORRECTION}[0]",
    ),
    code(
        COUNTING,
        "exposure of a job that is not finished waits for it",
        "                WHERE j.id = NEW.job_id AND j.finished_at IS NOT NULL;",
        "                WHERE j.id = NEW.job_id;",
        f"{CORRECTION}[22]",
    ),
    code(
        COUNTING,
        "a job that is not finished costs the queue nothing",
        '"WHEN ((OLD.finished_at IS NOT NULL OR NEW.finished_at IS NOT NULL) "\n        f"AND',
        '"WHEN (("\n        f"',
        "revenue::test_an_unfinished_job_queues_nothing",
    ),
    code(
        COUNTING,
        "a change without a figure costs the queue nothing (usage)",
        """f"WHEN ({LOG.format('OLD')} IS DISTINCT FROM {LOG.format('NEW')}) EXECUTE""",
        '"EXECUTE',
        "revenue::test_a_change_without_a_figure_queues_nothing",
    ),
    code(
        COUNTING,
        "whoever changes exposure waits for whoever finishes the job",
        "PERFORM FROM SCHEMA.generation_jobs WHERE id IN (OLD.job_id, NEW.job_id) ORDER BY id FOR NO KEY UPDATE;",
        "",
        RACE,
    ),
    code(
        COUNTING,
        "a job and its call that one statement changes are counted one after the other (call)",
        "CREATE TRIGGER count_changed BEFORE UPDATE ON provider_calls",
        "CREATE TRIGGER count_changed AFTER UPDATE ON provider_calls",
        f"{CORRECTION}[24]",
        f"{CORRECTION}[25]",
    ),
    code(
        COUNTING,
        "a job and its call that one statement deletes are counted one after the other",
        "CREATE TRIGGER count_removed BEFORE DELETE ON provider_calls",
        "CREATE TRIGGER count_removed AFTER DELETE ON provider_calls",
        f"{CORRECTION}[26]",
    ),
    code(
        COUNTING,
        "a temporary table catches no revenue",
        'body.replace("SCHEMA.", f"{schema}.")',
        'body.replace("SCHEMA.", "")',
        "revenue::test_a_temporary_table_of_the_same_name_catches_nothing",
    ),
    code(
        COUNTING,
        "what was settled before the upgrade is counted",
        "    _count_exposure()\n    _compute_anew()\n",
        "    _count_exposure()\n",
        "revenue::test_what_was_settled_before_the_upgrade_is_counted_once",
    ),
]
