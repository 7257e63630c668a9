"""Subscriptions from before the clock: each goes on in its present period, and nothing is granted in hindsight."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from alembic import command
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from billing import schema
from billing.periods import add_months, period_containing, starts_at
from billing.plans import limits, subscriptions
from billing.reports import audit
from config import database
from config.database import database_now, transaction
from tests.factories import an_account, rows, the_account
from tests.subscribers import tick

pytestmark = pytest.mark.usefixtures("before")
DAY = timedelta(days=1)
MOMENT = timedelta(microseconds=1)
BEFORE = "0006_revenue"
ZONES = [
    "UTC", "Europe/Berlin", "America/New_York", "America/Vancouver", "America/Havana", "Africa/Cairo", "Asia/Beirut",
    "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia", "Pacific/Kiritimati", "Pacific/Niue",
]  # fmt: skip


def migrate(revision):
    with database.engine().begin() as connection:
        there = schema._config(connection)
        (command.downgrade if revision == BEFORE else command.upgrade)(there, revision)


def sql(statement, **given):
    with transaction() as session:
        session.execute(text(statement), given)


@pytest.fixture
def before(db):
    """A database as it was before the clock, with a plan of 500 credits a period."""
    migrate(BEFORE)
    sql(
        "INSERT INTO plans (slug, name, included_credits, limits) VALUES ('starter', 'Starter', 500, :limits)",
        limits='{"content_ideas": 5}',
    )


def now():
    with transaction() as session:
        return database_now(session)


def subscribed(anchor, *, zone="UTC", status="active", start=None, end=None, cancel=False, credits=0):
    """An account that was subscribed before; returns its id. By default its period is the first one."""
    made = "INSERT INTO accounts (name, time_zone) VALUES ('Corner Bakery', :zone) RETURNING id"
    ((account_id,),) = rows(made, zone=zone)
    sql(
        "INSERT INTO subscriptions (account_id, plan_id, status, anchor_date, current_period_start, "
        "current_period_end, cancel_at_period_end) SELECT :account, id, :status, :anchor, :start, :end, :cancel "
        "FROM plans WHERE slug = 'starter'",
        account=account_id, status=status, anchor=anchor, cancel=cancel,
        start=start or anchor, end=end or add_months(start or anchor, 1),
    )  # fmt: skip
    if credits:
        sql(
            "INSERT INTO credit_transactions (account_id, transaction_type, amount, balance_after, description, "
            "idempotency_key, created_at) "
            "VALUES (:account, 'purchase', :credits, :credits, 'Opening credits', 'opening', now())",
            account=account_id, credits=credits,
        )  # fmt: skip
        sql("UPDATE accounts SET balance = :credits WHERE id = :account", account=account_id, credits=credits)
    return account_id


def standing(account_id):
    return rows(
        "SELECT status, anchor_date, current_period_start, current_period_end, cancel_at_period_end, grace_until, "
        "next_plan_id, renews_at FROM subscriptions WHERE account_id = :id",
        id=account_id,
    )[0]


def periods(account_id):
    return rows(
        "SELECT p.period_start, p.period_end, p.status, p.starts_at, p.credits, p.credits_withheld, p.granted, "
        "p.limits_opened FROM subscription_periods p JOIN subscriptions s ON s.id = p.subscription_id "
        "WHERE s.account_id = :id ORDER BY 1",
        id=account_id,
    )


def a_year_of_anchors():
    """Days of which each kind of month end is one, up to today in every zone, and from long ago."""
    today = now().date() - 2 * DAY
    recent = [today - number * DAY for number in range(0, 62, 7)]
    ends = [date(2025, 10, day) for day in (1, 15, 28, 29, 30, 31)]
    far = [date(2024, 2, 29), date(2000, 1, 31), date(1988, 2, 29), date(1900, 12, 31), date(1, 1, 1)]
    return recent + ends + far


def test_each_stands_in_the_period_that_holds_now_as_it_is_counted_from_its_anchor():
    anchors = a_year_of_anchors()
    given = [(anchor, zone) for anchor in anchors for zone in ZONES]
    ids = [subscribed(anchor, zone=zone) for anchor, zone in given]
    earliest = now()
    migrate("head")
    latest = now()

    for (anchor, name), account_id in zip(given, ids, strict=True):
        zone = ZoneInfo(name)
        # Whoever runs this over a boundary may see either side of it.
        expected = [period_containing(anchor, at, zone) for at in (earliest, latest)]
        status, of, start, end, *_, renews_at = standing(account_id)
        assert (status, of) == ("active", anchor)
        assert (start, end) in [(period.start, period.end) for period in expected], (anchor, name)
        assert renews_at == starts_at(end, zone), (anchor, name)
        assert periods(account_id) == [(start, end, "active", starts_at(start, zone), 0, 0, False, True)]

    assert tick(latest) == (0, 0)
    assert rows("SELECT count(*) FROM credit_transactions") == [(0,)]


@pytest.mark.parametrize("zone", ZONES)
def test_the_next_boundary_grants_once_and_not_an_instant_before(zone):
    account_id = subscribed(date(2025, 10, 31), zone=zone)
    migrate("head")
    _, _, start, end, *_, renews_at = standing(account_id)

    assert tick(renews_at - MOMENT) == (0, 0)
    assert [tick(renews_at) for _ in range(2)] == [(1, 1), (0, 0)]
    assert rows("SELECT amount, balance_after, period_start, created_at FROM credit_transactions") == [
        (500, 500, end, renews_at)
    ]
    following = add_months(date(2025, 10, 31), (end.year - 2025) * 12 + end.month - 10 + 1)
    assert [each[:2] for each in periods(account_id)] == [(start, end), (end, following)]
    assert the_account(account_id).balance == 500


def test_one_whose_period_ended_long_ago_is_in_its_present_one_and_gets_nothing_for_those_between():
    account_id = subscribed(date(2024, 1, 31), start=date(2024, 3, 31), end=date(2024, 4, 30), credits=70)
    migrate("head")
    present = period_containing(date(2024, 1, 31), now(), ZoneInfo("UTC"))

    assert standing(account_id)[2:4] == (present.start, present.end)
    assert tick(now()) == (0, 0)
    assert the_account(account_id).balance == 70


def test_of_every_status_each_goes_on_as_it_can():
    anchor = now().date() - 40 * DAY
    expected = {"active": "active", "trialing": "trialing", "past_due": "active", "cancelled": "cancelled"}
    ids = {status: subscribed(anchor, status=status) for status in expected}
    query = "SELECT to_jsonb(s) FROM subscriptions s WHERE status = 'cancelled'"
    ((former,),) = rows(query)
    migrate("head")

    assert {status: standing(account_id)[0] for status, account_id in ids.items()} == expected
    assert {status: standing(account_id)[5:7] for status, account_id in ids.items()} == dict.fromkeys(
        expected, (None, None)
    )
    # One that is cancelled is left as it was, with the three fields that are new.
    assert rows(query) == [({**former, "next_plan_id": None, "grace_until": None, "renews_at": None},)]
    assert (periods(ids["cancelled"]), standing(ids["cancelled"])[-1]) == ([], None)
    assert [len(periods(ids[status])) for status in ("active", "trialing", "past_due")] == [1, 1, 1]

    at = max(standing(account_id)[-1] for status, account_id in ids.items() if status != "cancelled")
    assert tick(at) == (3, 3)
    assert {status: standing(account_id)[0] for status, account_id in ids.items()} == {
        **dict.fromkeys(expected, "active"), "cancelled": "cancelled",
    }  # fmt: skip
    assert {status: the_account(account_id).balance for status, account_id in ids.items()} == {
        **dict.fromkeys(expected, 500), "cancelled": 0,
    }  # fmt: skip


def test_one_that_was_cancelled_to_the_end_of_its_period_ends_with_the_present_one():
    account_id = subscribed(date(2025, 10, 31), cancel=True)
    migrate("head")

    tick(standing(account_id)[-1])
    assert (standing(account_id)[0], the_account(account_id).balance) == ("cancelled", 0)


def test_a_trial_up_to_its_anchor_stays_one_and_grants_when_it_ends():
    today = now().date()
    anchor = today + 9 * DAY
    account_id = subscribed(anchor, status="trialing", start=today - 5 * DAY, end=anchor)
    migrate("head")

    assert standing(account_id)[:4] == ("trialing", anchor, today - 5 * DAY, anchor)
    assert tick(starts_at(anchor, ZoneInfo("UTC")) - MOMENT) == (0, 0)
    assert tick(starts_at(anchor, ZoneInfo("UTC"))) == (1, 1)
    assert standing(account_id)[:4] == ("active", anchor, anchor, add_months(anchor, 1))


def test_an_anchor_in_the_future_stops_no_migration():
    anchor = now().date() + 50 * DAY
    account_id = subscribed(anchor)
    migrate("head")

    start, end = standing(account_id)[2:4]
    assert start <= now().date() < end
    assert tick(now()) == (0, 0)


def test_the_ledger_of_before_is_left_as_it_was():
    for number in range(3):
        account_id = subscribed(date(2025, 10, 29 + number), credits=100 + number)
    # Nobody's code wrote one of this kind, but the table took it.
    sql(
        "INSERT INTO credit_transactions (account_id, transaction_type, amount, balance_after, description, "
        "idempotency_key, created_at) VALUES (:id, 'subscription', 8, 110, 'By hand', 'by-hand', now())",
        id=account_id,
    )
    sql("UPDATE accounts SET balance = 110 WHERE id = :id", id=account_id)
    query = "SELECT to_jsonb(t) - 'subscription_id' - 'period_start', xmin::text FROM credit_transactions t ORDER BY id"
    accounts_query = "SELECT to_jsonb(a), xmin::text FROM accounts a ORDER BY id"
    ledger, accounts = rows(query), rows(accounts_query)
    assert len(ledger) == 4
    migrate("head")

    assert (rows(query), rows(accounts_query)) == (ledger, accounts)
    assert rows("SELECT DISTINCT subscription_id, period_start FROM credit_transactions") == [(None, None)]
    with transaction() as session:
        assert audit.audit(session, now=now()) == []
    tick(standing(account_id)[-1])
    assert the_account(account_id).balance == 610
    # Whoever writes such a row from now on has to say for which period it is.
    with pytest.raises(IntegrityError, match="subscription_has_period"):
        sql(
            "INSERT INTO credit_transactions (account_id, transaction_type, amount, balance_after, description, "
            "idempotency_key, created_at) VALUES (:id, 'subscription', 8, 618, 'By hand', 'again', now())",
            id=account_id,
        )


def test_the_history_tells_what_the_migration_did():
    first, second = subscribed(date(2025, 10, 31)), subscribed(date(2025, 10, 31), status="past_due")
    ended = subscribed(date(2025, 10, 31), status="cancelled")
    old = rows("SELECT id FROM change_history ORDER BY id DESC LIMIT 1")[0][0]
    migrate("head")

    told = rows(
        "SELECT row_name, action, old ->> 'status', new ->> 'status', new ->> 'current_period_start' "
        "FROM change_history WHERE table_name = 'subscriptions' AND id > :old ORDER BY id",
        old=old,
    )
    start = f"{standing(first)[2]}"
    assert told == [
        (f"{second}", "update", "past_due", "active", "2025-10-31"),
        (f"{first}", "update", "active", "active", start),
        (f"{second}", "update", "active", "active", start),
    ]
    assert f"{ended}" not in {each[0] for each in told}
    # And it still hears of changes.
    with transaction() as session:
        subscriptions.cancel(session, first, now=now())
    assert rows("SELECT new ->> 'cancel_at_period_end' FROM change_history ORDER BY id DESC LIMIT 1") == [("true",)]


def test_the_limits_of_the_present_period_go_on():
    account_id = subscribed(date(2025, 10, 31))
    period = period_containing(date(2025, 10, 31), now(), ZoneInfo("UTC"))
    sql(
        "INSERT INTO plan_limit_usage (account_id, limit_type, period_start, period_end, amount_used) "
        "VALUES (:id, 'content_ideas', :start, :end, 3)",
        id=account_id, start=period.start, end=period.end,
    )  # fmt: skip
    migrate("head")
    tick(now())

    with transaction() as session:
        ((_, allowed, holds, used),) = limits.current(session, account_id, now=now())
        assert (allowed, holds, used.amount_used) == (5, period, 3)


def test_down_and_up_again_keeps_what_was_there():
    ids = [subscribed(date(2025, 10, day), zone=zone) for day in (29, 30, 31) for zone in ZONES[:6]]
    migrate("head")
    query = "SELECT to_jsonb(s) - 'updated_at' FROM subscriptions s ORDER BY id"
    standings = [standing(each) for each in ids]
    all_periods = [periods(each) for each in ids]
    tables = rows(query)

    migrate(BEFORE)
    assert len(rows("SELECT id FROM subscriptions")) == len(ids)
    migrate("head")

    assert ([standing(each) for each in ids], [periods(each) for each in ids]) == (standings, all_periods)
    assert rows(query) == tables


def test_down_and_up_again_after_grants_a_trial_and_a_grace_grants_nothing_twice():
    migrate("head")
    then = now()
    with transaction() as session:
        ids = [an_account(0) for _ in range(3)]
        for account_id, trial_days in zip(ids, (None, 9, None), strict=True):
            subscriptions.subscribe(session, account_id, "starter", trial_days=trial_days, now=then)
        subscriptions.past_due(session, ids[2], now=then)
    ledger = rows("SELECT id, amount, balance_after, idempotency_key FROM credit_transactions ORDER BY id")
    before = [standing(each)[:4] for each in ids]
    assert len(ledger) == 2

    migrate(BEFORE)
    migrate("head")

    assert rows("SELECT id, amount, balance_after, idempotency_key FROM credit_transactions ORDER BY id") == ledger
    assert [standing(each)[:4] for each in ids] == [*before[:2], ("active", *before[2][1:])]
    assert tick(now()) == (0, 0)
    assert [the_account(each).balance for each in ids] == [500, 0, 500]

    assert tick(max(standing(each)[-1] for each in ids)) >= (3, 3)
    assert the_account(ids[0]).balance == 1000
    with transaction() as session:
        assert audit.audit(session, now=now()) == []


def test_a_database_without_subscriptions_is_migrated_too():
    migrate("head")
    # Without such rows of before, the rule holds for the whole ledger.
    assert rows("SELECT count(*) FROM pg_constraint WHERE NOT convalidated") == [(0,)]

    assert rows("SELECT count(*) FROM subscription_periods") == [(0,)]
    assert tick(datetime(2026, 11, 21, tzinfo=UTC)) == (0, 0)
