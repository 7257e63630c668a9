"""Ticks and rebuilds of the roll-ups beside each other and beside the work that goes on: each change counts once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier, Event

import pytest
from sqlalchemy import text

from billing.jobs import settling
from billing.reports import revenue
from config import database
from config.database import transaction
from tasks import periodic
from tests.catalogue import a_settled_job, sql
from tests.factories import (
    NOON,
    a_claim,
    a_generated_job,
    a_reserved_job,
    an_account,
    the_job,
)
from tests.integration.reports.rolling_up import assert_exact
from tests.revenue_books import queued, rebuild, roll_up, rolled, source, standing

pytestmark = pytest.mark.usefixtures("db")
DAY = timedelta(days=1)
TODAY = NOON.date()


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
        "images, credits_overrun, computed_at) "
        "VALUES ('2026-11-21', 1, 'x', 'y', 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, now())")  # fmt: skip

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
