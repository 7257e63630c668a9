"""Takes: what waits is taken once, a few jobs of each account, in the order in which they came."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import text

from billing.errors import BillingError
from billing.jobs import recovery, reserving, submitting, taking
from billing.jobs.recovery import Patience, Recovered
from billing.jobs.states import State
from config.database import transaction
from tests.catalogue import sql
from tests.factories import HOUR, MINUTE, NOON, a_queued_job, a_subscription, an_account, moment, rows, the_job
from tests.guarding import at_once

pytestmark = pytest.mark.usefixtures("db")
SECOND = timedelta(seconds=1)


def take(*, size=50, after=0, now=NOON):
    with transaction() as session:
        return taking.take(session, hold=MINUTE, size=size, after=after, now=now)


def queued(account_id, count, *, first=0):
    """So many jobs of one account, one second after the other."""
    return [a_queued_job(account_id, now=NOON + (first + number) * SECOND) for number in range(count)]


def reserve(job_ids):
    with transaction() as session:
        return reserving.reserve(session, job_ids, at=moment(session), publish_by=MINUTE).job_ids


def recovered(*, now):
    """The queued jobs that recovery has published again."""
    done = Recovered()
    with transaction() as session:
        patience = Patience(republish_after=MINUTE, unknown_wait=HOUR)
        recovery.recover(session, State.QUEUED, done, now=now, patience=patience)
    return done.started


def accounts_of(taken):
    found = dict(rows("SELECT id, account_id FROM generation_jobs"))
    return [found[job_id] for job_id in taken.job_ids]


def test_what_is_taken_is_not_taken_again():
    job_ids = queued(an_account(), 2)

    first, second = take(), take()

    assert (first.job_ids, first.complete) == (job_ids, True)
    assert (second.job_ids, second.complete) == ([], True)
    assert {the_job(job_id).taken_until for job_id in job_ids} == {NOON + MINUTE}


def test_many_takes_at_once_take_each_account_once():
    owners = [an_account() for _ in range(6)]
    for account_id in owners:
        queued(account_id, 3)

    def one(session):
        taken = taking.take(session, hold=MINUTE, size=4, now=NOON)
        # Whoever comes next must wait until this is committed.
        session.execute(text("SELECT pg_sleep(0.05)"))
        return accounts_of(taken)

    takes = at_once(*[one] * 6)

    served = [account_id for accounts in takes for account_id in set(accounts)]
    assert sorted(served) == owners


def test_jobs_of_an_account_are_taken_and_reserved_in_the_order_in_which_they_came():
    account_id = an_account(10_000)
    later, earlier = queued(account_id, 3, first=10), queued(account_id, 3)

    served = []
    while batch := take(size=2).job_ids:
        served += batch
        reserve(batch)

    assert served == [*earlier, *later]


def test_an_account_is_in_one_take_until_its_jobs_are_reserved():
    account_id = an_account(10_000)
    first, second, third = queued(account_id, 3)

    taken = take(size=2)
    assert taken.job_ids == [first, second]
    shut_out = take()
    assert (shut_out.job_ids, shut_out.shut_out, shut_out.complete) == ([], 1, False)
    reserve([first, second])

    assert take().job_ids == [third]


def test_an_account_with_many_jobs_does_not_hold_up_one_with_a_single_job():
    crowded, single = an_account(), an_account()
    queued(crowded, 30)
    job_id = a_queued_job(single, now=NOON + HOUR)

    taken = take(size=10)

    assert job_id in taken.job_ids
    assert accounts_of(taken).count(crowded) == 5
    assert not taken.complete


def test_accounts_are_served_in_turn():
    owners = [an_account() for _ in range(5)]
    for account_id in owners:
        queued(account_id, 2)

    first = take(size=3)
    second = take(size=3, after=first.last)
    reserve(first.job_ids)
    reserve(second.job_ids)
    third = take(size=3, after=second.last)

    assert set(accounts_of(first)) == set(owners[:3])
    # The first account's other job is shut out, so its turn passes to nobody.
    assert set(accounts_of(second)) == set(owners[3:])
    assert set(accounts_of(third)) == set(owners[:3])


def test_an_account_that_was_served_comes_again_after_all_others():
    owners = [an_account(10_000) for _ in range(3)]
    for account_id in owners:
        queued(account_id, 2)

    served, last = [], 0
    for _ in range(4):
        taken = take(size=1, after=last)
        reserve(taken.job_ids)
        served += accounts_of(taken)
        last = taken.last

    assert served == [*owners, owners[0]]


def test_a_take_that_left_nothing_behind_is_complete_and_no_other_is():
    account_id = an_account()
    assert take().complete
    queued(account_id, 3)

    assert not take(size=3).complete, "it took as many as it may: there may be more"
    sql("UPDATE generation_jobs SET taken_until = NULL")
    assert take(size=4).complete


def test_a_take_that_passed_over_a_locked_job_is_not_complete():
    held, _ = queued(an_account(), 2)

    with transaction() as session:
        recovery.look_again(session, [held], now=NOON)
        taken = take()

    assert (len(taken.job_ids), taken.complete) == (1, False)


def test_a_rejected_and_a_cancelled_job_are_no_longer_taken():
    rejected, cancelled = queued(an_account(), 2)
    take()

    with transaction() as session:
        reserving.reject(session, [rejected], BillingError("No."), now=NOON)
        submitting.cancel(session, cancelled, now=NOON)

    assert rows("SELECT DISTINCT taken_until FROM generation_jobs") == [(None,)]


def test_recovery_gives_back_what_was_taken_and_never_reserved():
    account_id = an_account()
    (job_id,) = queued(account_id, 1)
    take()

    assert recovered(now=NOON + MINUTE - SECOND) == []
    assert recovered(now=NOON + MINUTE) == [job_id]
    assert the_job(job_id).taken_until is None
    # It may have killed whoever took it: it is left to a message of its own.
    assert take(now=NOON + MINUTE).job_ids == []
    with transaction() as session:
        assert taking.take_alone(session, [job_id], hold=MINUTE, now=NOON + MINUTE).job_ids == [job_id]


def test_recovery_leaves_a_late_take_alone_until_its_time_is_over():
    (job_id,) = queued(an_account(), 1)
    take(now=NOON + MINUTE - SECOND)

    assert recovered(now=NOON + 2 * MINUTE - 2 * SECOND) == []
    assert recovered(now=NOON + 2 * MINUTE - SECOND) == [job_id]


def test_whoever_takes_jobs_alone_takes_no_others():
    account_id = an_account()
    mine, other = queued(account_id, 2)
    take()

    with transaction() as session:
        assert taking.take_alone(session, [mine], hold=HOUR, now=NOON).job_ids == [mine]

    assert the_job(mine).taken_until == NOON + HOUR
    assert the_job(other).taken_until == NOON + MINUTE


def test_only_jobs_that_seem_not_to_be_covered_are_looked_at_more_closely():
    rich, poor, limited, frozen = an_account(), an_account(5), an_account(), an_account()
    a_subscription(limited, {"content_ideas": 0})
    a_queued_job(rich)
    doubted = [a_queued_job(poor), a_queued_job(limited, "idea_generation"), a_queued_job(frozen)]
    sql("UPDATE accounts SET frozen_reason = 'audit' WHERE id = :id", id=frozen)
    sql("INSERT INTO plan_limit_usage (account_id, limit_type, period_start, period_end) "
        "VALUES (:id, 'content_ideas', '2026-11-01', '2026-12-01') ON CONFLICT DO NOTHING", id=limited)  # fmt: skip

    assert set(take().doubted) == set(doubted)
