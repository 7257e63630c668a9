"""Revenue roll-ups: whatever changes, whenever, the roll-ups say what the sources say."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from billing.catalog.usage import Usage
from billing.jobs import calling, reserving, unknown_calls
from billing.jobs.policy import Outcome
from billing.jobs.unknown_calls import Resolution
from billing.reports import revenue
from config.database import transaction
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
    moment,
    rows,
    the_job,
)
from tests.integration.reports.rolling_up import a_job_given_up_unknown, assert_exact
from tests.revenue_books import queued, rebuild, roll_up, rolled, source, standing
from tests.rounds import rounds

pytestmark = pytest.mark.usefixtures("db")
DAY = timedelta(days=1)
TODAY = NOON.date()


# --- What is counted ---


def test_the_roll_up_of_nothing_is_nothing():
    with transaction() as session:
        assert revenue.roll_up(session, now=NOON) == 0


def test_a_day_adds_up_to_its_jobs():
    account_id = an_account()
    a_settled_job(account_id, usage=Usage(input_tokens=1000, output_tokens=100))
    a_settled_job(account_id, usage=Usage(input_tokens=100, output_tokens=100))
    image = {"prompt": "a fox"}
    a_settled_job(account_id, operation="image_generation", params=image, usage=Usage(images=1))
    with transaction() as session:
        poor = a_queued_job(an_account(1))
        reserving.reserve(session, [poor], at=moment(session), publish_by=DAY)

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
    job_id = a_job_given_up_unknown(account_id)
    roll_up()
    (key,) = rolled()
    assert rolled()[key][4] == rolled()[key][5] > 0

    with transaction() as session:
        evidence = Resolution(Outcome.NOT_EXECUTED, evidence="the provider's log", actor="anna")
        unknown_calls.resolve(session, job_id, evidence, now=NOON + 40 * DAY, publish_by=MINUTE)
    roll_up()

    assert rolled() == {key: (1, *[0] * 11)}
    assert_exact()


def test_a_delivery_after_the_refund_is_exposure_on_the_day_of_the_refund():
    job_id = a_job_given_up_unknown(an_account())
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
    "UPDATE generation_jobs SET credits_overrun = credits_overrun + 7",
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
    a_job_given_up_unknown(account_id, NOON - DAY)
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
            a_job_given_up_unknown(one + 1, NOON + other * DAY)
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
