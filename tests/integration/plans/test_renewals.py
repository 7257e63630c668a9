"""Renewals, resets and grants: each once, in the order of time, whenever the tick comes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, OperationalError

from billing.errors import BillingError
from billing.jobs import reserving, settling
from billing.money import CREDITS_MAX
from billing.periods import add_months, starts_at
from billing.plans import limits, renewals, subscription_queries
from billing.plans.renewals import Worked
from config.database import transaction
from tests.factories import (
    MINUTE,
    NOON,
    a_generated_job,
    a_queued_job,
    a_reserved_job,
    an_account,
    moment,
    rows,
    the_account,
    the_job,
)
from tests.subscribers import (
    a_plan,
    a_subscriber,
    act,
    findings,
    ledger,
    noon,
    periods,
    renew,
    reset_limits,
    standing,
    tick,
    without_lock,
)

pytestmark = pytest.mark.usefixtures("db")
DAY = timedelta(days=1)
MOMENT = timedelta(microseconds=1)
ZONES = [
    "UTC", "Europe/Berlin", "America/New_York", "America/Vancouver", "America/Havana", "Africa/Cairo", "Asia/Beirut",
    "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia", "Pacific/Kiritimati", "Pacific/Niue",
]  # fmt: skip


# --- grants ---


def test_a_subscription_grants_its_first_period_at_once():
    a_plan()
    account_id = a_subscriber(anchor=date(2026, 8, 31))

    assert ledger(account_id) == [("subscription", 500, 500, "2026-11-20")]
    assert periods(account_id) == [("2026-10-31", "starter", "active", 500, 0, True)]


def test_each_boundary_grants_once_and_in_the_order_of_time():
    a_plan()
    account_id = a_subscriber(anchor=date(2026, 8, 31))

    assert tick(noon("2027-03-01")) == (4, 5)
    assert tick(noon("2027-03-01")) == (0, 0)
    assert ledger(account_id) == [
        ("subscription", 500, 500, "2026-11-20"),
        ("subscription", 500, 1000, "2026-11-30"),
        ("subscription", 500, 1500, "2026-12-31"),
        ("subscription", 500, 2000, "2027-01-31"),
        ("subscription", 500, 2500, "2027-02-28"),
    ]
    assert standing(account_id) == ("active", "2027-02-28", "2027-03-31", False)
    assert findings() == []


@pytest.mark.parametrize("zone", ZONES)
def test_a_boundary_grants_once_and_not_an_instant_before(zone):
    a_plan()
    account_id = a_subscriber(anchor=date(2025, 10, 31), time_zone=zone)
    boundary = starts_at(date(2026, 11, 30), ZoneInfo(zone))

    # The limits of its first period are opened before.
    assert tick(boundary - MOMENT) == (0, 1)
    assert [tick(boundary) for _ in range(2)] == [(1, 1), (0, 0)]
    assert ledger(account_id)[1:] == [("subscription", 500, 1000, f"{boundary:%Y-%m-%d}")]
    assert rows("SELECT created_at FROM credit_transactions ORDER BY id")[1:] == [(boundary,)]


def test_without_subscriptions_there_is_nothing_to_do():
    assert tick(NOON) == (0, 0)


def test_a_plan_without_credits_grants_nothing_but_renews():
    a_plan(included_credits="0")
    account_id = a_subscriber()

    tick(noon("2027-01-21"))

    assert ledger(account_id) == []
    assert [each[0] for each in periods(account_id)] == ["2026-11-20", "2026-12-20", "2027-01-20"]


def test_a_yearly_plan_grants_once_a_year():
    a_plan(billing_interval="year")
    account_id = a_subscriber(anchor=date(2024, 2, 29), now=noon("2026-02-28"))

    tick(noon("2028-12-31"))

    assert [each[0] for each in periods(account_id)] == ["2026-02-28", "2027-02-28", "2028-02-29"]


def test_a_grant_that_was_made_cannot_be_made_again_by_the_database_itself():
    a_plan()
    a_subscriber()

    with pytest.raises(IntegrityError, match="one_grant_a_period"), transaction() as session:
        session.execute(
            text(
                "INSERT INTO credit_transactions (account_id, transaction_type, amount, balance_after, description, "
                "subscription_id, period_start, idempotency_key, created_at) SELECT account_id, transaction_type, "
                "amount, balance_after + amount, description, subscription_id, period_start, 'again', created_at "
                "FROM credit_transactions"
            )
        )


def test_a_grant_that_loses_its_race_undoes_everything_it_did(monkeypatch):
    a_plan()
    account_id = a_subscriber()
    monkeypatch.setattr(subscription_queries, "mark", lambda *_, **__: 0)

    with transaction() as session:
        renewals.renew(session, noon("2026-12-20"), worked := Worked())

    assert worked.blocked == {account_id: "AssertionError"}
    assert the_account(account_id).balance == 500


def test_a_period_that_was_granted_is_left_as_it_is():
    a_plan()
    account_id = a_subscriber()
    before = periods(account_id)
    columns = "subscription_id, period_start, period_end, plan_id, status, starts_at, credits, credits_withheld"

    with transaction() as session:
        (row,) = session.execute(text(f"SELECT {columns} FROM subscription_periods")).mappings()
        subscription_queries.add_periods(session, [dict(row) | {"credits": 900, "status": "past_due"}])

    assert periods(account_id) == before


def test_an_operators_top_up_cannot_take_the_key_of_a_grant():
    from billing.ledger import by_hand

    account_id = an_account(0)
    for key in ("creditmill:subscription:1:2026-12-20", "settle:7"):
        with pytest.raises(BillingError, match=r"Creditmill's own"), transaction() as session:
            by_hand.top_up(session, account_id, 5, idempotency_key=key, description="x", now=NOON)


def test_one_account_that_cannot_be_granted_does_not_hold_up_the_others():
    a_plan()
    first, rich, last = a_subscriber(), a_subscriber(), a_subscriber()
    with transaction() as session:
        session.execute(text("UPDATE accounts SET balance = :most WHERE id = :id"), {"most": 2**53 - 1, "id": rich})

    assert tick(noon("2026-12-21"))[0] == 2
    assert [the_account(each).balance for each in (first, last)] == [1000, 1000]
    assert standing(rich)[1] == "2026-12-20", "the limits' task has moved it on"
    assert rows("SELECT task, blocked FROM periodic_runs ORDER BY task") == [
        ("renew_subscriptions", 1),
        ("reset_plan_limits", 0),
    ]

    with transaction() as session:
        session.execute(text("UPDATE accounts SET balance = 500 WHERE id = :id"), {"id": rich})
    assert tick(noon("2026-12-22")) == (1, 0)
    assert ledger(rich)[-1] == ("subscription", 500, 1000, "2026-12-20")


# --- limits ---


def test_a_transaction_holds_few_accounts():
    a_plan()
    for _ in range(renewals.BATCH + 1):
        a_subscriber()

    with transaction() as session:
        assert renewals.renew(session, noon("2026-12-21"), worked := Worked())

    assert renewals.BATCH <= 50
    assert worked.periods == renewals.BATCH
    assert rows("SELECT count(*) FROM credit_transactions") == [(2 * renewals.BATCH + 1,)]


def usage(account_id):
    return rows(
        "SELECT period_start::text, amount_used, amount_reserved FROM plan_limit_usage "
        "WHERE account_id = :id ORDER BY period_start",
        id=account_id,
    )


def test_a_period_opens_its_rows_once_and_leaves_the_old_ones_alone():
    a_plan(content_words="1000", image_prompts="none")
    account_id = a_subscriber(anchor=date(2026, 11, 1))

    assert [tick(at)[1] for at in (NOON, NOON, NOON + 30 * DAY)] == [1, 0, 1]
    assert rows("SELECT limit_type, period_start::text, period_end::text FROM plan_limit_usage ORDER BY 2, 1") == [
        ("content_ideas", "2026-11-01", "2026-12-01"),
        ("content_words", "2026-11-01", "2026-12-01"),
        ("content_ideas", "2026-12-01", "2027-01-01"),
        ("content_words", "2026-12-01", "2027-01-01"),
    ]
    assert the_account(account_id).balance == 1000


def test_a_job_over_the_boundary_counts_in_the_period_in_which_it_was_reserved():
    a_plan()
    account_id = a_subscriber(credits=100, anchor=date(2026, 11, 1))
    before, after = noon("2026-11-30"), noon("2026-12-01")
    job_id = a_generated_job(account_id, "idea_generation", now=before)

    tick(after)
    with transaction() as session:
        settling.settle(session, [job_id], now=after)

    assert usage(account_id) == [("2026-11-01", 1, 0), ("2026-12-01", 0, 0)]
    assert the_job(job_id).limit_period_start == date(2026, 11, 1)


def test_usage_before_the_tick_is_already_in_the_new_periods_row():
    a_plan(content_ideas="1")
    account_id = a_subscriber(credits=100, anchor=date(2026, 11, 1))
    a_generated_job(account_id, "idea_generation")
    december = noon("2026-12-01")

    a_generated_job(account_id, "idea_generation", now=december)
    tick(december)

    assert usage(account_id) == [("2026-11-01", 0, 1), ("2026-12-01", 0, 1)]


def test_the_plan_that_takes_over_holds_from_its_first_instant_even_without_a_tick():
    a_plan(content_ideas="0")
    a_plan("pro", content_ideas="2")
    account_id = a_subscriber(credits=100, anchor=date(2026, 11, 1))
    act("subscribe", account_id, "pro", at_period_end=True)

    job_id = a_queued_job(account_id, "idea_generation", now=noon("2026-11-30"))
    later = a_queued_job(account_id, "idea_generation", now=noon("2026-12-01"))
    with transaction() as session:
        assert (
            reserving.reserve(session, [job_id], at=moment(session, noon("2026-11-30")), publish_by=MINUTE).job_ids
            == []
        )
    with transaction() as session:
        assert reserving.reserve(
            session, [later], at=moment(session, noon("2026-12-01")), publish_by=MINUTE
        ).job_ids == [later]
        assert [each[:2] for each in limits.of_account(session, account_id, now=noon("2026-12-01"))] == [
            ("content_ideas", 2)
        ]


def test_a_job_is_not_refused_for_credits_that_a_late_tick_still_owes():
    a_plan(included_credits="11")
    account_id = a_subscriber(anchor=date(2026, 11, 1))
    a_reserved_job(account_id)
    january = noon("2027-01-05")
    jobs = [a_queued_job(account_id, now=january + number * MINUTE) for number in range(3)]

    with transaction() as session:
        assert set(reserving.check(session, jobs, at=moment(session, january))) == set(jobs)
    with transaction() as session:
        assert set(reserving.reserve(session, jobs, at=moment(session, january), publish_by=MINUTE).job_ids) == set(
            jobs[:2]
        )

    assert (the_job(jobs[2]).state, the_job(jobs[2]).error_code) == ("rejected", "insufficient_credits")
    assert ledger(account_id) == [
        ("subscription", 11, 11, "2026-11-20"),
        ("subscription", 11, 22, "2026-12-01"),
        ("subscription", 11, 33, "2027-01-01"),
    ]
    # What was moved on without a grant, as by the other task, is granted as well.
    february = noon("2027-02-05")
    reset_limits(february)
    a_reserved_job(account_id, now=february)
    assert tick(february) == (0, 0)
    assert findings() == []


def test_an_account_that_cannot_be_renewed_goes_on_with_what_it_has():
    a_plan(included_credits=str(CREDITS_MAX))
    account_id = a_subscriber(anchor=date(2026, 11, 1))
    before = the_account(account_id).balance

    a_reserved_job(account_id, now=noon("2026-12-05"))

    assert before == the_account(account_id).balance == CREDITS_MAX
    assert [each[0] for each in periods(account_id)] == ["2026-11-01"]


def test_a_job_is_not_refused_while_somebody_holds_the_subscription_that_owes_it_credits():
    a_plan()
    account_id = a_subscriber(anchor=date(2026, 11, 1))
    december = noon("2026-12-05")
    with transaction() as session:
        session.execute(text("UPDATE accounts SET balance = 0"))
        session.execute(text("ALTER TABLE credit_transactions DISABLE TRIGGER append_only"))
        session.execute(text("DELETE FROM credit_transactions"))
    job_id = a_queued_job(account_id, now=december)

    with transaction() as other:
        other.execute(text("SELECT 1 FROM subscriptions FOR UPDATE"))
        with pytest.raises(OperationalError, match="lock timeout"), transaction() as session:
            reserve_soon(session, job_id, december)
    assert the_job(job_id).state == "queued"

    with transaction() as session:
        assert reserving.reserve(session, [job_id], at=moment(session, december), publish_by=MINUTE).job_ids == [job_id]


def reserve_soon(session, job_id, now):
    session.execute(text("SET LOCAL lock_timeout = '100ms'"))
    reserving.reserve(session, [job_id], at=moment(session, now), publish_by=MINUTE)


# --- at once ---


def test_eight_ticks_at_once_a_hundred_times_grant_each_period_once():
    a_plan(included_credits="7")
    accounts = [
        a_subscriber(anchor=date(2026, 10, 31), time_zone=zone) for zone in ("UTC", "Asia/Tokyo", "America/Lima")
    ]

    def run(number, at):
        if number % 2:
            renew(at)
        else:
            assert without_lock(renewals.renew, at).blocked == {}

    with ThreadPoolExecutor(8) as pool:
        for month in range(1, 101):
            at = datetime.combine(add_months(date(2026, 11, 2), month), datetime.min.time(), UTC)
            list(pool.map(run, range(8), [at] * 8))
            assert renew(at) == 0
            granted = rows("SELECT account_id, count(*), sum(amount) FROM credit_transactions GROUP BY 1 ORDER BY 1")
            assert granted == [(each, month + 1, 7 * (month + 1)) for each in accounts]

    assert [the_account(each).balance for each in accounts] == [7 * 101] * 3
    assert findings() == []
