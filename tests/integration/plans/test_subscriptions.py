"""What operators do to subscriptions, and what becomes of it in time."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from billing.errors import BillingError
from billing.money import CREDITS_MAX
from billing.plans import limits
from config.database import transaction
from tests.factories import NOON, an_account, rows, the_account
from tests.subscribers import a_plan, a_subscriber, act, findings, ledger, noon, periods, standing, tick

pytestmark = pytest.mark.usefixtures("db")
DAY = timedelta(days=1)


def test_a_cancelled_subscription_grants_nothing_more_and_limits_nothing():
    a_plan()
    account_id = a_subscriber(anchor=date(2026, 11, 1))
    act("cancel", account_id)

    assert standing(account_id)[0] == "active"
    assert tick(noon("2027-03-01")) == (0, 1)
    assert standing(account_id) == ("cancelled", "2026-11-01", "2026-12-01", True)
    assert the_account(account_id).balance == 500
    with transaction() as session:
        assert limits.of_account(session, account_id, now=noon("2027-03-01")) == []


def test_a_cancellation_can_be_taken_back_until_it_comes():
    a_plan()
    account_id = a_subscriber(anchor=date(2026, 11, 1))
    act("cancel", account_id)
    act("resume", account_id)

    tick(noon("2026-12-01"))
    assert standing(account_id)[:2] == ("active", "2026-12-01")
    act("cancel", account_id, now=noon("2026-12-02"))
    with pytest.raises(BillingError, match="has ended"):
        act("resume", account_id, now=noon("2027-01-01"))


def test_another_plan_at_the_end_of_the_period():
    a_plan()
    a_plan("pro", included_credits="900")
    account_id = a_subscriber(anchor=date(2026, 11, 1))
    act("subscribe", account_id, "pro", at_period_end=True)

    tick(noon("2027-01-01"))

    assert [each[:2] + each[3:4] for each in periods(account_id)] == [
        ("2026-11-01", "starter", 500), ("2026-12-01", "pro", 900), ("2027-01-01", "pro", 900),
    ]  # fmt: skip


def test_another_plan_at_once_grants_with_the_next_period():
    a_plan()
    a_plan("pro", included_credits="900")
    account_id = a_subscriber(anchor=date(2026, 11, 1))
    act("cancel", account_id)
    act("subscribe", account_id, "pro")

    assert the_account(account_id).balance == 500
    tick(noon("2026-12-01"))
    assert the_account(account_id).balance == 1400


def test_a_trial_grants_nothing_until_it_ends():
    a_plan()
    account_id = a_subscriber(trial_days=14)
    assert (standing(account_id)[:3], ledger(account_id)) == (("trialing", "2026-11-20", "2026-12-04"), [])

    tick(noon("2026-12-03"))
    assert ledger(account_id) == []
    tick(noon("2026-12-04"))
    assert ledger(account_id) == [("subscription", 500, 500, "2026-12-04")]
    assert standing(account_id)[:3] == ("active", "2026-12-04", "2027-01-04")


def test_a_period_that_begins_past_due_withholds_its_credits_until_it_is_paid():
    a_plan()
    account_id = a_subscriber(anchor=date(2026, 11, 1))
    act("past_due", account_id, grace_days=30)
    tick(noon("2026-12-01"))

    assert periods(account_id)[-1] == ("2026-12-01", "starter", "past_due", 0, 500, False)
    act("paid", account_id, now=noon("2026-12-05"))
    act("paid", account_id, now=noon("2026-12-05"))
    tick(noon("2026-12-31"))

    assert ledger(account_id)[1:] == [("subscription", 500, 1000, "2026-12-05")]
    assert (standing(account_id)[0], findings()) == ("active", [])


@pytest.mark.parametrize("ticks", [["2026-12-01", "2026-12-20"], ["2026-12-20"]])
def test_a_grace_that_runs_out_ends_the_subscription_and_forfeits_what_was_withheld(ticks):
    a_plan()
    account_id = a_subscriber(anchor=date(2026, 11, 1))
    made = act("past_due", account_id, grace_days=14)
    assert made.grace_until == date(2026, 12, 4)
    assert act("past_due", account_id, grace_days=60, now=NOON + DAY).grace_until == date(2026, 12, 4)

    for day in ticks:
        tick(noon(day))

    assert standing(account_id) == ("cancelled", "2026-12-01", "2027-01-01", True)
    assert periods(account_id)[-1] == ("2026-12-01", "starter", "past_due", 0, 0, False)
    with pytest.raises(BillingError, match="has ended"):
        act("paid", account_id, now=noon("2026-12-20"))
    assert the_account(account_id).balance == 500


def test_who_subscribes_anew_on_the_day_of_a_forfeited_period_begins_it_once_more():
    a_plan()
    a_plan("pro", included_credits="900")
    account_id = a_subscriber(anchor=date(2026, 11, 1))
    act("past_due", account_id, grace_days=30)
    december = noon("2026-12-01")
    tick(december)
    act("cancel", account_id, at_once=True, now=december)

    act("subscribe", account_id, "pro", now=december)

    assert periods(account_id)[-1] == ("2026-12-01", "pro", "active", 900, 0, True)
    assert ledger(account_id)[1:] == [("subscription", 900, 1400, "2026-12-01")]
    assert findings() == []


def test_who_paid_late_cancels_and_comes_back_is_not_granted_the_period_again():
    a_plan()
    account_id = a_subscriber(anchor=date(2026, 11, 1))
    act("past_due", account_id, grace_days=30)
    for action, given in [("paid", {}), ("cancel", {"at_once": True}), ("subscribe", {})]:
        act(action, account_id, *(["starter"] if action == "subscribe" else []), now=noon("2026-12-05"), **given)

    assert ledger(account_id)[1:] == [("subscription", 500, 1000, "2026-12-05")]
    assert standing(account_id)[:3] == ("active", "2026-12-01", "2027-01-01")
    assert findings() == []


def test_who_comes_back_begins_no_period_that_overlaps_one_of_before():
    a_plan()
    account_id = a_subscriber(anchor=date(2026, 11, 1))
    act("cancel", account_id)
    later = noon("2026-12-10")
    tick(later)

    with pytest.raises(BillingError) as refused:
        act("subscribe", account_id, "starter", anchor=date(2026, 10, 25), now=later)
    assert refused.value.code == "periods_overlap"
    act("subscribe", account_id, "starter", anchor=date(2026, 11, 1), now=later)

    assert [each[0] for each in periods(account_id)] == ["2026-11-01", "2026-12-01"]
    assert findings() == []


def test_a_trial_that_was_cancelled_is_no_period_that_could_be_begun_again():
    a_plan()
    account_id = a_subscriber(trial_days=14)
    act("cancel", account_id)
    later = noon("2026-12-09")
    tick(later)

    with pytest.raises(BillingError, match="has had a period from 2026-11-20 up to 2026-12-04") as refused:
        act("subscribe", account_id, "starter", anchor=date(2026, 11, 20), now=later)
    assert refused.value.code == "periods_overlap"
    act("subscribe", account_id, "starter", now=later)

    assert ledger(account_id) == [("subscription", 500, 500, "2026-12-09")]
    assert findings() == []


def test_a_plan_of_another_length_takes_over_when_the_period_ends_or_is_begun_anew():
    a_plan(billing_interval="year")
    a_plan("monthly", included_credits="50")
    account_id = a_subscriber(anchor=date(2026, 1, 1))
    with pytest.raises(BillingError) as refused:
        act("subscribe", account_id, "monthly")
    assert refused.value.code == "other_interval"

    act("cancel", account_id, at_once=True)
    act("subscribe", account_id, "monthly", now=NOON + DAY)
    tick(noon("2026-12-21"))

    assert [each[:2] for each in periods(account_id)] == [
        ("2026-01-01", "starter"),
        ("2026-11-21", "monthly"),
        ("2026-12-21", "monthly"),
    ]
    # The year has granted 1.37 credits a day up to January, and the month includes 1.67, and 1.61, a day.
    assert the_account(account_id).balance == 500 + 8 + 34
    assert findings() == []


def test_whoever_can_hold_no_more_credits_can_cancel_and_pay_all_the_same():
    a_plan()
    account_id = a_subscriber(credits=CREDITS_MAX - 600, anchor=date(2026, 11, 1))
    act("past_due", account_id, grace_days=90)
    december = noon("2026-12-05")
    assert act("paid", account_id, now=december).status == "active"
    assert act("cancel", account_id, now=december).cancel_at_period_end
    assert act("resume", account_id, now=december).status == "active"

    assert the_account(account_id).balance == CREDITS_MAX - 100
    assert periods(account_id)[-1] == ("2026-12-01", "starter", "past_due", 500, 0, False)


def test_without_a_grace_it_ends_at_once():
    a_plan()
    account_id = a_subscriber()

    assert act("past_due", account_id, grace_days=0).status == "cancelled"


def test_who_comes_back_within_a_granted_period_is_not_granted_it_again():
    a_plan()
    account_id = a_subscriber(anchor=date(2026, 11, 1))
    act("cancel", account_id, at_once=True)
    act("subscribe", account_id, "starter", now=NOON + DAY)

    assert standing(account_id)[:3] == ("active", "2026-11-01", "2026-12-01")
    assert the_account(account_id).balance == 500
    act("cancel", account_id, at_once=True, now=NOON + DAY)
    act("subscribe", account_id, "starter", now=noon("2027-02-10"))
    assert standing(account_id)[:3] == ("active", "2027-02-10", "2027-03-10")
    assert the_account(account_id).balance == 1000


def test_who_comes_back_within_a_trial_goes_on_with_it():
    a_plan()
    account_id = a_subscriber(trial_days=14)
    act("cancel", account_id, at_once=True)
    act("subscribe", account_id, "starter", now=NOON + DAY)

    assert standing(account_id)[:3] == ("trialing", "2026-11-20", "2026-12-04")
    assert ledger(account_id) == []


@pytest.mark.parametrize(
    ("action", "given", "code"),
    [
        ("cancel", {}, "not_subscribed"),
        ("resume", {}, "not_subscribed"),
        ("paid", {}, "not_subscribed"),
        ("past_due", {}, "not_subscribed"),
        ("past_due", {"grace_days": -1}, "invalid_grace"),
    ],
)
def test_an_account_without_a_subscription_has_none_to_change(action, given, code):
    account_id = an_account()

    with pytest.raises(BillingError) as caught:
        act(action, account_id, **given)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"trial_days": 0}, "invalid_trial"),
        ({"trial_days": 400}, "invalid_trial"),
        ({"trial_days": 7, "anchor": date(2026, 11, 1)}, "invalid_trial"),
        ({"anchor": date(2026, 11, 21)}, "invalid_anchor"),
        ({"at_period_end": True}, "not_subscribed"),
    ],
)
def test_a_subscription_that_cannot_begin_is_refused(given, code):
    a_plan()

    with pytest.raises(BillingError) as caught:
        a_subscriber(**given)
    assert (caught.value.code, rows("SELECT count(*) FROM subscriptions")) == (code, [(0,)])


def test_a_subscriber_gets_no_trial_and_a_trial_no_failed_payment():
    a_plan()
    subscribed, trying = a_subscriber(), a_subscriber(trial_days=5)

    with pytest.raises(BillingError, match="no trial"):
        act("subscribe", subscribed, "starter", trial_days=5)
    with pytest.raises(BillingError, match="no payment"):
        act("past_due", trying)


def test_what_an_operator_does_acts_on_the_present_even_without_a_tick():
    a_plan()
    account_id = a_subscriber(anchor=date(2026, 11, 1))

    made = act("cancel", account_id, now=noon("2027-01-15"))

    assert (made.current_period_start, made.current_period_end) == (date(2027, 1, 1), date(2027, 2, 1))
    assert the_account(account_id).balance == 1500
