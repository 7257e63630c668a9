"""Revenue roll-ups: whatever changes, whenever, the roll-ups say what the sources say."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from decimal import Decimal
from threading import Barrier, Event
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from billing.catalog.pricing import Usage
from billing.jobs import calling, job_queries, reserving, settling, unknown_calls
from billing.jobs.policy import Failure, Outcome
from billing.jobs.states import State
from billing.jobs.unknown_calls import Resolution
from billing.reports import audit, revenue
from config import database
from config.database import transaction
from tasks import periodic
from tests.catalogue import a_settled_job, sql
from tests.factories import (
    MINUTE,
    NOON,
    a_claim,
    a_delivery,
    a_generated_job,
    a_queued_job,
    a_reserved_job,
    an_account,
    rows,
    the_job,
)
from tests.revenue_books import queued, rebuild, roll_up, rolled, source, standing
from tests.rounds import rounds

pytestmark = pytest.mark.usefixtures("db")
DAY = timedelta(days=1)
TODAY = NOON.date()


def a_lost_job(account_id, now=NOON) -> UUID:
    """A job that was refunded because its outcome stayed unknown: the most that it may cost is exposure."""
    job_id = a_reserved_job(account_id, now=now)
    claim = a_claim(job_id, now=now)
    with transaction() as session:
        (job,) = job_queries.lock(session, [job_id], {State.CALLING})
        calling.mark_unknown(session, [job], Failure.WORKER_LOST, now=now, look_after=MINUTE)
    with transaction() as session:
        (job,) = job_queries.lock(session, [claim.job_id], {State.UNKNOWN})
        unknown_calls.expose(session, job)
        reasons = {job_id: settling.Release("unknown_outcome", "Nobody knows.")}
        settling.release(session, [job], reasons, now=now)
    return job_id


def findings():
    with transaction(isolation="REPEATABLE READ", read_only=True) as session:
        found = audit.audit(session, now=NOON)
    return [finding for finding in found if finding.rule == "roll_ups_equal_their_source"]


def assert_exact():
    """Roll-ups, with and without a tick, are the sums of their sources, and the audit agrees."""
    assert standing() == source()
    while roll_up():
        pass
    assert rolled() == source()
    assert findings() == []


# --- What is counted ---


def test_a_day_adds_up_to_its_jobs():
    account_id = an_account()
    a_settled_job(account_id, usage=Usage(input_tokens=1000, output_tokens=100))
    a_settled_job(account_id, usage=Usage(input_tokens=100, output_tokens=100))
    image = {"prompt": "a fox"}
    a_settled_job(account_id, operation="image_generation", params=image, usage=Usage(images=1))
    with transaction() as session:
        poor = a_queued_job(an_account(1))
        reserving.reserve(session, [poor], now=NOON, publish_by=DAY)

    assert roll_up() == 7
    told = rows(
        "SELECT day::text, operation_type, model_name, jobs, jobs_settled, credits, revenue_usd, cost_usd, margin_usd "
        "FROM revenue_rollups ORDER BY 1, 2, 3, jobs"
    )
    assert [tuple(v.normalize() if isinstance(v, Decimal) else v for v in row) for row in told] == [
        ("2026-11-20", "clustering", "gpt-5.1", 1, 0, 0, Decimal(0), Decimal(0), Decimal(0)),
        ("2026-11-20", "clustering", "gpt-5.1", 2, 2, 13, Decimal("0.13"), Decimal("0.003375"), Decimal("0.126625")),
        ("2026-11-20", "image_generation", "dall-e-3", 1, 1, 5, Decimal("0.1"), Decimal("0.04"), Decimal("0.06")),
    ]
    assert_exact()


def test_an_unfinished_job_queues_nothing():
    account_id = an_account()
    a_queued_job(account_id)
    a_generated_job(account_id)
    sql("UPDATE generation_jobs SET cost_usd = cost_usd + 1, next_at = next_at + interval '1 hour'")

    assert queued() == 0


def test_a_change_without_a_figure_queues_nothing():
    a_settled_job(an_account())
    before = queued()
    sql("UPDATE generation_jobs SET error_message = 'late', next_at = next_at + interval '1 hour'")
    sql("UPDATE credit_usage_logs SET related_object_type = 'post'")
    sql("UPDATE provider_calls SET raw_usage = '{}', cost_usd = cost_usd + 1")

    assert queued() == before


def test_a_settled_job_queues_its_job_and_its_usage():
    a_settled_job(an_account())

    assert queued() == 2


def test_rolling_up_twice_changes_nothing():
    account_id = an_account()
    for day in range(3):
        a_settled_job(account_id, now=NOON - day * DAY)
    assert roll_up() == 6
    once = rolled()

    assert len(once) == 3
    assert roll_up() == 0
    assert rolled() == once == source()


def test_jobs_of_any_day_are_counted_however_late_the_tick_is():
    account_id = an_account()
    a_settled_job(account_id)
    roll_up()
    for day in (1, 5, 20):
        a_settled_job(account_id, now=NOON + day * DAY)

    roll_up()

    assert [key[0] - TODAY for key in sorted(rolled())] == [0 * DAY, 1 * DAY, 5 * DAY, 20 * DAY]
    assert_exact()


@pytest.mark.parametrize("at", ["2026-11-20T23:59:59.999999+00:00", "2026-11-21T00:00:00+00:00"])
def test_the_day_is_that_of_utc_wherever_the_session_is(at):
    job_id = a_settled_job(an_account())
    with transaction() as session:
        session.execute(text("SET LOCAL timezone = 'Pacific/Auckland'"))
        session.execute(text("UPDATE generation_jobs SET finished_at = :at WHERE id = :id"), {"at": at, "id": job_id})
        session.execute(text("UPDATE credit_usage_logs SET created_at = :at"), {"at": at})
        revenue.roll_up(session, now=NOON)

    assert [key[0] for key in rolled()] == [date.fromisoformat(at[:10])]
    assert_exact()


# --- What comes late, and what is corrected by hand ---


def test_a_cost_that_is_known_weeks_later_counts_on_the_day_of_its_job():
    account_id = an_account()
    job_id = a_lost_job(account_id)
    roll_up()
    (key,) = rolled()
    assert rolled()[key][4] == rolled()[key][5] > 0

    with transaction() as session:
        evidence = Resolution(Outcome.NOT_EXECUTED, evidence="the provider's log", actor="anna")
        unknown_calls.resolve(session, job_id, evidence, now=NOON + 40 * DAY, publish_by=MINUTE)
    roll_up()

    assert rolled() == {key: (1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)}
    assert_exact()


def test_a_delivery_after_the_refund_is_exposure_on_the_day_of_the_refund():
    job_id = a_lost_job(an_account())
    roll_up()

    with transaction() as session:
        claim = calling.Attempt(job_id, 1)
        assert not calling.succeed(session, claim, a_delivery(), now=NOON + 9 * DAY, publish_by=MINUTE)
    roll_up()

    (figures,) = rolled().values()
    assert figures[4] == figures[5] == the_job(job_id).cost_usd > 0
    assert_exact()


CORRECTIONS = [
    # jobs
    "UPDATE generation_jobs SET finished_at = finished_at - interval '3 days' WHERE finished_at IS NOT NULL",
    "UPDATE generation_jobs SET account_id = 2",
    "UPDATE generation_jobs SET operation_type = 'linking'",
    "UPDATE generation_jobs SET model_name = 'gpt-4o'",
    "UPDATE generation_jobs SET cost_usd = cost_usd + 0.0000000001",
    "UPDATE generation_jobs SET state = 'queued', finished_at = NULL WHERE state = 'refunded'",
    # usage
    "UPDATE credit_usage_logs SET created_at = created_at + interval '3 days'",
    "UPDATE credit_usage_logs SET account_id = 2",
    "UPDATE credit_usage_logs SET operation_type = 'linking'",
    "UPDATE credit_usage_logs SET model_used = 'gpt-4o'",
    "UPDATE credit_usage_logs SET credits_used = credits_used + 1",
    "UPDATE credit_usage_logs SET revenue_usd = revenue_usd / 3",
    "UPDATE credit_usage_logs SET tokens_input = 1",
    "UPDATE credit_usage_logs SET tokens_input_cached = 2",
    "UPDATE credit_usage_logs SET tokens_output = 3",
    "UPDATE credit_usage_logs SET tokens_reasoning = 4",
    "UPDATE credit_usage_logs SET images = 5",
    "DELETE FROM credit_usage_logs",
    # calls
    "UPDATE provider_calls SET exposure = NOT exposure",
    "UPDATE provider_calls SET cost_usd = cost_usd + 0.0000000007",
    "UPDATE provider_calls SET job_id = (SELECT id FROM generation_jobs WHERE state = 'settled'), attempt = 7 "
    "WHERE exposure",
    "DELETE FROM provider_calls",
    "INSERT INTO provider_calls (job_id, attempt, provider, model_name, endpoint, idempotency_key, started_at, "
    "cost_usd, exposure) SELECT id, 9, 'openai', model_name, '', '', now(), 0.0123456789, true FROM generation_jobs",
    # all of a job; and two tables in one statement, in either order
    "DELETE FROM credit_transactions; DELETE FROM credit_usage_logs; DELETE FROM generation_results; "
    "DELETE FROM provider_calls; DELETE FROM generation_jobs",
    "WITH c AS (UPDATE provider_calls SET exposure = true, cost_usd = 1 RETURNING job_id) UPDATE generation_jobs j "
    "SET finished_at = coalesce(finished_at, now()) - interval '2 days', state = CASE WHEN finished_at IS NULL THEN "
    "'cancelled' ELSE state END, lease_until = NULL FROM c WHERE c.job_id = j.id",
    "WITH j AS (UPDATE generation_jobs SET model_name = 'gpt-4o' RETURNING id) UPDATE provider_calls c "
    "SET exposure = NOT exposure, cost_usd = 2 FROM j WHERE c.job_id = j.id",
    "DELETE FROM credit_transactions; DELETE FROM credit_usage_logs; DELETE FROM generation_results; "
    "WITH c AS (DELETE FROM provider_calls) DELETE FROM generation_jobs",
    "INSERT INTO generation_jobs (id, account_id, operation_type, model_name, provider, kind, state, params, "
    "idempotency_key, request_hash, work, cost_usd, next_at, deadline_at, created_at, finished_at) SELECT "
    "gen_random_uuid(), account_id, operation_type, model_name, provider, kind, state, params, 'again', '', work, "
    "cost_usd, next_at, deadline_at, created_at, finished_at FROM generation_jobs WHERE state = 'refunded'",
]  # fmt: skip


@pytest.fixture
def _books(db):
    """Jobs of one account that are settled, lost, being called and waiting; a second account to move them to."""
    account_id = an_account()
    an_account()
    a_settled_job(account_id, usage=Usage(1000, 10, 300, 20))
    a_lost_job(account_id, NOON - DAY)
    a_claim(a_reserved_job(account_id))
    a_queued_job(account_id)


@pytest.mark.usefixtures("_books")
@pytest.mark.parametrize("correction", CORRECTIONS, ids=range(len(CORRECTIONS)))
def test_a_correction_by_hand_is_counted(correction):
    # Some of what it corrects is rolled up already, some is still queued.
    roll_up(limit=2)
    before = source()
    if "credit_transactions" in correction:
        sql("ALTER TABLE credit_transactions DISABLE TRIGGER append_only")
    for statement in correction.split("; "):
        sql(statement)

    assert source() != before
    assert_exact()


@pytest.mark.usefixtures("_books")
def test_a_temporary_table_of_the_same_name_catches_nothing():
    with transaction() as session:
        session.execute(text("CREATE TEMPORARY TABLE revenue_changes (LIKE revenue_changes) ON COMMIT DROP"))
        session.execute(text("UPDATE credit_usage_logs SET credits_used = 77"))

    assert_exact()


@pytest.mark.usefixtures("_books")
def test_a_roll_up_of_nothing_goes_away():
    roll_up()
    sql("UPDATE credit_usage_logs SET account_id = 2")
    sql("UPDATE generation_jobs SET account_id = 2")
    roll_up()

    assert {key[1] for key in rolled()} == {2}
    assert rows("SELECT 1 FROM revenue_rollups WHERE jobs = 0") == []


# --- Ticks and rebuilds, in any order and side by side ---


def test_a_tick_takes_the_oldest_changes_first_and_the_task_all_of_them(monkeypatch):
    account_id = an_account()
    for day in range(3):
        a_settled_job(account_id, now=NOON + day * DAY)

    assert roll_up(limit=2) == 2
    assert [key[0] for key in rolled()] == [TODAY]
    assert standing() == source()
    monkeypatch.setattr(revenue, "BATCH", 3)
    assert periodic.roll_up_revenue() == 4
    assert (rolled(), queued()) == (source(), 0)


def test_a_tick_ends_however_much_there_is(monkeypatch):
    a_settled_job(an_account())
    monkeypatch.setattr(revenue, "BATCH", 1)
    monkeypatch.setattr(periodic, "ROLL_UP_BATCHES", 1)

    assert [periodic.roll_up_revenue() for _ in range(3)] == [1, 1, 0]
    assert rolled() == source()


def test_a_transaction_that_commits_late_is_not_skipped():
    early, late = a_generated_job(an_account()), a_generated_job(an_account())
    with transaction() as first:
        settling.settle(first, [early], now=NOON)
        with transaction() as second:
            settling.settle(second, [late], now=NOON)
        # The second has the newer ids, and is rolled up while the first is not there yet.
        assert roll_up() == 2
        assert {key[1] for key in rolled()} == {2}

    assert roll_up() == 2
    assert {key[1] for key in rolled()} == {1, 2}
    assert_exact()


def test_a_rebuild_takes_the_place_of_whatever_is_there():
    account_id = an_account()
    for day in range(4):
        a_settled_job(account_id, now=NOON + day * DAY)
    roll_up(limit=3)
    sql("UPDATE revenue_rollups SET revenue_usd = 99")
    sql("INSERT INTO revenue_rollups (day, account_id, operation_type, model_name, jobs, jobs_settled, credits, "
        "revenue_usd, cost_usd, exposure_usd, tokens_input, tokens_input_cached, tokens_output, tokens_reasoning, "
        "images, computed_at) VALUES ('2026-11-21', 1, 'x', 'y', 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, now())")  # fmt: skip

    assert rebuild(TODAY, TODAY + DAY) == 2

    # What is queued for other days is left for the tick.
    assert queued() == 4
    assert_exact()


@pytest.mark.parametrize("isolation", [None, "SERIALIZABLE"])
def test_a_rebuild_without_one_snapshot_is_refused(isolation):
    with pytest.raises(AssertionError, match="one snapshot"), transaction(isolation=isolation) as session:
        revenue.rebuild(session, TODAY, TODAY, now=NOON)


def test_a_rebuild_waits_for_the_tick_and_counts_nothing_twice():
    a_settled_job(an_account())
    with ThreadPoolExecutor(1) as pool:
        with transaction() as session:
            revenue.roll_up(session, now=NOON)
            waiting = pool.submit(rebuild, TODAY, TODAY)
            until_somebody_waits()
        assert waiting.result() == 1

    assert rolled() == source()
    assert queued() == 0


def test_ticks_at_once_take_each_change_once():
    account_id = an_account(10_000)
    for _ in range(12):
        a_settled_job(account_id)
    barrier = Barrier(6)

    def tick():
        barrier.wait()
        return roll_up(limit=5)

    with ThreadPoolExecutor(6) as pool:
        taken = [tick.result() for tick in [pool.submit(tick) for _ in range(6)]]

    assert sorted(taken) == [0, 4, 5, 5, 5, 5]
    assert rolled() == source()


def test_ticks_and_rebuilds_while_jobs_are_settled_are_exact():
    account_ids = [an_account(10_000) for _ in range(3)]
    batches = [[a_generated_job(account_id) for _ in range(25)] for account_id in account_ids]
    done = Event()

    def settle(job_ids):
        for job_id in job_ids:
            with transaction() as session:
                settling.settle(session, [job_id], now=NOON)

    def tick():
        while not done.is_set():
            roll_up(limit=3)

    def rebuild_always():
        while not done.is_set():
            rebuild(TODAY - DAY, TODAY)

    with ThreadPoolExecutor(6) as pool:
        others = [pool.submit(tick), pool.submit(rebuild_always), pool.submit(rebuild_always)]
        try:
            for settled in [pool.submit(settle, job_ids) for job_ids in batches]:
                settled.result()
        finally:
            done.set()
        for other in others:
            other.result()

    assert sum(figures[1] for figures in standing().values()) == 75
    assert_exact()


# --- Exposure that changes while its job is finished ---


@pytest.mark.parametrize("first", ["job", "call"])
def test_exposure_that_is_written_while_its_job_is_finished_is_counted_once(first):
    claim = a_claim(a_reserved_job(an_account()))
    statements = {
        "job": "UPDATE generation_jobs SET state = 'refunded', finished_at = :now, lease_until = NULL",
        "call": "UPDATE provider_calls SET exposure = true, cost_usd = 3",
    }
    second = "call" if first == "job" else "job"

    def change(session, which):
        session.execute(text(statements[which]), {"now": NOON} if which == "job" else {})

    def change_second():
        with transaction() as session:
            change(session, second)

    with ThreadPoolExecutor(1) as pool:
        with transaction() as session:
            change(session, first)
            waiting = pool.submit(change_second)
            until_somebody_waits()
        waiting.result()

    assert the_job(claim.job_id).finished_at == NOON
    (figures,) = standing().values()
    assert figures[5] == 3
    assert_exact()


def until_somebody_waits():
    """Until a session of this database waits for another's lock."""
    for _ in range(200):
        with database.engine().connect() as connection:
            waits = (
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
            if connection.scalar(text(waits)):
                return
            connection.execute(text("SELECT pg_sleep(0.02)"))
    raise AssertionError("nobody waits")


# --- Any order of anything ---

AMOUNT = st.decimals(min_value=0, max_value=1000, places=10)
WHICH = st.integers(0, 7)
STEPS = st.one_of(
    st.tuples(st.just("settle"), st.integers(0, 2), st.integers(-3, 3)),
    st.tuples(st.just("lose"), st.integers(0, 2), st.integers(-3, 3)),
    st.tuples(st.just("cost"), WHICH, AMOUNT),
    st.tuples(st.just("expose"), WHICH, AMOUNT),
    st.tuples(st.just("revenue"), WHICH, AMOUNT),
    st.tuples(st.just("move_job"), WHICH, st.integers(-3, 3)),
    st.tuples(st.just("move_log"), WHICH, st.integers(1, 2)),
    st.tuples(st.just("delete_log"), WHICH, st.none()),
    st.tuples(st.just("delete_call"), WHICH, st.none()),
    st.tuples(st.just("reopen"), WHICH, st.none()),
    st.tuples(st.just("roll_up"), st.integers(1, 5), st.none()),
    st.tuples(st.just("rebuild"), st.integers(-3, 3), st.integers(0, 3)),
)
NTH = "(SELECT id FROM {} ORDER BY id OFFSET :n LIMIT 1)"
BY_HAND = {
    "cost": f"UPDATE generation_jobs SET cost_usd = :x WHERE id = {NTH.format('generation_jobs')}",
    "expose": "UPDATE provider_calls SET exposure = NOT exposure, cost_usd = :x "
    f"WHERE id = {NTH.format('provider_calls')}",
    "revenue": f"UPDATE credit_usage_logs SET revenue_usd = :x WHERE id = {NTH.format('credit_usage_logs')}",
    "move_job": "UPDATE generation_jobs SET finished_at = finished_at + :x * interval '1 day' "
    f"WHERE id = {NTH.format('generation_jobs')}",
    "move_log": f"UPDATE credit_usage_logs SET account_id = :x WHERE id = {NTH.format('credit_usage_logs')}",
    "delete_log": f"DELETE FROM credit_usage_logs WHERE id = {NTH.format('credit_usage_logs')}",
    "delete_call": f"DELETE FROM provider_calls WHERE id = {NTH.format('provider_calls')}",
    "reopen": "UPDATE generation_jobs SET state = CASE state WHEN 'refunded' THEN 'queued' WHEN 'queued' "
    "THEN 'refunded' ELSE state END, finished_at = CASE state WHEN 'refunded' THEN NULL WHEN 'queued' THEN created_at "
    f"ELSE finished_at END WHERE id = {NTH.format('generation_jobs')}",
}  # fmt: skip


@settings(max_examples=rounds(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, max_size=14))
def test_any_order_of_changes_ticks_and_rebuilds_gives_the_sums_of_the_sources(steps):
    emptied = "revenue_changes, revenue_rollups, credit_usage_logs, provider_calls, generation_results, generation_jobs"
    with transaction() as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(text("DELETE FROM credit_transactions; DELETE FROM plan_limit_usage"))
        for table in emptied.split(", "):
            session.execute(text(f"DELETE FROM {table}"))
        session.execute(text("DELETE FROM accounts"))
        session.execute(text("ALTER SEQUENCE accounts_id_seq RESTART"))
    for _ in range(3):
        an_account(100_000)
    for step, one, other in steps:
        if step == "settle":
            a_settled_job(one + 1, now=NOON + other * DAY)
        elif step == "lose":
            a_lost_job(one + 1, NOON + other * DAY)
        elif step == "roll_up":
            roll_up(limit=one)
        elif step == "rebuild":
            rebuild(TODAY + one * DAY, TODAY + (one + other) * DAY)
        else:
            given = {"n": one} if other is None else {"n": one, "x": other}
            with transaction() as session:
                session.execute(text(BY_HAND[step]), given)
        assert standing() == source()
    assert_exact()
