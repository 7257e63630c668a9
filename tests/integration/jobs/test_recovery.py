"""What the recovery task does with work that lost its message, its worker, or its time."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from uuid import uuid4

import pytest
from sqlalchemy import text, update
from sqlalchemy.exc import OperationalError

from billing.errors import NotCancellable, UnknownThing
from billing.jobs import calling, recovery, settling
from billing.jobs.calling import Refusal
from billing.jobs.policy import Failure, RetryBudget
from billing.jobs.recovery import Patience, Recovered
from billing.jobs.states import State
from billing.jobs.tables import GenerationJob
from billing.reports import audit
from config.database import transaction
from tests.factories import (
    HOUR,
    MINUTE,
    NOON,
    a_claim,
    a_generated_job,
    a_queued_job,
    a_reserved_job,
    an_account,
    rows,
    the_account,
    the_job,
)

pytestmark = pytest.mark.usefixtures("db")
UNKNOWN_WAIT = timedelta(minutes=10)
PATIENCE = Patience(republish_after=MINUTE, unknown_wait=UNKNOWN_WAIT)
SECOND = timedelta(seconds=1)


def recover(now):
    done = Recovered()
    for state in recovery.states():
        with transaction() as session:
            recovery.recover(session, state, done, now=now, patience=PATIENCE)
    with transaction(isolation="REPEATABLE READ", read_only=True) as session:
        assert audit.audit(session, now=now) == []
    return done


def fail(claim, failure, now=NOON):
    with transaction() as session:
        budget = RetryBudget(attempts=4, wait_max=MINUTE)
        return calling.fail(
            session, claim, Refusal(failure), now=now, budget=budget, look_after=PATIENCE.republish_after
        )


def test_nothing_is_touched_before_its_time():
    account_id = an_account()
    a_queued_job(account_id)
    a_reserved_job(account_id)
    a_claim(a_reserved_job(account_id))
    a_generated_job(account_id)

    assert recover(NOON + MINUTE - SECOND).counts() == {}


def test_each_step_that_lost_its_message_is_published_again():
    account_id = an_account()
    queued, reserved, generated = a_queued_job(account_id), a_reserved_job(account_id), a_generated_job(account_id)

    done = recover(NOON + MINUTE)

    assert (done.started, done.called, done.settled) == ([queued], [reserved], [generated])
    assert [the_job(job).state for job in (queued, reserved, generated)] == ["queued", "reserved", "generated"]


def test_publishing_again_backs_off():
    job_id = a_queued_job(an_account())
    published, now = [], NOON
    while now < NOON + HOUR - SECOND:
        if recover(now).started:
            published.append(int((now - NOON) / MINUTE))
        now += MINUTE

    assert published == [1, 3, 7, 15, 30, 45]
    assert the_job(job_id).republished == 6


def test_a_claim_past_its_lease_becomes_unknown_and_keeps_its_hold():
    account_id = an_account()
    job_id = a_reserved_job(account_id)
    a_claim(job_id)

    done = recover(NOON + MINUTE)

    assert done.unknown == [job_id]
    assert (the_job(job_id).state, the_job(job_id).error_code) == ("unknown", "outcome_unknown")
    assert the_account(account_id).reserved == 11
    assert rows("SELECT outcome, failure FROM provider_calls") == [("unknown", "worker_lost")]


def test_an_unknown_outcome_is_refunded_in_the_end_and_its_worst_cost_is_ours():
    account_id = an_account()
    job_id = a_reserved_job(account_id)
    fail(a_claim(job_id), Failure.TIMED_OUT)

    assert recover(NOON + UNKNOWN_WAIT - SECOND).counts() == {"asked": 1}
    assert recover(NOON + UNKNOWN_WAIT).resolved == [job_id]

    assert the_job(job_id).state == "refunded"
    assert (the_account(account_id).balance, the_account(account_id).reserved) == (1000, 0)
    # 25 input tokens at $1.25 and 1,000 output tokens at $10 per million.
    assert rows("SELECT exposure, cost_usd FROM provider_calls") == [(True, Decimal("0.0100312500"))]
    assert recover(NOON + 2 * HOUR).counts() == {}


def test_an_unknown_outcome_keeps_its_hold_however_often_it_was_asked_for():
    account_id = an_account()
    job_id = a_reserved_job(account_id)
    fail(a_claim(job_id), Failure.TIMED_OUT)

    for minutes in (1, 4, 9):
        assert recover(NOON + minutes * MINUTE).counts() == {"asked": 1}

    assert the_job(job_id).state == "unknown"
    assert the_account(account_id).reserved == 11


def test_a_verdict_whose_refund_was_lost_is_refunded():
    account_id = an_account()
    job_id = a_reserved_job(account_id)
    fail(a_claim(job_id), Failure.CONTENT_POLICY)

    done = recover(NOON + SECOND)

    assert done.refunded == [job_id]
    with transaction() as session:
        assert settling.refund(session, done.refunded, now=NOON) == [job_id]


def test_a_worker_lost_between_two_tries_is_replaced_since_nothing_was_executed():
    job_id = a_reserved_job(an_account())
    fail(a_claim(job_id), Failure.RATE_LIMITED)

    done = recover(NOON + MINUTE)

    assert done.called == [job_id]
    assert the_job(job_id).state == "reserved"
    assert a_claim(job_id, now=NOON + MINUTE).attempt == 2


def test_past_its_deadline_a_queued_job_is_rejected_and_a_reserved_one_released():
    account_id = an_account()
    queued, reserved = a_queued_job(account_id), a_reserved_job(account_id)

    assert sorted(recover(NOON + HOUR).expired) == sorted([queued, reserved])

    assert [(the_job(job).state, the_job(job).error_code) for job in (queued, reserved)] == [
        ("rejected", "expired"),
        ("refunded", "expired"),
    ]
    assert the_account(account_id).reserved == 0


def test_a_generated_job_is_settled_however_late():
    job_id = a_generated_job(an_account())

    assert recover(NOON + 48 * HOUR).settled == [job_id]


def test_two_recoveries_at_once_share_the_work():
    account_id = an_account()
    jobs = [a_queued_job(account_id) for _ in range(4)]
    first, second = Recovered(), Recovered()
    later = NOON + MINUTE

    with transaction() as one:
        recovery.recover(one, State.QUEUED, first, now=later, patience=PATIENCE)
        with transaction() as other:
            recovery.recover(other, State.QUEUED, second, now=later, patience=PATIENCE)

    assert (sorted(first.started), second.started) == (sorted(jobs), [])


def test_a_row_that_cannot_be_worked_on_does_not_block_the_others():
    account_id = an_account()
    jobs = [a_reserved_job(account_id) for _ in range(3)]
    for job_id in jobs:
        fail(a_claim(job_id), Failure.TIMED_OUT)
    recover(NOON + MINUTE)
    with transaction() as session:
        session.execute(text("UPDATE generation_jobs SET price = '{}' WHERE id = :id"), {"id": jobs[1]})

    done = recover(NOON + UNKNOWN_WAIT)

    assert sorted(done.resolved) == sorted([jobs[0], jobs[2]])
    assert done.blocked == {jobs[1]: "KeyError"}
    assert the_job(jobs[1]).state == "unknown"
    assert the_account(account_id).reserved == 11


def test_a_row_that_cannot_be_worked_on_is_tried_again_later_and_later():
    job_id = a_reserved_job(an_account())
    fail(a_claim(job_id), Failure.TIMED_OUT)
    recover(NOON + MINUTE)
    with transaction() as session:
        price = the_job(job_id).price
        session.execute(text("UPDATE generation_jobs SET price = '{}'"))
    now = NOON + UNKNOWN_WAIT

    assert recover(now).blocked
    assert recover(now + 4 * MINUTE - SECOND).counts() == {}
    assert recover(now + 4 * MINUTE).blocked
    with transaction() as session:
        session.execute(update(GenerationJob).values(price=price))
    assert recover(now + 12 * MINUTE).resolved == [job_id]


def test_trouble_of_the_database_is_not_blamed_on_a_row(monkeypatch):
    a_queued_job(an_account())

    def fail_as_a_whole(*_):
        raise OperationalError("SELECT 1", {}, Exception("the server is gone"))

    monkeypatch.setitem(recovery._HANDLERS, State.QUEUED, fail_as_a_whole)

    with pytest.raises(OperationalError):
        recover(NOON + MINUTE)


def test_cancelling_a_reserved_job_releases_its_hold_once():
    account_id = an_account()
    job_id = a_reserved_job(account_id)

    for _ in range(2):
        with transaction() as session:
            recovery.release_if_reserved(session, job_id, now=NOON)

    assert (the_job(job_id).state, the_job(job_id).error_code) == ("refunded", "cancelled")
    assert the_account(account_id).reserved == 0


def test_a_job_that_is_being_called_cannot_be_cancelled():
    job_id = a_reserved_job(an_account())
    a_claim(job_id)

    with pytest.raises(NotCancellable, match="calling"), transaction() as session:
        recovery.release_if_reserved(session, job_id, now=NOON)
    with pytest.raises(UnknownThing), transaction() as session:
        recovery.release_if_reserved(session, uuid4(), now=NOON)


def test_a_provider_that_wants_to_be_left_alone_does_not_keep_a_hold_past_the_deadline():
    account_id = an_account()
    job_id = a_reserved_job(account_id)
    claim = a_claim(job_id)
    fail(claim, Failure.RATE_LIMITED)
    with transaction() as session:
        assert calling.postpone(session, claim, until=NOON + 24 * HOUR)

    assert recover(NOON + HOUR).expired == [job_id]
    assert the_account(account_id).reserved == 0
