"""What time makes of a subscription: renewals, trials, grace, cancellation, and the plan that takes over."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime
from zoneinfo import ZoneInfo

import pytest

from billing.periods import Interval, Period
from billing.plans.lifecycle import Standing, Status, Terms, as_of, turns

UTC = ZoneInfo("UTC")
MONTHLY, YEARLY = Terms(1, Interval.MONTH), Terms(2, Interval.YEAR)


def day(iso):
    return date.fromisoformat(iso)


def period(start, end):
    return Period(day(start), day(end))


JANUARY = Standing(Status.ACTIVE, MONTHLY, day("2026-01-31"), period("2026-01-31", "2026-02-28"))


def at(iso):
    return datetime.fromisoformat(iso).replace(tzinfo=UTC)


def told(standing, until, zone=UTC):
    """Each turn as (day, status, plan, period)."""
    return [
        (f"{when:%m-%d}", str(then.status), then.terms.plan_id, f"{then.period.start:%m-%d}..{then.period.end:%m-%d}")
        for when, then in turns(standing, at(until), zone)
    ]


def test_a_subscription_renews_from_its_anchor():
    assert told(JANUARY, "2026-05-31") == [
        ("02-28", "active", 1, "02-28..03-31"),
        ("03-31", "active", 1, "03-31..04-30"),
        ("04-30", "active", 1, "04-30..05-31"),
        ("05-31", "active", 1, "05-31..06-30"),
    ]


def test_a_cancelled_one_ends_with_its_period_and_stays_ended():
    ending = replace(JANUARY, cancel_at_period_end=True)

    assert told(ending, "2027-01-01") == [("02-28", "cancelled", 1, "01-31..02-28")]
    assert as_of(ending, at("2026-02-27T23:59:59"), UTC).status is Status.ACTIVE
    assert as_of(ending, at("2026-02-28"), UTC).status is Status.CANCELLED
    assert as_of(ending, at("2026-02-28"), UTC).next_turn is None


def test_another_plan_takes_over_with_the_next_period_and_keeps_the_anchors_day():
    assert told(replace(JANUARY, next_terms=YEARLY), "2028-03-01") == [
        ("02-28", "active", 2, "02-28..02-28"),
        ("02-28", "active", 2, "02-28..02-29"),
        ("02-29", "active", 2, "02-29..02-28"),
    ]


def test_a_yearly_one_may_become_monthly():
    yearly = Standing(Status.ACTIVE, YEARLY, day("2024-02-29"), period("2025-02-28", "2026-02-28"), next_terms=MONTHLY)

    assert told(yearly, "2026-04-01") == [
        ("02-28", "active", 1, "02-28..03-29"),
        ("03-29", "active", 1, "03-29..04-29"),
    ]


def test_a_trial_ends_at_the_anchor():
    trial = Standing(Status.TRIALING, MONTHLY, day("2026-01-31"), period("2026-01-17", "2026-01-31"))

    assert told(trial, "2026-03-01") == [
        ("01-31", "active", 1, "01-31..02-28"),
        ("02-28", "active", 1, "02-28..03-31"),
    ]
    assert told(replace(trial, cancel_at_period_end=True), "2026-03-01") == [("01-31", "cancelled", 1, "01-17..01-31")]


@pytest.mark.parametrize(
    ("grace_until", "turned", "rule"),
    [
        ("2026-02-10", [("02-10", "cancelled", 1, "01-31..02-28")], "within the period"),
        ("2026-02-28", [("02-28", "cancelled", 1, "01-31..02-28")], "with the period: no new one begins"),
        ("2026-03-05", [("02-28", "past_due", 1, "02-28..03-31"), ("03-05", "cancelled", 1, "02-28..03-31")], "after"),
    ],
)
def test_a_grace_ends_a_subscription_that_did_not_pay(grace_until, turned, rule):
    unpaid = replace(JANUARY, status=Status.PAST_DUE, grace_until=day(grace_until))

    assert told(unpaid, "2026-12-31") == turned, rule


def test_a_turn_comes_at_the_accounts_own_midnight():
    auckland = ZoneInfo("Pacific/Auckland")

    (when, _), *_ = turns(JANUARY, at("2026-03-01"), auckland)

    assert when == datetime(2026, 2, 28, tzinfo=auckland)
    assert as_of(JANUARY, when, auckland).period == period("2026-02-28", "2026-03-31")


def test_a_turn_at_a_time_is_the_same_as_all_of_them_at_once():
    step, hourly = JANUARY, []
    for month in range(2, 13):
        for when, step in turns(step, at(f"2026-{month:02}-28"), UTC):  # noqa: B020 - each goes on from the last
            hourly.append((when, step))

    assert hourly == list(turns(JANUARY, at("2026-12-28"), UTC))
