"""Messages that kill their worker: counted, split, and given up with nothing charged."""

from __future__ import annotations

from types import SimpleNamespace
from uuid import uuid4

import pytest
from celery.exceptions import Ignore, Reject
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from billing.jobs import recovery
from billing.reports import audit
from config.database import transaction
from tasks import generation, pipeline
from tasks.messages import giving_up, intake
from tests.factories import (
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


@pytest.fixture
def account_id(db):
    return an_account(1000)


@pytest.fixture(autouse=True)
def _the_books_balance(db):
    yield
    with transaction(isolation="REPEATABLE READ", read_only=True) as session:
        assert audit.audit(session, now=NOON) == []


def a_task(name="generation.reserve_credits", *, message_id="m-1", redelivered=True, kwargs=None):
    request = SimpleNamespace(id=message_id, delivery_info={"redelivered": redelivered}, kwargs=kwargs)
    return SimpleNamespace(name=name, request=request)


def lose(task, args, times):
    for _ in range(times):
        giving_up.begin(task, args)


def test_a_job_is_given_up_after_its_message_has_cost_four_workers(account_id):
    job_id = a_queued_job(account_id)
    task, args = a_task(), [[str(job_id)]]
    lose(task, args, giving_up.LOSSES_MAX)

    with pytest.raises(Ignore):
        giving_up.begin(task, args)

    assert (the_job(job_id).state, the_job(job_id).error_code) == ("rejected", "worker_lost")
    assert rows("SELECT code, job_id FROM dead_messages") == [("worker_lost", job_id)]


def test_work_that_ends_is_forgotten(account_id):
    job_id = a_queued_job(account_id)
    task, args = a_task(), [[str(job_id)]]

    for _ in range(3 * giving_up.LOSSES_MAX):
        giving_up.begin(task, args)
        giving_up.end(task)

    assert the_job(job_id).state == "queued"
    assert rows("SELECT count(*) FROM worker_losses") == [(0,)]


def test_other_messages_about_the_same_job_are_no_losses_of_this_one(account_id):
    args = [[str(a_queued_job(account_id))]]

    for number in range(3 * giving_up.LOSSES_MAX):
        giving_up.begin(a_task(message_id=f"m-{number}"), args)


def test_losses_of_a_day_ago_are_forgotten(account_id):
    giving_up.begin(a_task(), [[str(a_queued_job(account_id))]])
    giving_up.forget_old()
    assert rows("SELECT count(*) FROM worker_losses") == [(1,)]
    with transaction() as session:
        session.execute(text("UPDATE worker_losses SET last_at = last_at - interval '25 hours'"))

    giving_up.forget_old()

    assert rows("SELECT count(*) FROM worker_losses") == [(0,)]


def test_a_step_that_is_tried_again_later_did_not_kill_its_worker(account_id, monkeypatch):
    ended = []
    monkeypatch.setattr(giving_up, "was_delivered_before", lambda task: True)
    monkeypatch.setattr(giving_up, "end", lambda task: ended.append(task.name))

    generation.settle_charge.on_retry(OperationalError("x", {}, Exception()), "m", [], {}, None)

    assert ended == ["generation.settle_charge"]


def test_a_deadly_request_that_cannot_be_kept_goes_back_into_the_queue(monkeypatch, db):
    task = a_task("generation.submit", message_id="wire-1", kwargs={"account_id": 1})
    lose(task, [], giving_up.LOSSES_MAX)
    monkeypatch.setattr(giving_up.setting_aside, "set_aside", lambda **_: False)

    with pytest.raises(Reject) as caught:
        giving_up.begin(task, [])

    assert caught.value.requeue


def test_a_batch_is_split_so_that_the_others_go_on(account_id, monkeypatch):
    sent = []
    monkeypatch.setattr(pipeline, "publish", lambda signature: sent.append(signature))
    jobs = [a_queued_job(account_id), a_reserved_job(account_id), a_generated_job(account_id)]

    with pytest.raises(Ignore):
        giving_up.begin(a_task(), [[str(job_id) for job_id in jobs]])

    tasks = sorted(each.tasks[0].task if hasattr(each, "tasks") else each.task for each in sent)
    assert tasks == ["generation.call_provider", "generation.check_balance", "generation.settle_charge"]
    assert rows("SELECT count(*) FROM worker_losses") == [(0,)]


def test_a_message_that_came_for_the_first_time_is_not_counted():
    assert not giving_up.was_delivered_before(a_task(redelivered=False))
    assert giving_up.was_delivered_before(a_task())


def give_up(job_id):
    with transaction() as session:
        return recovery.give_up(session, [job_id], now=NOON)


def test_what_was_reserved_is_released(account_id):
    job_id = a_reserved_job(account_id)

    assert give_up(job_id) == [job_id]

    assert (the_job(job_id).state, the_job(job_id).error_code) == ("refunded", "worker_lost")
    assert (the_account(account_id).balance, the_account(account_id).reserved) == (1000, 0)


def test_what_was_delivered_is_not_charged_and_its_cost_is_ours(account_id):
    job_id = a_generated_job(account_id)

    assert give_up(job_id) == [job_id]

    job = the_job(job_id)
    assert (job.state, job.credits_charged) == ("refunded", None)
    assert job.cost_usd > 0
    assert rows("SELECT outcome, exposure FROM provider_calls") == [("succeeded", True)]
    assert (the_account(account_id).balance, the_account(account_id).reserved) == (1000, 0)


def test_a_call_under_way_keeps_its_hold(account_id):
    claim = a_claim(a_reserved_job(account_id))

    assert give_up(claim.job_id) == []

    assert the_job(claim.job_id).state == "calling"


def test_giving_up_twice_changes_nothing(account_id):
    job_id = a_reserved_job(account_id)

    assert [give_up(job_id), give_up(job_id)] == [[job_id], []]


def test_a_request_that_kills_its_worker_is_set_aside(db):
    task = a_task("generation.submit", message_id="wire-1", kwargs={"account_id": 1})
    lose(task, [], giving_up.LOSSES_MAX)

    with pytest.raises(Ignore):
        giving_up.begin(task, [])

    assert rows("SELECT message_id, code FROM dead_messages") == [("wire-1", "worker_lost")]


def test_while_the_database_is_away_the_work_goes_on_uncounted(monkeypatch, account_id):
    def away(*_, **__):
        raise OperationalError("SELECT", {}, Exception("away"))

    monkeypatch.setattr(giving_up.worker_losses, "count", away)

    giving_up.begin(a_task(), [[str(uuid4())]])


def test_a_request_goes_back_into_the_queue_while_the_database_is_away(monkeypatch, db):
    def away(*_, **__):
        raise OperationalError("SELECT", {}, Exception("away"))

    monkeypatch.setattr(intake, "take_in", away)
    monkeypatch.setattr(generation, "PAUSE_S", 0)

    with pytest.raises(Reject) as caught:
        generation.submit()

    assert caught.value.requeue


def test_a_refusal_that_cannot_be_kept_goes_back_into_the_queue(monkeypatch, db):
    monkeypatch.setattr(intake.setting_aside, "set_aside", lambda **_: False)

    with pytest.raises(intake.DatabaseAway):
        intake.take_in((), {"account_id": 1}, message_id="m-1")


def test_a_losing_message_of_a_job_in_flight_never_charges(account_id):
    """A redelivered settle message of a job that was given up does nothing."""
    from billing.jobs import settling

    job_id = a_generated_job(account_id)
    give_up(job_id)
    with transaction() as session:
        assert settling.settle(session, [job_id], now=NOON + MINUTE) == []
    assert the_account(account_id).balance == 1000
