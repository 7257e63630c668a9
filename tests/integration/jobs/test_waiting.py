"""A statement that waited for a lock decides on what is true after the wait, also of rows that it did not wait for."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest
from sqlalchemy import text

from billing.catalog.usage import Usage
from billing.jobs import calling, concluding, job_queries, reserving, settling
from billing.jobs.calling import Refusal
from billing.jobs.policy import Failure
from billing.jobs.settling import Release
from billing.jobs.states import Event, State
from billing.jobs.tables import GenerationJob
from billing.ledger import posting
from billing.ledger.posting import Change
from billing.plans import limits
from billing.plans.limits import LimitChange
from config.database import transaction
from tests.factories import (
    MINUTE,
    NOON,
    a_claim,
    a_delivery,
    a_generated_job,
    a_queued_job,
    a_reserved_job,
    a_subscription,
    an_account,
    moment,
    rows,
    the_account,
    the_job,
)
from tests.guarding import BUDGET, fail, findings, meanwhile

pytestmark = pytest.mark.usefixtures("db")


def test_a_reservation_sees_the_units_that_were_held_while_it_waited_for_the_account():
    account_id = an_account(1000)
    a_subscription(account_id, {"content_ideas": 1})
    a_reserved_job(an_account(1000))
    job_id = a_queued_job(account_id, "idea_generation")
    with transaction() as session:
        limits.open_rows(session, limits.entitlements(session, [account_id], {(account_id, "content_ideas")}, now=NOON))

    def hold_the_last_unit(session):
        posting.lock(session, [account_id])
        units = {(account_id, "content_ideas", date(2026, 11, 1)): LimitChange(reserved=1, allowed=1)}
        posting.post(session, {account_id: Change(reserved=1)}, beside=[limits.counted(units)])

    reserved = meanwhile(
        hold_the_last_unit, lambda s: reserving.reserve(s, [job_id], at=moment(s), publish_by=MINUTE).job_ids
    )

    assert reserved == []
    assert the_job(job_id).error_code == "plan_limit_reached"
    assert the_account(account_id).reserved == 1


def test_a_reservation_sees_the_credits_that_were_held_while_it_waited_for_the_account():
    account_id = an_account(11)
    job_id = a_queued_job(account_id)

    def hold_all(session):
        posting.lock(session, [account_id])
        posting.post(session, {account_id: Change(reserved=11)})

    reserved = meanwhile(hold_all, lambda s: reserving.reserve(s, [job_id], at=moment(s), publish_by=MINUTE).job_ids)

    assert (reserved, the_job(job_id).error_code) == ([], "insufficient_credits")


def test_a_settlement_charges_nothing_for_a_job_that_was_written_off_while_it_waited():
    account_id = an_account(1000)
    job_id = a_generated_job(account_id)

    def write_off(session):
        jobs = job_queries.lock(session, [job_id], {State.GENERATED})
        concluding.write_off(session, jobs)
        settling.release(session, jobs, {job_id: Release("x", "x")}, now=NOON, event=Event.WRITE_OFF)

    assert meanwhile(write_off, lambda s: settling.settle(s, [job_id], now=NOON)) == []

    assert (the_job(job_id).state, the_account(account_id).balance) == ("refunded", 1000)
    assert findings() == []


def test_a_settlement_continues_the_balance_that_another_one_left_while_it_waited():
    account_id = an_account(1000)
    first, second = a_generated_job(account_id), a_generated_job(account_id)

    meanwhile(lambda s: settling.settle(s, [first], now=NOON), lambda s: settling.settle(s, [second], now=NOON))

    assert rows("SELECT balance_after FROM credit_transactions ORDER BY id") == [(1000,), (995,), (990,)]
    assert findings() == []


def test_a_result_that_was_recorded_while_another_report_of_it_waited_counts_once():
    job_id = a_reserved_job(an_account(1000))
    claim = a_claim(job_id)

    def succeed(session):
        return calling.succeed(session, claim, a_delivery(), now=NOON, publish_by=MINUTE)

    assert meanwhile(succeed, succeed) is State.GENERATED

    assert rows("SELECT count(*) FROM generation_results") == [(1,)]
    assert findings() == []


def test_a_result_that_waited_for_a_refund_is_late():
    account_id = an_account(1000)
    claim = a_claim(a_reserved_job(account_id))

    def refund(session):
        jobs = job_queries.lock(session, [claim.job_id], {State.CALLING})
        settling.release(session, jobs, {claim.job_id: Release("x", "x")}, now=NOON)

    assert meanwhile(refund, lambda s: calling.succeed(s, claim, a_delivery(), now=NOON, publish_by=MINUTE)) is None

    assert rows("SELECT outcome, exposure FROM provider_calls") == [("succeeded", True)]
    assert (the_account(account_id).reserved, findings()) == (0, [])


def test_a_result_counts_the_cost_that_an_earlier_call_came_to_while_it_waited():
    job_id = a_reserved_job(an_account(1000))
    first = a_claim(job_id)
    fail(first)
    second = a_claim(job_id, again=1)

    def learn_of_paid_work(session):
        refusal = Refusal(Failure.CONTENT_POLICY, usage=Usage(input_tokens=1000))
        calling.fail(session, first, refusal, now=NOON, budget=BUDGET, look_after=MINUTE)

    meanwhile(learn_of_paid_work, lambda s: calling.succeed(s, second, a_delivery(), now=NOON, publish_by=MINUTE))

    costs = rows("SELECT cost_usd FROM provider_calls ORDER BY attempt")
    assert the_job(job_id).cost_usd == sum((cost for (cost,) in costs), Decimal(0))
    assert all(cost > 0 for (cost,) in costs)


def test_a_claim_sees_that_the_job_was_claimed_while_it_waited():
    job_id = a_reserved_job(an_account(1000))

    def claim(session):
        return calling.claim(session, job_id, at=moment(session), lease=MINUTE)

    assert meanwhile(claim, claim) is None

    assert rows("SELECT attempt FROM provider_calls") == [(1,)]


def test_a_claim_takes_a_job_that_was_given_back_while_it_waited():
    job_id = a_reserved_job(an_account(1000))
    first = a_claim(job_id)
    fail(first)

    def give_back(session):
        calling.postpone(session, first, until=NOON)

    second = meanwhile(give_back, lambda s: calling.claim(s, job_id, at=moment(s), lease=MINUTE))

    assert second is not None
    assert (second.attempt, the_job(job_id).attempts) == (2, 2)


def test_a_refund_that_waited_for_another_one_releases_nothing():
    account_id = an_account(1000)
    claim = a_claim(a_reserved_job(account_id))
    fail(claim, Failure.BAD_REQUEST)

    def refund(session):
        return settling.refund(session, [claim.job_id], now=NOON)

    assert meanwhile(refund, refund) == []

    assert (the_account(account_id).reserved, findings()) == (0, [])


def test_a_locked_job_is_read_anew():
    claim = a_claim(a_reserved_job(an_account(1000)))
    with transaction() as session:
        before = session.get(GenerationJob, claim.job_id)
        fail(claim)
        a_claim(claim.job_id, again=1)

        (locked,) = job_queries.lock(session, [claim.job_id], {State.CALLING})

        assert (locked is before, locked.attempts) == (True, 2)


def test_what_changes_meanwhile_is_really_waited_for():
    account_id = an_account(11)
    seen = []

    def lock(session):
        session.execute(text("SELECT FROM accounts WHERE id = :id FOR UPDATE"), {"id": account_id})

    meanwhile(lambda s: (lock(s), seen.append("first")), lambda s: (lock(s), seen.append("second")))

    assert seen == ["first", "second"]
