"""An account that hops between plans is granted credits for each day once, whatever it does and in whatever order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from billing.errors import BillingError
from billing.plans import plans, renewals, subscriptions
from billing.reports import audit, forecast
from config.database import transaction
from tests.factories import an_account, rows

pytestmark = pytest.mark.usefixtures("db")

START = datetime(2026, 11, 1, 12, tzinfo=UTC)
INCLUDED = {"monthly": 1_000, "yearly": 36_500}


@pytest.fixture(autouse=True)
def two_plans(db):
    with transaction() as session:
        for slug, interval in (("monthly", "month"), ("yearly", "year")):
            credits = str(INCLUDED[slug])
            terms = {"name": slug.title(), "billing_interval": interval, "included_credits": credits}
            plans.set_plan(session, slug, terms)


def subscribe(account_id: int, slug: str, *, day: int) -> None:
    with transaction() as session:
        subscriptions.subscribe(session, account_id, slug, now=START + timedelta(days=day))


def cancel(account_id: int, *, day: int) -> None:
    with transaction() as session:
        subscriptions.cancel(session, account_id, at_once=True, now=START + timedelta(days=day))


def granted() -> list[int]:
    return [credits for (credits,) in rows("SELECT credits FROM subscription_periods ORDER BY period_start")]


def overlapping() -> list[str]:
    with transaction() as session:
        return [found.rule for found in audit.audit(session, now=START) if found.rule == "no_day_is_granted_twice"]


def test_hopping_between_plans_grants_each_day_once():
    account_id = an_account(0)
    for day, slug in enumerate(["yearly", "monthly", "yearly", "monthly", "yearly"]):
        subscribe(account_id, slug, day=day)
        cancel(account_id, day=day)

    # A month inside the year grants nothing; a year that begins two days later grants for two days more.
    assert granted() == [36_500, 0, 200, 0, 200]
    assert rows("SELECT balance FROM accounts") == [(36_900,)]
    assert overlapping() == []


def test_a_longer_plan_grants_for_the_days_behind_the_shorter_one():
    account_id = an_account(0)
    subscribe(account_id, "monthly", day=0)
    cancel(account_id, day=10)
    subscribe(account_id, "yearly", day=10)

    # November's 20 other days were granted by the month, at 33.3 of the year's 100 credits a day.
    assert granted() == [1_000, 345 * 100 + 20 * 100 - 667]


def test_a_larger_plan_within_a_smaller_one_grants_what_it_includes_beyond_it():
    with transaction() as session:
        terms = {"name": "Free", "billing_interval": "year", "included_credits": "365"}
        plans.set_plan(session, "free", terms)
    account_id = an_account(0)
    subscribe(account_id, "free", day=0)
    cancel(account_id, day=1)
    subscribe(account_id, "monthly", day=1)

    assert granted() == [365, 1_000 - 30]
    assert overlapping() == []


def test_a_renewal_grants_all_again_when_nothing_covers_it_any_more():
    account_id = an_account(0)
    subscribe(account_id, "monthly", day=0)
    with transaction() as session:
        renewals.renew(session, START + timedelta(days=31), renewals.Worked())

    assert granted() == [1_000, 1_000]


def test_what_is_simulated_is_what_happens():
    account_id = an_account(0)
    subscribe(account_id, "yearly", day=0)
    cancel(account_id, day=0)
    subscribe(account_id, "monthly", day=340)
    with transaction() as session:
        expected = forecast.simulate(session, account_id, months=3, now=START + timedelta(days=340))
    worked = renewals.Worked()
    until = START + timedelta(days=340 + 95)
    while True:
        with transaction() as session:
            if not renewals.renew(session, until, worked):
                break

    # From 2027-10-07: 5 of the month's 31 days lie behind the year, and all days of the months after it.
    assert granted()[:4] == [36_500, 1_000 * 6 // 31, 1_000, 1_000]
    assert [each.credits_granted for each in expected] == granted()[2 : 2 + len(expected)]


def test_the_audit_finds_a_period_that_grants_days_twice():
    account_id = an_account(0)
    subscribe(account_id, "yearly", day=0)
    cancel(account_id, day=1)
    subscribe(account_id, "monthly", day=1)
    assert overlapping() == []

    with transaction() as session:
        session.execute(text("UPDATE subscription_periods SET credits = 1 WHERE credits = 0"))

    assert overlapping() == ["no_day_is_granted_twice"]


def test_a_second_trial_is_given_only_to_whom_it_is_meant_for():
    account_id = an_account(0)

    def try_out(day: int, *, another: bool = False) -> None:
        with transaction() as session:
            now = START + timedelta(days=day)
            subscriptions.subscribe(session, account_id, "monthly", trial_days=7, another_trial=another, now=now)

    try_out(0)
    cancel(account_id, day=3)
    with pytest.raises(BillingError) as refused:
        try_out(30)
    assert refused.value.code == "trial_used"
    assert rows("SELECT count(*) FROM subscription_periods") == [(1,)]

    try_out(30, another=True)
    assert rows("SELECT status FROM subscription_periods ORDER BY period_start") == [("trialing",), ("trialing",)]
