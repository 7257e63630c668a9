"""What a simulation says, of what it says nothing, and that it writes nothing."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from billing.errors import BillingError
from billing.jobs import recovery
from billing.jobs.recovery import Patience, Recovered
from billing.money import CREDITS_MAX
from billing.periods import add_months, starts_at
from billing.reports import forecast
from billing.reports.forecast import Expected
from config.database import transaction
from tests.catalogue import everything, sql
from tests.factories import HOUR, MINUTE, NOON, a_claim, a_queued_job, a_reserved_job, an_account, the_account
from tests.integration.reports.forecasts import DAY, HALF, a_full_account, account_zone, simulate
from tests.subscribers import a_plan, a_subscriber, act, reset_limits, tick

pytestmark = pytest.mark.usefixtures("db")


def short(expected):
    return [(f"{each.day}", each.event, each.credits_granted, each.balance) for each in expected]


# --- What it says ---


def test_renewals_are_told_with_their_days_credits_and_limits():
    a_plan(images_basic="20", image_prompts="none")
    account_id = a_subscriber(credits=100, anchor=date(2026, 8, 31), time_zone="Europe/Berlin")

    first, second, third = simulate(account_id)

    assert first == Expected(
        at=datetime(2026, 11, 29, 23, tzinfo=UTC),
        day=date(2026, 11, 30),
        event="renewal",
        plan="starter",
        period_end=date(2026, 12, 31),
        credits_granted=500,
        credits_withheld=0,
        credits_released=0,
        balance=1100,
        available=1100,
        limits={"content_ideas": 5, "images_basic": 20},
    )
    assert [(each.day, each.balance) for each in (second, third)] == [
        (date(2026, 12, 31), 1600), (date(2027, 1, 31), 2100),
    ]  # fmt: skip


def test_the_last_day_is_part_of_the_span():
    a_plan()
    account_id = a_subscriber()

    assert short(simulate(account_id, months=1)) == [("2026-12-20", "renewal", 500, 1000)]
    assert [each.day for each in simulate(account_id, months=1, now=NOON - DAY)] == []


def test_a_trial_a_move_and_an_end_have_their_names():
    a_plan()
    a_plan("pro", included_credits="900", billing_interval="year")
    account_id = a_subscriber(trial_days=14)
    assert short(simulate(account_id, months=1)) == [("2026-12-04", "trial_end", 500, 500)]

    act("subscribe", account_id, "pro", now=NOON + 15 * DAY, at_period_end=True)
    told = simulate(account_id, months=14, now=NOON + 15 * DAY)
    assert short(told) == [("2027-01-04", "plan_change", 900, 1400), ("2028-01-04", "renewal", 900, 2300)]
    assert {each.plan for each in told} == {"pro"}

    act("cancel", account_id, now=NOON + 15 * DAY)
    (end,) = simulate(account_id, months=14, now=NOON + 15 * DAY)
    assert short([end]) == [("2027-01-04", "end", 0, 500)]
    assert (end.plan, end.period_end, end.limits) == ("starter", None, {})


def test_what_is_withheld_is_told_and_not_in_the_balance():
    a_plan()
    account_id = a_subscriber(anchor=date(2026, 11, 1))
    act("past_due", account_id, grace_days=30)

    renewal, end = simulate(account_id)

    assert short([renewal]) == [("2026-12-01", "renewal", 0, 500)]
    assert (renewal.credits_withheld, end.credits_withheld) == (500, 0)
    assert (end.event, end.day, end.balance) == ("end", date(2026, 12, 20), 500)


def test_what_is_overdue_is_told_first():
    a_plan()
    account_id = a_subscriber(anchor=date(2026, 11, 1))

    told = simulate(account_id, months=1, now=NOON + 45 * DAY)

    assert short(told) == [
        ("2026-12-01", "renewal", 500, 1000),
        ("2027-01-01", "renewal", 500, 1500),
        ("2027-02-01", "renewal", 500, 2000),
    ]  # fmt: skip


def test_credits_of_a_period_that_has_begun_and_was_not_granted_are_told():
    a_plan()
    account_id = a_subscriber(anchor=date(2026, 11, 1))
    december = NOON + 11 * DAY
    # The tasks for limits and for credits run apart: this is the moment between them.
    reset_limits(december)

    told = simulate(account_id, months=1, now=december)

    assert short(told) == [("2026-12-01", "grant", 500, 1000), ("2027-01-01", "renewal", 500, 1500)]
    assert (told[0].plan, told[0].period_end, told[0].limits) == ("starter", date(2027, 1, 1), {})


def test_an_account_that_can_hold_no_more_is_granted_nothing_from_then_on():
    a_plan(included_credits=str(HALF))
    account_id = a_subscriber()

    told = short(simulate(account_id, months=2))

    assert told == [("2026-12-20", "renewal", 0, HALF), ("2027-01-20", "renewal", 0, HALF)]
    tick(NOON + 70 * DAY)
    assert the_account(account_id).balance == HALF


def test_an_account_may_be_filled_to_the_last_credit():
    a_plan()
    account_id = a_subscriber()
    sql("UPDATE accounts SET balance = :balance", balance=CREDITS_MAX - 500)

    told = short(simulate(account_id, months=2))

    assert [each[2:] for each in told] == [(500, CREDITS_MAX), (0, CREDITS_MAX)]
    tick(NOON + 31 * DAY)
    assert the_account(account_id).balance == CREDITS_MAX


def test_a_grant_that_an_account_cannot_hold_keeps_a_smaller_one_back():
    a_plan()
    a_plan("small", included_credits="7")
    account_id = a_subscriber(anchor=date(2026, 11, 1))
    sql("UPDATE accounts SET balance = :balance", balance=CREDITS_MAX - 100)
    december, january = NOON + 11 * DAY, NOON + 43 * DAY
    reset_limits(december)
    sql("UPDATE subscriptions SET next_plan_id = (SELECT id FROM plans WHERE slug = 'small')")

    told = simulate(account_id, months=1, now=december)

    assert [(each.event, each.credits_granted) for each in told] == [("grant", 0), ("plan_change", 0)]
    tick(january)
    assert the_account(account_id).balance == CREDITS_MAX - 100


# --- Holds ---


def test_a_hold_expires_at_its_deadline_as_it_then_does():
    account_id = an_account(100)
    a_reserved_job(account_id)
    a_reserved_job(account_id)
    a_reserved_job(account_id, now=NOON + 20 * MINUTE)

    told = simulate(account_id, months=1)

    assert [(each.at, each.event, each.credits_released, each.balance, each.available) for each in told] == [
        (NOON + HOUR, "expiry", 22, 100, 89),
        (NOON + HOUR + 20 * MINUTE, "expiry", 11, 100, 100),
    ]
    assert {(each.plan, each.period_end, each.credits_granted) for each in told} == {(None, None, 0)}
    recover(NOON + HOUR / 2)
    assert the_account(account_id).available == 67
    for each in told:
        recover(each.at)
        assert the_account(account_id).available == each.available


def test_only_holds_of_this_account_that_wait_for_their_call_expire():
    account_id, other = an_account(100), an_account(100)
    a_reserved_job(other)
    a_claim(a_reserved_job(account_id))
    a_queued_job(account_id)

    assert simulate(account_id) == []


def test_holds_and_renewals_are_told_in_the_order_of_time():
    a_plan()
    account_id = a_subscriber(credits=100, anchor=date(2026, 10, 21))
    midnight = starts_at(date(2026, 11, 21), account_zone())
    for at in (midnight - MINUTE, midnight - HOUR - MINUTE):
        a_reserved_job(account_id, now=at)

    told = simulate(account_id, months=1)

    assert [(each.event, each.balance, each.available) for each in told] == [
        ("expiry", 600, 589), ("renewal", 1100, 1089), ("expiry", 1100, 1100),
    ]  # fmt: skip


def recover(now):
    patience = Patience(republish_after=MINUTE, unknown_wait=MINUTE)
    for state in recovery.states():
        with transaction() as session:
            recovery.recover(session, state, Recovered(), now=now, patience=patience)


# --- What it cannot say ---


@pytest.mark.parametrize("months", [0, -1, 1_201, 10**30])
def test_months_out_of_range_are_refused(months):
    account_id = an_account()

    with pytest.raises(BillingError) as caught:
        simulate(account_id, months=months)
    assert caught.value.code == "invalid_months"


@pytest.mark.parametrize("account_id", [77, 0, -1, 2**63])
def test_an_unknown_account_is_refused(account_id):
    with pytest.raises(BillingError) as caught:
        simulate(account_id)
    assert caught.value.code == "unknown_account"


def test_nothing_happens_to_an_account_without_a_subscription_or_with_one_that_has_ended():
    a_plan()
    ended = a_subscriber()
    act("cancel", ended, at_once=True)

    assert (simulate(an_account()), simulate(ended, months=1_200)) == ([], [])


def test_a_century_is_told_to_its_last_month():
    a_plan()
    account_id = a_subscriber(anchor=date(2026, 10, 31))

    told = simulate(account_id, months=1_200)

    assert [each.day for each in told] == [add_months(date(2026, 10, 31), n) for n in range(1, 1_201)]
    assert told[-1].balance == 500 * 1_201


def test_a_frozen_account_renews_all_the_same():
    a_plan()
    account_id = a_subscriber()
    before = simulate(account_id)
    sql("UPDATE accounts SET frozen_reason = 'chargeback'")

    assert simulate(account_id) == before
    tick(NOON + 31 * DAY)
    assert the_account(account_id).balance == before[0].balance


# --- It writes nothing ---


def test_a_simulation_writes_nothing_even_where_it_could():
    account_id = a_full_account()
    before = everything()

    with transaction() as session:
        told = forecast.simulate(session, account_id, months=24, now=NOON + 40 * DAY)
        assert not session.new
        assert not session.dirty

    assert {each.event for each in told} == {"plan_change", "end", "expiry"}
    assert everything() == before
