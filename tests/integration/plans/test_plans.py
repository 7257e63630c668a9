"""Plans: their limits as data, subscriptions to them, and what is left in the current period."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal

import pytest

from billing.catalog import history
from billing.errors import BillingError
from billing.jobs import job_queries, reserving, settling
from billing.jobs.states import State
from billing.plans import plans, subscriptions
from config.database import transaction
from tests.factories import NOON, a_generated_job, a_queued_job, a_reserved_job, an_account, moment, rows, the_job

pytestmark = pytest.mark.usefixtures("db")


def set_plan(slug="starter", **fields):
    with transaction() as session:
        history.act_as(session, "anna")
        return plans.set_plan(session, slug, fields)


def subscribe(account_id, slug="starter", *, now=NOON, **given):
    with transaction() as session:
        return subscriptions.subscribe(session, account_id, slug, now=now, **given)


def usage(account_id, *, now=NOON):
    with transaction() as session:
        return [
            (each.limit_type, each.allowed, each.used, each.reserved, each.remaining, each.percentage_used)
            for each in plans.usage(session, account_id, now=now)
        ]


def test_a_plan_is_made_and_changed_field_by_field():
    set_plan(name="Starter", price="29.90", included_credits="500", images_basic="100")
    plan = set_plan(images_basic="120", content_words="50000")

    assert (plan.name, plan.price, plan.included_credits) == ("Starter", Decimal("29.90"), 500)
    assert plan.limits == {"images_basic": 120, "content_words": 50_000}


def test_a_limit_can_be_nothing_at_all_or_be_lifted():
    set_plan(images_premium="0", images_basic="5")

    assert set_plan(images_basic="none").limits == {"images_premium": 0}


def test_a_plans_changes_are_kept_with_their_author():
    set_plan(images_basic="100")
    set_plan(images_basic="120")

    with transaction() as session:
        (newest,) = history.changes(session, history.PLAN, "starter", limit=1).rows
    assert (newest.actor, newest.field, newest.old, newest.new) == (
        "anna", "limits", {"images_basic": 100}, {"images_basic": 120},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"images_basic": "-1"}, "invalid_field"),
        ({"images_basic": "1.5"}, "invalid_field"),
        ({"images_basic": "many"}, "invalid_field"),
        ({"images_basic": "1" * 30}, "invalid_field"),
        ({"images_luxury": "1"}, "unknown_field"),
        ({"price": "-1"}, "invalid_field"),
        ({"price": "NaN"}, "invalid_field"),
        ({"price": "1.999"}, "invalid_field"),
        ({"price": "123456789.00"}, "invalid_field"),
        ({"included_credits": "-5"}, "invalid_field"),
        ({"name": "none"}, "invalid_field"),
        ({"name": "two\nlines"}, "invalid_field"),
        ({"name": "Good", "images_basic": "bad"}, "invalid_field"),
        ({}, "nothing_to_change"),
    ],
)
def test_a_bad_change_is_one_sentence_and_changes_nothing(fields, code):
    set_plan(name="Starter", images_basic="100")
    before = rows("SELECT p::text FROM plans p"), rows("SELECT count(*) FROM change_history")

    with pytest.raises(BillingError) as caught:
        set_plan(**fields)

    assert caught.value.code == code
    assert "\n" not in caught.value.message
    assert (rows("SELECT p::text FROM plans p"), rows("SELECT count(*) FROM change_history")) == before


def test_a_subscriptions_periods_are_counted_from_its_anchor_in_the_accounts_zone():
    set_plan(images_basic="1")
    early = datetime.fromisoformat("2026-11-20T23:30:00+00:00")

    here = subscribe(an_account(time_zone="Asia/Tokyo"), now=early)
    there = subscribe(an_account(), now=early, anchor=date(2026, 8, 31))

    assert (here.anchor_date, here.current_period_end) == (date(2026, 11, 21), date(2026, 12, 21))
    assert (there.current_period_start, there.current_period_end) == (date(2026, 10, 31), date(2026, 11, 30))


@pytest.mark.parametrize(
    ("slug", "anchor", "code"),
    [
        ("nowhere", None, "unknown_plan"),
        ("off", None, "plan_inactive"),
        ("starter", date(2026, 11, 21), "invalid_anchor"),
    ],
)
def test_a_subscription_that_cannot_be_is_refused(slug, anchor, code):
    set_plan(images_basic="1")
    set_plan("off", is_active="no")

    with pytest.raises(BillingError) as caught:
        subscribe(an_account(), slug, anchor=anchor)

    assert caught.value.code == code
    assert rows("SELECT count(*) FROM subscriptions") == [(0,)]


def test_moving_to_another_plan_keeps_the_period_and_what_was_used_in_it():
    account_id = an_account(1000)
    set_plan(content_ideas="1")
    set_plan("pro", content_ideas="3")
    subscribe(account_id, anchor=date(2026, 11, 5))
    a_reserved_job(account_id, "idea_generation")
    second = a_queued_job(account_id, "idea_generation")

    moved = subscribe(account_id, "pro")

    assert moved.anchor_date == date(2026, 11, 5)
    assert usage(account_id) == [("content_ideas", 3, 0, 1, 2, 0)]
    with transaction() as session:
        assert reserving.reserve(session, [second], at=moment(session), publish_by=timedelta(minutes=1)).job_ids == [
            second
        ]
    with pytest.raises(BillingError, match="since 2026-11-05"):
        subscribe(account_id, "pro", anchor=date(2026, 11, 6))


def test_the_usage_of_a_plan_is_what_jobs_used_and_hold():
    account_id = an_account(1000)
    set_plan(content_ideas="4", images_basic="10", images_premium="none")
    subscribe(account_id)
    assert usage(account_id) == [("content_ideas", 4, 0, 0, 4, 0), ("images_basic", 10, 0, 0, 10, 0)]

    done = a_generated_job(account_id, "idea_generation")
    with transaction() as session:
        settling.settle(session, [done], now=NOON)
    a_reserved_job(account_id, "image_generation", params={"prompt": "dogs", "n": 3})

    assert usage(account_id) == [("content_ideas", 4, 1, 0, 3, 25), ("images_basic", 10, 0, 3, 7, 0)]
    assert usage(account_id, now=NOON + timedelta(days=31))[0] == ("content_ideas", 4, 0, 0, 4, 0)


def test_a_limit_that_was_lowered_below_what_is_used_refuses_and_still_releases():
    account_id = an_account(1000)
    set_plan(content_ideas="2")
    subscribe(account_id)
    held = a_reserved_job(account_id, "idea_generation")
    set_plan(content_ideas="0")
    late = a_queued_job(account_id, "idea_generation")

    with transaction() as session:
        assert reserving.reserve(session, [late], at=moment(session), publish_by=timedelta(minutes=1)).job_ids == []
        jobs = job_queries.lock(session, [held], {State.RESERVED})
        settling.release(session, jobs, {held: settling.Release("gone", "gone")}, now=NOON)

    assert the_job(late).error_code == "plan_limit_reached"
    assert usage(account_id) == [("content_ideas", 0, 0, 0, 0, 0)]


def test_an_account_without_a_plan_has_no_limits():
    assert usage(an_account()) == []
