"""Races, with real sessions side by side: whatever the order, nothing is spent twice."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from billing.jobs import calling, job_queries, reserving, settling, unknown_calls
from billing.jobs.states import State
from billing.plans import plans, subscriptions
from billing.reports import audit
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
from tests.rounds import rounds

pytestmark = pytest.mark.usefixtures("db")
ROUNDS = rounds(30)
MANY_ROUNDS = rounds(200)
LAST_CREDITS = 11
"""What one of these jobs reserves."""


@pytest.fixture(autouse=True)
def _the_books_balance(db):
    yield
    with transaction(isolation="REPEATABLE READ", read_only=True) as session:
        assert audit.audit(session, now=NOON) == []


def at_once(*calls):
    """Run the calls side by side, starting together; returns what each returned."""
    barrier = Barrier(len(calls))

    def run(call):
        barrier.wait()
        with transaction() as session:
            return call(session)

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def race(*job_ids):
    """Reserve the jobs side by side; returns the one that won and the one that lost."""
    won = at_once(*(to_reserve(job_id) for job_id in job_ids))

    assert sorted(len(ids) for ids in won) == [0, 1]
    jobs = [the_job(job_id) for job_id in job_ids]
    assert sorted(job.state for job in jobs) == ["rejected", "reserved"]
    return sorted(jobs, key=lambda job: job.state, reverse=True)


def units(account_id):
    return rows("SELECT amount_used, amount_reserved FROM plan_limit_usage WHERE account_id = :id", id=account_id)


def to_reserve(*job_ids):
    return lambda session: reserving.reserve(session, job_ids, at=moment(session), publish_by=MINUTE).job_ids


def to_settle(*job_ids):
    return lambda session: settling.settle(session, job_ids, now=NOON)


def test_two_jobs_race_for_the_last_credits_and_the_loser_holds_nothing_of_the_plan():
    for _ in range(MANY_ROUNDS):
        account_id = an_account(LAST_CREDITS)
        a_subscription(account_id, {"content_ideas": 10})

        won, lost = race(a_queued_job(account_id, "idea_generation"), a_queued_job(account_id, "idea_generation"))

        assert (lost.error_code, lost.credits_reserved, lost.limit_reserved) == ("insufficient_credits", 0, 0)
        assert (the_account(account_id).reserved, won.credits_reserved) == (LAST_CREDITS, LAST_CREDITS)
        assert units(account_id) == [(0, 1)]


def test_two_jobs_race_for_the_last_unit_of_a_limit_and_the_loser_holds_no_credits():
    for _ in range(MANY_ROUNDS):
        account_id = an_account(1000)
        a_subscription(account_id, {"content_ideas": 1})

        won, lost = race(a_queued_job(account_id, "idea_generation"), a_queued_job(account_id, "idea_generation"))

        assert (lost.error_code, lost.credits_reserved, lost.limit_reserved) == ("plan_limit_reached", 0, 0)
        assert the_account(account_id).reserved == won.credits_reserved == LAST_CREDITS
        assert units(account_id) == [(0, 1)]


def test_a_refund_releases_credits_and_units_together_while_another_job_waits_for_them():
    for _ in range(ROUNDS):
        account_id = an_account(LAST_CREDITS)
        a_subscription(account_id, {"content_ideas": 1})
        holder = a_reserved_job(account_id, "idea_generation")
        waiting = a_queued_job(account_id, "idea_generation")

        def give_back(session, holder=holder):
            jobs = job_queries.lock(session, [holder], {State.RESERVED})
            return settling.release(session, jobs, {holder: settling.Release("gone", "gone")}, now=NOON)

        _, reserved = at_once(give_back, to_reserve(waiting))

        # Whoever came first: the two kinds of hold are never apart.
        held = LAST_CREDITS if reserved else 0
        assert (the_account(account_id).reserved, units(account_id)) == (held, [(0, len(reserved))])


def test_an_account_that_is_subscribed_by_many_at_once_has_one_subscription():
    account_id = an_account(1000)
    with transaction() as session:
        plans.set_plan(session, "starter", {"content_ideas": "5"})

    made = at_once(*[lambda session: subscriptions.subscribe(session, account_id, "starter", now=NOON).id] * 4)

    assert len(set(made)) == 1
    assert rows("SELECT count(*) FROM subscriptions") == [(1,)]


def test_one_job_reserved_by_many_at_once_holds_once():
    account_id = an_account(1000)
    job_id = a_queued_job(account_id)

    assert at_once(*[to_reserve(job_id)] * 8) == [[job_id]] * 8
    assert the_account(account_id).reserved == 11


def test_one_job_settled_by_many_at_once_is_charged_once():
    account_id = an_account(1000)
    job_id = a_generated_job(account_id)

    settled = at_once(*[to_settle(job_id)] * 8)

    assert sorted(settled) == [[]] * 7 + [[job_id]]
    assert the_account(account_id).balance == 995


def test_one_job_claimed_by_many_at_once_is_called_once():
    job_id = a_reserved_job(an_account(1000))

    claims = at_once(*[lambda session: calling.claim(session, job_id, at=moment(session), lease=MINUTE)] * 8)

    assert sum(claim is not None for claim in claims) == 1
    assert rows("SELECT count(*) FROM provider_calls") == [(1,)]


def test_a_result_and_its_refund_race_and_one_of_them_counts():
    for _ in range(ROUNDS):
        account_id = an_account(1000)
        job_id = a_reserved_job(account_id)
        claim = a_claim(job_id)
        with transaction() as session:
            calling.mark_unknown(session, [the_job(job_id)], calling.Failure.WORKER_LOST, now=NOON, look_after=MINUTE)

        def give_up(session, job_id=job_id):
            jobs = job_queries.lock(session, [job_id], {State.UNKNOWN})
            for job in jobs:
                unknown_calls.expose(session, job)
            return settling.release(session, jobs, {job_id: settling.Release("gone", "gone")}, now=NOON)

        def deliver(session, claim=claim):
            return calling.succeed(session, claim, a_delivery(), now=NOON, publish_by=MINUTE)

        refunded, delivered = at_once(give_up, deliver)

        assert bool(refunded) != delivered
        assert the_job(job_id).state == ("refunded" if refunded else "generated")


def test_batches_in_any_order_do_not_deadlock():
    accounts = [an_account(10_000) for _ in range(3)]
    jobs = [a_queued_job(account) for _ in range(10) for account in accounts]

    at_once(*(to_reserve(*batch) for batch in (jobs, jobs[::-1], jobs[::2], jobs[1::2])))

    assert [the_account(account).reserved for account in accounts] == [110, 110, 110]
    assert {the_job(job).state for job in jobs} == {"reserved"}
