"""Hints: each leads to a take of what it tells of, or is dropped because one has begun since."""

from __future__ import annotations

import time
from types import SimpleNamespace
from uuid import uuid4

import pytest

from billing.jobs.taking import Taken
from config.broker import broker_client
from config.settings import Settings
from tasks import generation, hints, pipeline, runtime
from tasks.messages import pending, takes
from tasks.runtime import Runtime
from tests.conftest import emptied
from tests.factories import a_queued_job, an_account, rows, the_job

pytestmark = pytest.mark.usefixtures("db")


@pytest.fixture
def broker_url(servers):
    return emptied(servers)


@pytest.fixture(autouse=True)
def told(db, broker_url, monkeypatch):
    """A worker that remembers no take; returns what it publishes."""
    settings = Settings(DATABASE_URL=db, BROKER_URL=broker_url, secret_key="unused")
    monkeypatch.setattr(runtime, "_runtime", Runtime(settings, {}))
    monkeypatch.setattr(takes, "_complete_since", takes.c_double(0.0))
    monkeypatch.setattr(hints, "_looks", hints._Looks())
    monkeypatch.setattr(hints, "_last_account", 0)
    published = []
    monkeypatch.setattr(pipeline, "reserve", lambda job_ids: published.append(("reserve", list(job_ids))))
    monkeypatch.setattr(pipeline, "look_again", lambda *, after_s: published.append(("look", after_s)))
    monkeypatch.setattr(pipeline, "_hint", lambda job_ids, **_: published.append(("hint", list(job_ids))))
    return published


def check(*job_ids, **given):
    return generation.check_balance.apply(([str(job_id) for job_id in job_ids],), given).get()


def test_a_hint_takes_what_waits_whatever_it_names(told):
    job_id = a_queued_job(an_account(1000))

    assert check() == [str(job_id)]

    assert told == [("reserve", [job_id])]
    assert takes.complete_since() > 0


def test_a_hint_is_dropped_only_if_a_complete_take_began_after_it_was_received(told):
    received = time.monotonic()
    assert not hints.is_covered(SimpleNamespace(received_at=received))

    check()

    assert hints.is_covered(SimpleNamespace(received_at=received))
    assert not hints.is_covered(SimpleNamespace(received_at=time.monotonic()))
    assert not hints.is_covered(SimpleNamespace())


def test_a_take_that_leaves_jobs_behind_is_followed_by_another(told, monkeypatch):
    account_id = an_account(10_000)
    jobs = [a_queued_job(account_id) for _ in range(3)]
    monkeypatch.setattr("billing.jobs.taking.take.__kwdefaults__", {"after": 0, "size": 2, "now": None})

    taken = check()

    assert len(taken) == 2
    assert [what for what, _ in told] == ["hint", "reserve"]
    assert takes.complete_since() == 0
    assert rows("SELECT count(*) FROM generation_jobs WHERE taken_until IS NULL") == [(len(jobs) - 2,)]


def test_looks_come_later_and_later_while_an_account_stays_in_another_take(told):
    account_id = an_account(10_000)
    a_queued_job(account_id)
    check()
    a_queued_job(account_id)
    told.clear()

    for _ in range(3):
        check()
        hints._looks.due_at = 0.0

    waits = [wait for what, wait in told if what == "look"]
    assert waits == [hints.LOOK_AGAIN_S, 2 * hints.LOOK_AGAIN_S, 4 * hints.LOOK_AGAIN_S]


def test_when_jobs_are_reserved_accounts_that_were_left_out_are_looked_at_at_once(told, monkeypatch):
    account_id = an_account(10_000)
    first = a_queued_job(account_id)
    check()
    second = a_queued_job(account_id)
    check()
    told.clear()

    for _ in range(2):
        generation.reserve_credits.apply(([str(first)],)).get()

    assert told == [("hint", [])]
    assert check() == [str(second)]


def test_one_look_that_is_to_come_is_enough(told, monkeypatch):
    account_id = an_account(10_000)
    a_queued_job(account_id)
    check()
    a_queued_job(account_id)
    told.clear()
    # Longer than two checks take, however slow this machine is.
    monkeypatch.setattr(hints._looks, "wait_s", 60.0)

    check()
    check()

    assert [what for what, _ in told] == ["look"]


def test_while_one_hint_is_pending_no_other_one_is_sent(told):
    first, second, third = uuid4(), uuid4(), uuid4()
    pipeline.start([first, second])
    pipeline.start([third])

    assert told == [("hint", [first])]


def test_when_a_take_begins_what_comes_then_is_told_again(told, monkeypatch):
    pipeline.start([uuid4()])
    told.clear()
    late = uuid4()

    def take(session, **_):
        # The take of the pending hint has begun: perhaps it does not see what is committed now.
        pipeline.start([late])
        return Taken([], [], complete=True)

    monkeypatch.setattr(hints.taking, "take", take)
    check()

    assert told == [("hint", [late])]


def test_a_hint_that_was_lost_keeps_others_back_for_a_moment_only(broker_url):
    pipeline.start([uuid4()])

    with broker_client(broker_url) as client:
        assert 0 < client.pttl(pending.MARK) <= pending.LASTS_MS


def test_without_the_broker_s_word_a_hint_is_sent(told, monkeypatch):
    settings = Settings(DATABASE_URL="postgresql://", BROKER_URL="redis://127.0.0.1:9/0", secret_key="unused")
    monkeypatch.setattr(runtime, "_runtime", Runtime(settings, {}))

    for _ in range(2):
        pipeline.start([uuid4()])

    assert [what for what, _ in told] == ["hint", "hint"]


def test_a_hint_that_comes_again_is_followed_by_one_for_the_jobs_that_relied_on_it(told, monkeypatch):
    account_id = an_account(1000)
    mine = a_queued_job(account_id)
    a_queued_job(account_id)
    monkeypatch.setattr(generation.giving_up, "was_delivered_before", lambda task: True)

    assert check(mine) == [str(mine)]

    assert told == [("hint", []), ("reserve", [mine])]


def test_a_message_of_recovery_takes_its_own_jobs_alone(told):
    account_id = an_account(1000)
    mine, other = a_queued_job(account_id), a_queued_job(account_id)

    assert check(mine, alone=True) == [str(mine)]

    assert the_job(other).taken_until is None


def test_a_job_that_its_account_clearly_cannot_pay_for_goes_no_further(told):
    rich, poor = a_queued_job(an_account(1000)), a_queued_job(an_account(5))

    assert check() == [str(rich)]

    assert (the_job(poor).state, the_job(poor).error_code) == ("rejected", "insufficient_credits")
