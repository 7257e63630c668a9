"""Single guards of calls, one test each: who may make one, what counts of it, and what resolves it later."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from uuid import uuid4

import pytest

from billing.catalog.usage import Usage
from billing.errors import InvalidRequest
from billing.jobs import call_queries, calling, job_queries, policy, settling, unknown_calls
from billing.jobs.calling import Refusal
from billing.jobs.policy import Failure, Means, Verdict
from billing.jobs.states import State
from config.database import transaction
from tests.catalogue import sql
from tests.factories import (
    HOUR,
    MINUTE,
    NOON,
    a_claim,
    a_delivery,
    a_generated_job,
    a_reserved_job,
    an_account,
    moment,
    rows,
    the_account,
    the_job,
)
from tests.guarding import fail, findings, lose, read_rows_as_they_lie, recover, succeed

pytestmark = pytest.mark.usefixtures("db")

SECOND = timedelta(seconds=1)


def claim_as(job_id, token, *, now=NOON):
    with transaction() as session:
        return calling.claim(session, job_id, at=moment(session, now), lease=MINUTE, claimed_by=token)


def test_a_claim_counts_on_from_the_calls_that_others_made_meanwhile():
    job_id = a_reserved_job(an_account(1000))

    with transaction() as session:
        # Kept, as a caller keeps what it has read: SQLAlchemy forgets rows that nobody holds.
        (seen,) = job_queries.find(session, [job_id])
        other = a_claim(job_id)
        fail(other)
        with transaction() as theirs:
            assert calling.postpone(theirs, other, until=NOON)
        assert seen.attempts == 0
        claim = calling.claim(session, job_id, at=moment(session), lease=MINUTE)

    assert claim.attempt == 2


def test_whoever_made_a_claim_gets_it_again_and_nobody_else():
    job_id, ours = a_reserved_job(an_account(1000)), uuid4()

    claim = claim_as(job_id, ours)

    assert [claim_as(job_id, token) for token in (ours, uuid4(), None)] == [claim, None, None]
    assert rows("SELECT attempt FROM provider_calls") == [(1,)]


def test_a_claim_that_was_worked_on_is_not_given_again():
    job_id, ours = a_reserved_job(an_account(1000)), uuid4()
    assert fail(claim_as(job_id, ours)) is Verdict.RETRY

    assert claim_as(job_id, ours) is None


def test_a_claim_past_its_lease_is_not_given_again():
    job_id, ours = a_reserved_job(an_account(1000)), uuid4()
    claim_as(job_id, ours)

    assert claim_as(job_id, ours, now=NOON + MINUTE) is None


def test_an_old_claim_cannot_give_a_newer_one_back():
    job_id = a_reserved_job(an_account(1000))
    old = a_claim(job_id)
    fail(old)
    a_claim(job_id, again=1)

    with transaction() as session:
        assert not calling.postpone(session, old, until=NOON)

    assert the_job(job_id).state == "calling"


def test_all_attempts_of_a_job_carry_one_key():
    first = a_claim(a_reserved_job(an_account(1000)))
    fail(first)

    second = a_claim(first.job_id, again=1)

    assert (second.attempt, second.idempotency_key) == (2, first.idempotency_key)
    assert len({key for (key,) in rows("SELECT idempotency_key FROM provider_calls")}) == 1


def test_each_call_of_a_job_is_found_by_its_attempt():
    first = a_claim(a_reserved_job(an_account(1000)))
    fail(first)
    a_claim(first.job_id, again=1)

    with transaction() as session:
        found = [call_queries.latest(session, first.job_id, attempt) for attempt in (1, 2)]
    assert [(call.attempt, call.outcome) for call in found] == [(1, "failed"), (2, None)]


# --- What a call says, and when it says it ---


def test_a_job_is_charged_for_the_call_that_delivered_for_it_and_not_for_a_late_one():
    account_id = an_account(1000)
    job_id = a_reserved_job(account_id)
    late = a_claim(job_id)
    fail(late)
    claim = a_claim(job_id, again=1)
    assert not succeed(late, a_delivery(Usage(input_tokens=100, output_tokens=900)))
    assert succeed(claim)
    sql("UPDATE provider_calls SET http_status = 200 WHERE attempt = 1")

    with transaction() as session:
        read_rows_as_they_lie(session)
        assert settling.settle(session, [job_id], now=NOON) == [job_id]

    assert (the_job(job_id).credits_charged, the_account(account_id).balance) == (5, 995)
    assert rows("SELECT content FROM generation_results") == [({"text": "a b c"},)]


def test_a_job_is_charged_for_the_call_that_delivered_for_it_and_not_for_a_failed_one():
    account_id = an_account(1000)
    job_id = a_reserved_job(account_id)
    fail(a_claim(job_id), usage=Usage(input_tokens=100, output_tokens=900))
    assert succeed(a_claim(job_id, again=1))
    sql("UPDATE provider_calls SET http_status = 500 WHERE attempt = 1")

    with transaction() as session:
        read_rows_as_they_lie(session)
        assert settling.settle(session, [job_id], now=NOON) == [job_id]

    assert (the_job(job_id).credits_charged, the_account(account_id).balance) == (5, 995)


def test_a_late_delivery_keeps_no_result():
    job_id = a_reserved_job(an_account(1000))
    claim = a_claim(job_id)
    fail(claim, Failure.CONTENT_POLICY)
    with transaction() as session:
        assert settling.refund(session, [job_id], now=NOON) == [job_id]

    assert not succeed(claim)

    assert rows("SELECT 1 FROM generation_results") == []


def test_a_late_verdict_of_an_old_attempt_says_nothing_about_the_newer_one():
    job_id = a_reserved_job(an_account(1000))
    old = a_claim(job_id)
    fail(old)
    a_claim(job_id, again=1)

    assert fail(old, Failure.BAD_REQUEST) is None

    assert (the_job(job_id).error_code, the_job(job_id).next_at) == (None, NOON + MINUTE)


def test_a_refusal_that_comes_after_the_job_was_given_up_is_no_verdict():
    job_id = a_reserved_job(an_account(1000))
    claim = a_claim(job_id)
    lose(claim)

    assert fail(claim, Failure.BAD_REQUEST) is None

    assert the_job(job_id).state == "unknown"


def test_losing_a_job_leaves_what_its_call_said_as_it_was():
    job_id = a_reserved_job(an_account(1000))
    claim = a_claim(job_id)
    assert fail(claim, Failure.CONTENT_POLICY) is Verdict.REFUND

    lose(claim)

    assert rows("SELECT outcome, failure FROM provider_calls") == [("failed", "content_policy")]


# --- What resolves an unknown call ---


def resolve(job_id, outcome, **given):
    found = unknown_calls.Resolution(policy.Outcome(outcome), "Ticket 4711", "anna", **given)
    with transaction() as session:
        return unknown_calls.resolve(session, job_id, found, now=NOON, publish_by=MINUTE)


def learn(claim, told):
    with transaction() as session:
        return unknown_calls.resolve_by_answer(session, claim, told, Means.LOOK_UP, now=NOON, publish_by=MINUTE)


def everything_about_calls():
    return [rows(f"SELECT t::text FROM {table} t") for table in ("generation_jobs", "provider_calls", "resolutions")]


@pytest.fixture
def claim(db):
    """A call that was lost."""
    made = a_claim(a_reserved_job(an_account(1000)))
    lose(made)
    return made


def test_an_unknown_call_is_asked_about_once_within_the_time_that_an_answer_takes():
    claim = a_claim(a_reserved_job(an_account(1000)))
    lose(claim)

    def ask(now):
        with transaction() as session:
            return unknown_calls.ask(session, claim.job_id, now=now, patience=MINUTE) is not None

    assert [ask(NOON), ask(NOON + SECOND), ask(NOON + MINUTE)] == [True, False, True]
    assert rows("SELECT asked FROM provider_calls") == [(2,)]


@pytest.mark.parametrize("end", [succeed, fail])
def test_only_a_call_of_unknown_outcome_is_exposed(end):
    claim = a_claim(a_reserved_job(an_account(1000)))
    end(claim)
    before = rows("SELECT c::text FROM provider_calls c")

    with transaction() as session:
        unknown_calls.expose(session, the_job(claim.job_id))

    assert rows("SELECT c::text FROM provider_calls c") == before


def test_what_is_known_of_an_exposed_call_is_not_replaced_by_a_guess():
    claim = a_claim(a_reserved_job(an_account(1000)))
    lose(claim)
    sql("UPDATE provider_calls SET exposure = true, cost_usd = 0.001")

    with transaction() as session:
        unknown_calls.expose(session, the_job(claim.job_id))

    assert rows("SELECT cost_usd FROM provider_calls") == [(Decimal("0.001"),)]


def test_only_jobs_of_unknown_outcome_are_listed_to_be_resolved(claim):
    a_generated_job(an_account(1000))

    with transaction() as session:
        listed = unknown_calls.oldest(session, limit=10, unknown_wait=HOUR).rows

    assert [each.job_id for each in listed] == [claim.job_id]


def test_a_lost_result_is_resolved_once(claim):
    resolve(claim.job_id, "executed")

    with pytest.raises(InvalidRequest, match="no call whose outcome is unknown"):
        resolve(claim.job_id, "not_executed")


def test_what_is_learnt_of_a_call_that_is_known_changes_nothing(claim):
    assert succeed(claim)
    before = everything_about_calls()

    learn(claim, Refusal(Failure.BAD_REQUEST))

    assert everything_about_calls() == before


def test_what_is_learnt_after_a_resolution_by_hand_changes_nothing(claim):
    resolve(claim.job_id, "executed")
    before = everything_about_calls()

    learn(claim, a_delivery())

    assert everything_about_calls() == before


def test_what_is_learnt_after_the_refund_releases_nothing_again(claim):
    recover(State.UNKNOWN, NOON + HOUR)
    assert recover(State.UNKNOWN, NOON + 2 * HOUR).resolved == [claim.job_id]

    learn(claim, Refusal(Failure.BAD_REQUEST))

    assert (the_job(claim.job_id).state, the_job(claim.job_id).cost_usd) == ("refunded", 0)
    assert rows("SELECT outcome, exposure FROM provider_calls") == [("failed", False)]
    assert findings() == []
