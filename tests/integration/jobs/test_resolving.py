"""Outcomes that nobody knew, resolved by hand: who pays then, and the evidence that stays."""

from __future__ import annotations

from decimal import Decimal

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from billing.catalog.usage import Usage
from billing.errors import BillingError
from billing.jobs import calling, recovery, settling, unknown_calls
from billing.jobs.calling import Refusal
from billing.jobs.policy import Failure, Outcome, RetryBudget
from billing.jobs.recovery import Patience, Recovered
from billing.jobs.unknown_calls import Resolution
from billing.reports import audit
from config.database import transaction
from tests.factories import (
    HOUR,
    MINUTE,
    NOON,
    a_claim,
    a_delivery,
    a_generated_job,
    a_reserved_job,
    an_account,
    rows,
    the_account,
    the_job,
)

USAGE = Usage(input_tokens=100, output_tokens=400)
COST = Decimal("0.004125")
WORST = Decimal("0.01003125")
RESULT = {"text": "a b c"}


@pytest.fixture(autouse=True)
def _the_books_balance(db):
    yield
    with transaction(isolation="REPEATABLE READ", read_only=True) as session:
        assert audit.audit(session, now=NOON) == []


@pytest.fixture
def account_id(db):
    return an_account(1000)


@pytest.fixture
def claim(account_id):
    """A call that timed out: nobody knows what became of it."""
    made = a_claim(a_reserved_job(account_id))
    with transaction() as session:
        budget = RetryBudget(attempts=4, wait_max=MINUTE)
        calling.fail(session, made, Refusal(Failure.TIMED_OUT), now=NOON, budget=budget, look_after=10 * MINUTE)
    return made


def resolve(job_id, outcome, *, evidence="Ticket 4711", usage=None, content=None):
    found = Resolution(Outcome(outcome), evidence, "anna", usage, content)
    with transaction() as session:
        return unknown_calls.resolve(session, job_id, found, now=NOON + MINUTE, publish_by=MINUTE)


def give_up():
    done = Recovered()
    with transaction() as session:
        patience = Patience(republish_after=MINUTE, unknown_wait=10 * MINUTE)
        for late in (NOON + HOUR, NOON + 2 * HOUR):
            recovery.recover(session, recovery.State.UNKNOWN, done, now=late, patience=patience)
    return done.resolved


def call():
    return rows("SELECT outcome, exposure, cost_usd FROM provider_calls")[0]


def test_what_was_delivered_is_charged(account_id, claim):
    job = resolve(claim.job_id, "delivered", usage=USAGE, content=RESULT)

    assert (job.state, job.cost_usd) == ("generated", COST)
    with transaction() as session:
        assert settling.settle(session, [claim.job_id], now=NOON) == [claim.job_id]
    assert (the_account(account_id).balance, the_account(account_id).reserved) == (995, 0)
    assert call() == ("succeeded", False, COST)
    assert rows("SELECT content FROM generation_results") == [(RESULT,)]


@pytest.mark.parametrize(("usage", "cost"), [(USAGE, COST), (None, WORST)], ids=["known usage", "unknown usage"])
def test_what_was_executed_and_lost_is_our_cost(account_id, claim, usage, cost):
    job = resolve(claim.job_id, "executed", usage=usage)

    assert (job.state, job.error_code, job.cost_usd) == ("refunded", "result_lost", cost)
    assert (the_account(account_id).balance, the_account(account_id).reserved) == (1000, 0)
    assert call() == ("unknown", True, cost)


def test_what_was_not_executed_costs_nobody_anything(account_id, claim):
    job = resolve(claim.job_id, "not_executed")

    assert (job.state, job.error_code, job.cost_usd) == ("refunded", "not_executed", 0)
    assert (the_account(account_id).balance, the_account(account_id).reserved) == (1000, 0)
    assert call() == ("failed", False, 0)


@pytest.mark.parametrize(
    ("outcome", "usage", "content", "state", "expected"),
    [
        ("delivered", USAGE, RESULT, "refunded", ("succeeded", True, COST)),
        ("executed", USAGE, None, "refunded", ("unknown", True, COST)),
        ("not_executed", None, None, "refunded", ("failed", False, 0)),
    ],
)
def test_after_the_refund_only_our_cost_is_corrected(account_id, claim, outcome, usage, content, state, expected):
    assert give_up() == [claim.job_id]
    assert the_job(claim.job_id).cost_usd == WORST

    job = resolve(claim.job_id, outcome, usage=usage, content=content)

    assert (job.state, job.error_code, job.cost_usd) == (state, "outcome_unknown", expected[2])
    assert call() == expected
    assert the_account(account_id).balance == 1000


def test_the_evidence_is_kept_and_cannot_be_changed(claim):
    resolve(claim.job_id, "not_executed", evidence="Not in the log of 20 November")

    kept = "SELECT outcome, evidence, actor FROM resolutions"
    assert rows(kept) == [("not_executed", "Not in the log of 20 November", "anna")]
    for statement in ("UPDATE resolutions SET evidence = 'x'", "DELETE FROM resolutions", "TRUNCATE resolutions"):
        with pytest.raises(DBAPIError, match="append-only"), transaction() as session:
            session.execute(text(statement))


def test_a_call_is_resolved_once(account_id, claim):
    resolve(claim.job_id, "executed", usage=USAGE)

    with pytest.raises(BillingError) as caught:
        resolve(claim.job_id, "not_executed")

    assert caught.value.code == "nothing_to_resolve"
    assert call() == ("unknown", True, COST)


def test_a_late_success_after_the_resolution_is_recorded_and_charged_to_nobody(account_id, claim):
    resolve(claim.job_id, "not_executed")

    with transaction() as session:
        assert not calling.succeed(session, claim, a_delivery(), now=NOON, publish_by=MINUTE)

    assert call() == ("succeeded", True, COST)
    assert (the_job(claim.job_id).state, the_account(account_id).balance) == ("refunded", 1000)


@pytest.mark.parametrize(
    ("outcome", "given", "code"),
    [
        ("delivered", {"usage": USAGE}, "no_delivery"),
        ("delivered", {"content": RESULT}, "no_delivery"),
        ("not_executed", {"usage": USAGE}, "invalid_usage"),
        ("executed", {"evidence": " "}, "no_evidence"),
        ("executed", {"evidence": "x" * 2_001}, "no_evidence"),
        ("executed", {"evidence": "two\nlines"}, "no_evidence"),
    ],
)
def test_what_is_missing_is_one_sentence_and_changes_nothing(claim, outcome, given, code):
    with pytest.raises(BillingError) as caught:
        resolve(claim.job_id, outcome, **given)

    assert caught.value.code == code
    assert the_job(claim.job_id).state == "unknown"
    assert rows("SELECT count(*) FROM resolutions") == [(0,)]


def test_what_is_known_already_cannot_be_resolved(account_id):
    for job_id in (a_reserved_job(account_id), a_generated_job(account_id)):
        with pytest.raises(BillingError) as caught:
            resolve(job_id, "not_executed")
        assert caught.value.code == "nothing_to_resolve"


def test_unknown_jobs_are_listed_with_what_they_may_cost(claim):
    with transaction() as session:
        (found,) = unknown_calls.oldest(session, limit=5, unknown_wait=HOUR).rows

    assert (found.job_id, found.failure, found.worst_cost_usd) == (claim.job_id, "timed_out", WORST)
    assert found.given_up_at == NOON + HOUR
