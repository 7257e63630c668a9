"""Single guards of plans and their limits, one test each: what the database refuses, and what no job may hold."""

from __future__ import annotations

from datetime import date

import pytest

from billing.jobs import reserving
from billing.plans import limits
from config.database import transaction
from tests.catalogue import sql
from tests.factories import (
    MINUTE,
    a_queued_job,
    a_reserved_job,
    a_subscription,
    an_account,
    moment,
    the_account,
    the_job,
)
from tests.guarding import assert_refused

pytestmark = pytest.mark.usefixtures("db")

REFUSED = [
    ("INSERT INTO plan_limit_usage (account_id, limit_type, period_start, period_end) "
     "SELECT account_id, limit_type, period_start, period_end FROM plan_limit_usage",
                                                         "uq_plan_limit_usage_account_id_limit_type_period_start"),
    ("UPDATE plan_limit_usage SET amount_used = -1",                     "ck_plan_limit_usage_not_negative"),
    ("UPDATE plan_limit_usage SET amount_reserved = -1",                 "ck_plan_limit_usage_not_negative"),
    ("UPDATE plan_limit_usage SET period_end = period_start",            "ck_plan_limit_usage_period"),
    ("UPDATE plans SET included_credits = -1",                           "ck_plans_amounts"),
    ("UPDATE plans SET price = -1",                                      "ck_plans_amounts"),
    ("UPDATE plans SET limits = '{\"content_ideas\": -1}'",              "ck_plans_limits_are_whole_numbers"),
    ("INSERT INTO plans (slug, name) SELECT slug, name FROM plans",      "uq_plans_slug"),
    ("UPDATE subscriptions SET status = 'canceled'",                     "ck_subscriptions_status"),
    ("UPDATE subscriptions SET current_period_end = current_period_start", "ck_subscriptions_period"),
    ("INSERT INTO subscriptions (account_id, plan_id, anchor_date, current_period_start, current_period_end, "
     "renews_at) SELECT account_id, plan_id, anchor_date, current_period_start, current_period_end, renews_at "
     "FROM subscriptions",                                               "uq_subscriptions_account_id"),
    ("UPDATE plans SET billing_interval = 'week'",                       "ck_plans_billing_interval"),
    ("UPDATE subscriptions SET status = 'past_due'",                     "ck_subscriptions_past_due_has_grace"),
    ("UPDATE subscriptions SET grace_until = current_period_end",        "ck_subscriptions_past_due_has_grace"),
    ("UPDATE subscriptions SET status = 'cancelled'",                    "ck_subscriptions_live_renews"),
    ("UPDATE subscriptions SET renews_at = NULL",                        "ck_subscriptions_live_renews"),
    ("UPDATE subscription_periods SET period_end = period_start",        "ck_subscription_periods_period"),
    ("UPDATE subscription_periods SET status = 'cancelled'",             "ck_subscription_periods_status"),
    ("UPDATE subscription_periods SET credits = -1",                     "ck_subscription_periods_not_negative"),
    ("UPDATE subscription_periods SET credits_withheld = -1",            "ck_subscription_periods_not_negative"),
    ("UPDATE subscription_periods SET granted = true",                   "ck_subscription_periods_grants_something"),
    ("UPDATE subscription_periods SET credits = included_credits + 1",   "ck_subscription_periods_within_included"),
    ("INSERT INTO subscription_periods (subscription_id, period_start, period_end, plan_id, status, starts_at, "
     "credits) SELECT subscription_id, period_start, period_end, plan_id, status, starts_at, credits "
     "FROM subscription_periods",
                                                                         "pk_subscription_periods"),
]  # fmt: skip


@pytest.mark.usefixtures("books")
@pytest.mark.parametrize("rule", dict.fromkeys(rule for _, rule in REFUSED))
def test_the_database_refuses_it_by_itself(rule):
    assert_refused(REFUSED, rule)


def test_a_cancelled_subscription_limits_nothing():
    account_id = an_account(1000)
    a_subscription(account_id, {"content_ideas": 0})
    sql("UPDATE subscriptions SET status = 'cancelled', renews_at = NULL")

    job = the_job(a_reserved_job(account_id, "idea_generation"))

    assert (job.state, job.limit_period_start) == ("reserved", None)


def test_units_that_open_jobs_hold_are_not_given_away_again():
    account_id = an_account(1000)
    a_subscription(account_id, {"content_ideas": 1})
    a_reserved_job(account_id, "idea_generation")
    second = a_queued_job(account_id, "idea_generation")

    with transaction() as session:
        assert reserving.reserve(session, [second], at=moment(session), publish_by=MINUTE).job_ids == []

    assert the_job(second).error_code == "plan_limit_reached"


def test_a_batch_cannot_hold_more_units_than_are_left():
    account_id = an_account(1000)
    a_subscription(account_id, {"content_ideas": 1})
    jobs = [a_queued_job(account_id, "idea_generation") for _ in range(3)]

    with transaction() as session:
        assert len(reserving.reserve(session, jobs, at=moment(session), publish_by=MINUTE).job_ids) == 1


def test_a_decision_from_a_stale_count_of_units_is_refused_by_the_books(monkeypatch):
    account_id = an_account(1000)
    a_subscription(account_id, {"content_ideas": 1})
    a_reserved_job(account_id, "idea_generation")
    job_id = a_queued_job(account_id, "idea_generation")
    stale = limits.Allowance("content_ideas", date(2026, 11, 1), allowed=1, remaining=1)
    monkeypatch.setattr(
        reserving.limits,
        "entitlements",
        lambda *_, **__: limits.Entitlements({(account_id, "content_ideas"): stale}, frozenset()),
    )

    with pytest.raises(AssertionError, match="counted"), transaction() as session:
        reserving.reserve(session, [job_id], at=moment(session), publish_by=MINUTE)

    assert (the_job(job_id).state, the_account(account_id).reserved) == ("queued", 11)
