"""Reserving against real PostgreSQL: what is held, what is rejected and why, and that repeats hold no more."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from billing.jobs import reserving
from config.database import transaction
from tests.catalogue import change
from tests.factories import MINUTE, NOON, a_queued_job, a_subscription, an_account, moment, rows, the_job
from tests.integration.jobs.charging import books, reserve

pytestmark = pytest.mark.usefixtures("db", "the_books_balance")


def test_a_reservation_holds_the_estimate():
    account_id = an_account(1000)
    job_id = a_queued_job(account_id)

    assert reserve(job_id) == [job_id]

    job = the_job(job_id)
    # "bread" and its framing are 25 tokens at most; with 1,000 of output that is 11 credits of 100 tokens.
    assert (job.state, job.credits_reserved, job.credits_estimated) == ("reserved", 11, 11)
    assert books(account_id) == (1000, 11)


def test_the_most_specific_row_decides():
    change("set_operation", "clustering", tokens_per_credit="50")
    change("set_override", "clustering", "gpt-4o", tokens_per_credit="200")
    change("set_override", "clustering", "gpt-5.1", priced_by="cost", markup_percent="150", min_credits="0")
    account_id = an_account(1000)
    jobs = [a_queued_job(account_id, model=model) for model in ("gpt-4o", "gpt-4o-mini", "gpt-5.1")]

    reserve(*jobs)

    told = [(the_job(job).credits_reserved, the_job(job).price.get("row")) for job in jobs]
    # 1,025 tokens at 200 and at 50 a credit; and 25 x $1.25 and 1,000 x $10 a million, times 2.5, at $0.01 a credit.
    assert told == [(6, "clustering on gpt-4o"), (21, "clustering"), (3, "clustering on gpt-5.1")]


def test_reserving_twice_holds_once_and_passes_the_job_on_again():
    account_id = an_account(1000)
    job_id = a_queued_job(account_id)

    assert [reserve(job_id), reserve(job_id)] == [[job_id], [job_id]]
    assert books(account_id) == (1000, 11)


def test_a_job_that_cannot_be_paid_is_rejected_with_its_shortfall_and_holds_nothing():
    account_id = an_account(10)
    job_id = a_queued_job(account_id)

    assert reserve(job_id) == []

    job = the_job(job_id)
    assert (job.state, job.error_code) == ("rejected", "insufficient_credits")
    assert job.error_message == f"Account {account_id} needs 11 credits and has 10 available: 1 short."
    assert books(account_id) == (10, 0)


def test_the_refusal_says_what_is_held_by_open_jobs():
    account_id = an_account(20)
    first, second = a_queued_job(account_id), a_queued_job(account_id)

    assert len(reserve(first, second)) == 1
    (refused,) = [job for job in (the_job(first), the_job(second)) if job.state == "rejected"]
    assert "has 9 available (11 more are held by open jobs): 2 short" in refused.error_message


def test_a_batch_is_served_in_the_order_in_which_it_came():
    account_id = an_account(25)
    jobs = [a_queued_job(account_id, now=NOON + n * MINUTE) for n in range(4)]

    assert sorted(reserve(*reversed(jobs))) == sorted(jobs[:2])
    assert books(account_id) == (25, 22)


def test_check_rejects_what_clearly_cannot_be_paid_and_holds_nothing():
    rich, poor = an_account(1000), an_account(1)
    jobs = a_queued_job(rich), a_queued_job(poor)

    with transaction() as session:
        assert reserving.check(session, jobs, at=moment(session)) == [jobs[0]]

    assert [the_job(job).state for job in jobs] == ["queued", "rejected"]
    assert books(rich) == (1000, 0)


def test_check_sees_a_plan_limit_and_writes_nothing():
    account_id = an_account(10_000)
    a_subscription(account_id, {"content_ideas": 0, "image_prompts": 1})
    refused, fits = a_queued_job(account_id, "idea_generation"), a_queued_job(account_id, "image_prompt_extraction")

    with transaction() as session:
        assert reserving.check(session, [refused, fits], at=moment(session)) == [fits]

    assert the_job(refused).error_code == "plan_limit_reached"
    assert rows("SELECT count(*) FROM plan_limit_usage") == [(0,)]


def test_a_frozen_account_starts_no_new_job():
    account_id = an_account(1000)
    with transaction() as session:
        session.execute(text("UPDATE accounts SET frozen_reason = 'audit' WHERE id = :a"), {"a": account_id})
    job_id = a_queued_job(account_id)

    assert reserve(job_id) == []
    assert the_job(job_id).error_code == "account_frozen"


def test_a_price_that_was_taken_away_rejects_the_job():
    account_id = an_account(1000)
    job_id = a_queued_job(account_id, "image_generation")
    with transaction() as session:
        session.execute(text("DELETE FROM image_prices WHERE model_name = 'dall-e-3'"))

    assert reserve(job_id) == []
    assert the_job(job_id).error_code == "price_not_configured"


def test_a_plan_limit_that_does_not_suffice_rejects_and_holds_no_credits():
    account_id = an_account(10_000)
    a_subscription(account_id, {"content_ideas": 1})
    first, second = (a_queued_job(account_id, "idea_generation", now=NOON + n * MINUTE) for n in range(2))

    assert reserve(first, second) == [first]

    assert the_job(second).error_code == "plan_limit_reached"
    assert books(account_id) == (10_000, the_job(first).credits_reserved)
    assert rows("SELECT amount_used, amount_reserved FROM plan_limit_usage") == [(0, 1)]
