"""Claims and calls against real PostgreSQL: who may call, what a call cost, and what comes late."""

from __future__ import annotations

from decimal import Decimal

import pytest

from billing.catalog.usage import Usage
from billing.jobs import calling, settling, unknown_calls
from billing.jobs.policy import Failure, Verdict
from config.database import transaction
from tests.factories import MINUTE, NOON, a_claim, a_delivery, a_reserved_job, an_account, moment, rows, the_job
from tests.integration.jobs.charging import books, fail, refund

pytestmark = pytest.mark.usefixtures("db", "the_books_balance")


def test_a_refusal_after_paid_work_is_counted_as_the_platforms_cost():
    account_id = an_account(1000)
    job_id = a_reserved_job(account_id)

    fail(a_claim(job_id), Failure.CONTENT_POLICY, usage=Usage(output_tokens=100))
    refund(job_id)

    assert the_job(job_id).cost_usd == Decimal("0.001")
    assert rows("SELECT outcome, exposure, cost_usd FROM provider_calls") == [
        ("failed", False, Decimal("0.0010000000"))
    ]


def test_a_refusal_after_paid_work_that_is_recorded_twice_is_counted_once():
    job_id = a_reserved_job(an_account(1000))
    claim = a_claim(job_id)

    for _ in range(2):
        fail(claim, Failure.CONTENT_POLICY, usage=Usage(output_tokens=100))

    assert the_job(job_id).cost_usd == Decimal("0.001")
    assert rows("SELECT sum(cost_usd) FROM provider_calls") == [(Decimal("0.001"),)]


def test_a_late_refusal_after_paid_work_takes_the_place_of_the_guess():
    job_id = a_reserved_job(an_account(1000))
    claim = a_claim(job_id)
    fail(claim, Failure.TIMED_OUT)
    with transaction() as session:
        unknown_calls.expose(session, the_job(job_id))

    fail(claim, Failure.CONTENT_POLICY, usage=Usage(output_tokens=100))

    assert the_job(job_id).cost_usd == Decimal("0.001")
    assert rows("SELECT outcome, exposure, cost_usd FROM provider_calls") == [("failed", False, Decimal("0.001"))]


def test_a_late_result_after_the_refund_charges_nobody_and_is_counted_as_exposure():
    account_id = an_account(1000)
    job_id = a_reserved_job(account_id)
    claim = a_claim(job_id)
    assert fail(claim, Failure.TIMED_OUT) is Verdict.UNKNOWN
    with transaction() as session:
        job = the_job(job_id)
        unknown_calls.expose(session, job)
        settling.release(session, [job], {job_id: settling.Release("outcome_unknown", "gone")}, now=NOON)

    with transaction() as session:
        assert not calling.succeed(session, claim, a_delivery(), now=NOON, publish_by=MINUTE)

    assert the_job(job_id).state == "refunded"
    assert books(account_id) == (1000, 0)
    assert rows("SELECT outcome, exposure, cost_usd FROM provider_calls") == [
        ("succeeded", True, Decimal("0.0041250000"))
    ]
    assert the_job(job_id).cost_usd == Decimal("0.004125")
    assert rows("SELECT count(*) FROM generation_results") == [(0,)]


def test_a_late_refusal_withdraws_the_exposure():
    account_id = an_account(1000)
    job_id = a_reserved_job(account_id)
    claim = a_claim(job_id)
    fail(claim, Failure.TIMED_OUT)
    with transaction() as session:
        unknown_calls.expose(session, the_job(job_id))
    assert the_job(job_id).cost_usd > 0

    assert fail(claim, Failure.RATE_LIMITED) is None

    assert the_job(job_id).cost_usd == 0
    assert rows("SELECT outcome, exposure FROM provider_calls") == [("failed", False)]


def test_an_old_attempt_cannot_overwrite_a_newer_one():
    account_id = an_account(1000)
    job_id = a_reserved_job(account_id)
    old = a_claim(job_id)
    fail(old, Failure.RATE_LIMITED)
    new = a_claim(job_id, again=1)

    with transaction() as session:
        assert not calling.succeed(session, old, a_delivery(), now=NOON, publish_by=MINUTE)
    assert fail(old, Failure.CONTENT_POLICY) is None

    job = the_job(job_id)
    assert (job.state, job.attempts, job.error_code) == ("calling", new.attempt, None)


def test_a_live_claim_is_left_alone():
    job_id = a_reserved_job(an_account(1000))
    a_claim(job_id)

    with transaction() as session:
        assert calling.claim(session, job_id, at=moment(session), lease=MINUTE) is None


def test_retries_are_refunded_when_the_budget_is_spent():
    account_id = an_account(1000)
    job_id = a_reserved_job(account_id)

    assert fail(a_claim(job_id), Failure.OVERLOADED) is Verdict.RETRY
    assert fail(a_claim(job_id, again=1), Failure.OVERLOADED) is Verdict.REFUND
    refund(job_id)

    assert the_job(job_id).error_code == "retries_exhausted"
    assert the_job(job_id).error_message == "The provider is overloaded. It was tried 2 times."


def test_recording_a_success_twice_counts_its_cost_once():
    account_id = an_account(1000)
    claim = a_claim(a_reserved_job(account_id))
    for _ in range(2):
        with transaction() as session:
            assert calling.succeed(session, claim, a_delivery(), now=NOON, publish_by=MINUTE)

    assert the_job(claim.job_id).cost_usd == Decimal("0.004125")
