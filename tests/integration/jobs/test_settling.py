"""Settling and refunding against real PostgreSQL: what is charged and given back, and that repeats change nothing."""

from __future__ import annotations

from decimal import Decimal

import pytest
from sqlalchemy import text

from billing.catalog.usage import Usage
from billing.jobs.policy import Failure, Verdict
from config.database import transaction
from tests.factories import (
    a_claim,
    a_generated_job,
    a_queued_job,
    a_reserved_job,
    a_subscription,
    an_account,
    rows,
    the_job,
)
from tests.integration.jobs.charging import books, fail, ledger, refund, settle

pytestmark = pytest.mark.usefixtures("db", "the_books_balance")


def test_settling_charges_the_usage_and_releases_the_rest():
    account_id = an_account(1000)
    job_id = a_generated_job(account_id, usage=Usage(input_tokens=100, output_tokens=401))

    assert settle(job_id) == [job_id]

    job = the_job(job_id)
    assert (job.state, job.credits_charged, job.credits_overrun) == ("settled", 6, 0)
    assert books(account_id) == (994, 0)
    assert ledger(account_id) == [("purchase", 1000, 1000), ("deduction", -6, 994)]


def test_settling_twice_charges_once():
    account_id = an_account(1000)
    job_id = a_generated_job(account_id)

    assert [settle(job_id), settle(job_id)] == [[job_id], []]
    assert books(account_id) == (995, 0)


def test_a_usage_log_keeps_tokens_cost_and_revenue():
    account_id = an_account(1000)
    usage = Usage(input_tokens=100, cached_input_tokens=50, output_tokens=200, reasoning_tokens=50)
    job_id = a_generated_job(
        account_id, usage=usage, params={"prompt": "x", "related_object_type": "task", "related_object_id": 7}
    )

    settle(job_id)

    logged = rows(
        "SELECT credits_used, tokens_input, tokens_input_cached, tokens_output, tokens_reasoning, images, cost_usd, "
        "revenue_usd, model_used, related_object_type, related_object_id FROM credit_usage_logs"
    )
    # gpt-5.1: 100 x 1.25 + 50 x 0.125 + 250 x 10 dollars per million tokens.
    assert logged == [(4, 100, 50, 200, 50, 0, Decimal("0.0026312500"), Decimal("0.0400000000"), "gpt-5.1", "task", 7)]


def test_images_are_charged_as_delivered_and_cost_what_was_delivered():
    account_id = an_account(1000)
    params = {"prompt": "a fox", "n": 4, "size": "1024x1792", "quality": "hd"}
    job_id = a_generated_job(account_id, "image_generation", params=params, usage=Usage(images=3))
    assert books(account_id) == (1000, 60)

    settle(job_id)

    assert books(account_id) == (955, 0)
    assert the_job(job_id).cost_usd == Decimal("0.36")


def test_usage_beyond_the_reservation_is_the_platforms_loss():
    account_id = an_account(1000)
    job_id = a_generated_job(account_id, usage=Usage(output_tokens=5000))

    settle(job_id)

    job = the_job(job_id)
    assert (job.credits_reserved, job.credits_charged, job.credits_overrun) == (11, 11, 39)
    assert books(account_id) == (989, 0)


def test_a_later_price_change_does_not_touch_a_reserved_job():
    account_id = an_account(1000)
    job_id = a_generated_job(account_id)
    with transaction() as session:
        session.execute(text("UPDATE credit_cost_config SET tokens_per_credit = 1, min_credits = 500"))

    settle(job_id)

    assert the_job(job_id).credits_charged == 5


@pytest.mark.parametrize("failure", [Failure.CONTENT_POLICY, Failure.BAD_REQUEST, Failure.BAD_CREDENTIALS])
def test_a_refusal_is_refunded_in_full_and_charged_nothing(failure):
    account_id = an_account(1000)
    job_id = a_reserved_job(account_id)

    assert fail(a_claim(job_id), failure) is Verdict.REFUND
    assert [refund(job_id), refund(job_id)] == [[job_id], []]

    job = the_job(job_id)
    assert (job.state, job.error_code, job.credits_charged) == ("refunded", failure.value, None)
    assert books(account_id) == (1000, 0)
    assert ledger(account_id) == [("purchase", 1000, 1000)]


@pytest.mark.parametrize("state", ["queued", "reserved", "calling", "generated", "settled"])
def test_refund_leaves_every_job_without_a_verdict_alone(state):
    account_id = an_account(1000)
    make = {"queued": a_queued_job, "reserved": a_reserved_job, "calling": a_reserved_job}.get(state, a_generated_job)
    job_id = make(account_id)
    if state == "calling":
        a_claim(job_id)
    if state == "settled":
        settle(job_id)
    before = books(account_id)

    assert refund(job_id) == []
    assert (the_job(job_id).state, books(account_id)) == (state, before)


@pytest.mark.parametrize("state", ["queued", "reserved"])
def test_settle_leaves_a_job_that_was_not_generated_alone(state):
    account_id = an_account(1000)
    job_id = {"queued": a_queued_job, "reserved": a_reserved_job}[state](account_id)

    assert settle(job_id) == []
    assert the_job(job_id).state == state


def test_a_plan_limit_is_held_used_and_released_with_the_credits():
    account_id = an_account(10_000)
    a_subscription(account_id, {"content_words": 1000})
    params = {"prompt": "An article.", "max_output_tokens": 800}
    used = a_generated_job(account_id, "content_generation", params=params)
    with transaction() as session:
        session.execute(text('UPDATE generation_results SET content = \'{"text": "one two ภาษาไทย"}\''))
    refunded = a_reserved_job(account_id, "content_generation", params={"prompt": "Two.", "max_output_tokens": 400})

    assert rows("SELECT amount_used, amount_reserved FROM plan_limit_usage") == [(0, 900)]
    settle(used)
    fail(a_claim(refunded), Failure.CONTENT_POLICY)
    refund(refunded)
    assert rows("SELECT limit_type, amount_used, amount_reserved, period_start::text FROM plan_limit_usage") == [
        ("content_words", 4, 0, "2026-11-01")
    ]
