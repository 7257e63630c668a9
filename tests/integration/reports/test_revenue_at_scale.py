"""Revenue of a long history: exact to the last decimal, and a tick's work depends on what is new alone."""

from __future__ import annotations

import os
import sys
import time
from statistics import median

import pytest
from sqlalchemy import text

from billing.jobs import settling
from billing.reports import revenue
from config import database
from config.database import transaction
from tasks import periodic
from tests.catalogue import sql
from tests.factories import NOON, a_generated_job, an_account, rows
from tests.revenue_books import COLUMNS, KEY, queued

pytestmark = pytest.mark.usefixtures("db")
FULL = os.environ.get("CHAOS_FULL") == "1"
ACCOUNTS = 20

JOBS = """
    INSERT INTO generation_jobs (id, account_id, operation_type, model_name, provider, kind, state, params,
        idempotency_key, request_hash, work, price, credits_reserved, credits_charged, cost_usd, attempts, next_at,
        deadline_at, created_at, finished_at, credits_overrun)
    SELECT md5('job' || n)::uuid, 1 + n % :accounts, 'operation ' || n % 3, 'model ' || n % 5, 'openai', 'text',
        'settled', '{}', n, '', '{}', '{}', 100, n % 100, (n % 9973) / 7.0 / 1000, 1, at, at, at, at, n % 3
    FROM (SELECT n, CAST(:now AS timestamptz) - n % 400 * interval '5 hours' AS at
          FROM generate_series(CAST(:first AS bigint), :last) n) made
"""
CALLS = """
    INSERT INTO provider_calls (job_id, attempt, provider, model_name, endpoint, idempotency_key, started_at, cost_usd,
        exposure)
    SELECT md5('job' || n)::uuid, 1, 'openai', 'model', '', n, now(), n % 101 / 1e10, true
    FROM generate_series(CAST(:first AS bigint), :last) n WHERE n % 50 = 0
"""
USAGE = """
    INSERT INTO credit_usage_logs (account_id, job_id, operation_type, model_used, credits_used, cost_usd,
        price_per_credit_usd, revenue_usd, tokens_input, tokens_input_cached, tokens_output, tokens_reasoning, images,
        created_at)
    SELECT 1 + n % :accounts, md5('job' || n)::uuid, 'operation ' || n % 3, 'model ' || n % 5, n % 100, 0, 0.01,
        n % 7919 / 3.0 / 1000, n % 3001, n % 11, n % 2003, n % 13, n % 2,
        CAST(:now AS timestamptz) - n % 400 * interval '5 hours'
    FROM generate_series(CAST(:first AS bigint), :last) n
"""
SUMS = """
    SELECT day, account_id, operation_type, model_name, sum(jobs), sum(settled), sum(credits), sum(revenue), sum(cost),
           sum(exposure), sum(input), sum(cached), sum(output), sum(reasoning), sum(images),
           sum(overrun)
    FROM (
        SELECT (j.finished_at AT TIME ZONE 'UTC')::date AS day, j.account_id, j.operation_type, j.model_name, 1 AS jobs,
               (u.id IS NOT NULL)::int AS settled, u.credits_used AS credits, u.revenue_usd AS revenue,
               j.cost_usd AS cost, coalesce(c.cost_usd, 0) AS exposure, u.tokens_input AS input,
               u.tokens_input_cached AS cached, u.tokens_output AS output, u.tokens_reasoning AS reasoning, u.images,
               j.credits_overrun AS overrun
        FROM generation_jobs j JOIN credit_usage_logs u ON u.job_id = j.id
        LEFT JOIN provider_calls c ON c.job_id = j.id AND c.exposure) each
    GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
"""
WORK = """
    SELECT sum(seq_tup_read)::int, sum(idx_tup_fetch)::int, sum(n_tup_ins)::int, sum(n_tup_upd)::int,
           sum(n_tup_del)::int
    FROM pg_stat_xact_user_tables
"""


def settle_history(first: int, last: int) -> None:
    """These many settled jobs with their usage, and exposed calls of some, over 84 days; triggers and all."""
    given = {"first": first, "last": last, "accounts": ACCOUNTS, "now": NOON}
    with transaction() as session:
        session.execute(text("SET LOCAL statement_timeout = 0"))
        # Foreign keys are checked row by row, and are not what is tested here.
        for table in ("generation_jobs", "credit_usage_logs", "provider_calls"):
            session.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER ALL"))
            session.execute(text(f"ALTER TABLE {table} ENABLE TRIGGER USER"))
        for statement in (JOBS, CALLS, USAGE):
            session.execute(text(statement), given)
        for table in ("generation_jobs", "credit_usage_logs", "provider_calls"):
            session.execute(text(f"ALTER TABLE {table} ENABLE TRIGGER ALL"))


def say(figures):
    """Shown with `pytest -s`."""
    sys.stdout.write(f"\n{figures}\n")


def accounts():
    for number in range(ACCOUNTS):
        an_account(0, name=f"account {number}")


def rolled():
    return rows(f"SELECT {KEY}, {COLUMNS} FROM revenue_rollups ORDER BY 1, 2, 3, 4")


@pytest.mark.timeout(600)
def test_a_long_history_is_rolled_up_to_the_last_decimal():
    usages = 200_000 if FULL else 50_000
    accounts()
    began = time.monotonic()
    settle_history(1, usages)
    inserted = time.monotonic()

    ticks = 0
    while taken := periodic.roll_up_revenue():
        ticks += taken
    rolled_up = time.monotonic()

    assert ticks == usages * 2 + usages // 50
    assert queued() == 0
    assert rolled() == rows(SUMS)
    say(f"{usages:,} usages: inserted in {inserted - began:.1f} s, rolled up in {rolled_up - inserted:.1f} s")


def analyze():
    with database.engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SET statement_timeout = 0"))
        connection.execute(text("VACUUM ANALYZE"))


def work_of_a_tick(first):
    """The rows that a tick reads and writes for a hundred new jobs, in all tables, and its time in ms."""
    settle_history(first, first + 99)
    with database.engine().connect() as connection:
        connection.execute(text("ANALYZE revenue_changes"))
        connection.commit()
    with transaction() as session:
        # What this connection did before is still among its figures.
        before = session.execute(text(WORK)).one()
        began = time.monotonic()
        assert revenue.roll_up(session, now=NOON) == 202
        took = time.monotonic() - began
        after = session.execute(text(WORK)).one()
    return tuple(now - then for now, then in zip(after, before, strict=True)), round(took * 1000, 1)


@pytest.mark.timeout(3600)
def test_the_work_of_a_tick_does_not_depend_on_the_history():
    small, large = 10_000, 1_000_000 if FULL else 60_000
    accounts()
    settle_history(1, small)
    periodic.roll_up_revenue()
    analyze()
    few = work_of_a_tick(first=6_000_001)
    for first in range(small + 1, large, 100_000):
        settle_history(first, min(first + 99_999, large))
        periodic.roll_up_revenue()
    while periodic.roll_up_revenue():
        pass
    analyze()
    assert rows("SELECT count(*) FROM credit_usage_logs") == [(large + 100,)]
    many = work_of_a_tick(first=6_012_001)
    say(f"a tick of 100 jobs (rows read by scans, by indexes, inserted, updated, deleted; ms): {few}, {many}")

    assert few[0] == many[0]
    assert rolled() == rows(SUMS)


@pytest.mark.timeout(1800)
@pytest.mark.skipif(not FULL, reason="a measurement: CHAOS_FULL=1")
def test_what_counting_costs_the_settling_of_jobs():
    account_id = an_account(1_000_000)
    jobs = [a_generated_job(account_id) for _ in range(500)]
    taken: dict[bool, list[float]] = {True: [], False: []}
    for number in range(40):
        # With, without, without, with: what slows down over time slows both.
        counting = number % 4 in (0, 3)
        for table, trigger in (("generation_jobs", "count_changed"), ("credit_usage_logs", "count_new")):
            sql(f"ALTER TABLE {table} {'ENABLE' if counting else 'DISABLE'} TRIGGER {trigger}")
        with transaction() as session:
            began = time.perf_counter()
            assert len(settling.settle(session, jobs, now=NOON)) == 500
            taken[counting].append(time.perf_counter() - began)
            assert session.scalar(text("SELECT count(*) FROM revenue_changes")) == (1000 if counting else 0)
            # The same jobs are settled again.
            session.rollback()
    with_, without = (median(taken[counting]) * 1000 for counting in (True, False))
    say(f"settling 500 jobs: {with_:.0f} ms with counting, {without:.0f} ms without, ratio {with_ / without:.3f}")

    assert with_ < 2 * without
