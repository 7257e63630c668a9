"""Commit first, then call; commit first, then publish: and what is taken in while something is away."""

from __future__ import annotations

from uuid import uuid4

import pytest
from celery.exceptions import Ignore
from kombu.exceptions import OperationalError as BrokerAway
from kombu.message import Message
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from billing.jobs import calling, settling
from config import database
from config.database import DatabaseAway, transaction
from config.integrations import set_connection
from config.settings import Settings
from tasks import calls, generation, periodic, pipeline, runtime
from tasks.app import app
from tasks.calls import call_job
from tasks.messages import consumer, giving_up, intake
from tasks.runtime import Runtime
from tests.catalogue import sql
from tests.factories import a_delivery, a_queued_job, a_reserved_job, an_account, rows, the_account, the_job

pytestmark = pytest.mark.usefixtures("db")


@pytest.fixture
def worker(db):
    """The runtime of this process, for the steps that need one; a test puts its own provider into it."""
    with transaction() as session:
        set_connection(session, "openai", api_key="sk-planted", base_url="http://127.0.0.1:9/v1")
    settings = Settings(DATABASE_URL=db, BROKER_URL="redis://127.0.0.1:9/0", secret_key="unused")
    made = Runtime(settings, {"openai": AProvider()})
    before = runtime._runtime
    runtime.use_runtime(made)
    yield made
    runtime._runtime = before


class AProvider:
    """Delivers, after it has done what a test wants to see done during the call."""

    def __init__(self):
        self.during = lambda claim: None

    def call(self, claim, connection, *, timeout_s):
        self.during(claim)
        return a_delivery()


def test_a_claim_and_its_call_are_committed_before_the_provider_is_called(worker):
    job_id = a_reserved_job(an_account(1000))
    seen = []

    def look(claim):
        # From another session, which sees what was committed and nothing else.
        seen.append((the_job(job_id).state, rows("SELECT attempt, outcome FROM provider_calls")))
        seen.append(rows("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"))

    worker.providers["openai"].during = look
    assert call_job(job_id) == "generated"

    assert seen == [("calling", [(1, None)]), [(0,)]]


def test_what_was_delivered_is_recorded_although_the_database_was_away_for_a_moment(worker, monkeypatch):
    job_id = a_reserved_job(an_account(1000))
    succeed_in_earnest, tried = calling.succeed_many, []

    def succeed_at_the_third_try(*args, **given):
        tried.append(1)
        if len(tried) < 3:
            raise OperationalError("COMMIT", {}, Exception("the server closed the connection"))
        return succeed_in_earnest(*args, **given)

    monkeypatch.setattr(calls.calling, "succeed_many", succeed_at_the_third_try)

    assert call_job(job_id) == "generated"
    assert (len(tried), the_job(job_id).state) == (3, "generated")


@pytest.fixture
def published(monkeypatch):
    """What was published, each time with the rows that were committed by then."""
    seen = []
    query = "SELECT id, state, republished FROM generation_jobs ORDER BY id"
    monkeypatch.setattr(pipeline, "publish", lambda *_, **__: seen.append(rows(query)) or True)
    return seen


def lose_the_database():
    database.disconnect()
    database.connect(database.make_engine("postgresql://nobody@127.0.0.1:9/nothing"))


def a_request(account_id, **given):
    return {"account_id": account_id, "operation": "clustering", "params": {"prompt": "bread"}, **given}


def test_a_request_is_committed_before_it_is_published(worker, published):
    submitted = pipeline.submit(**a_request(an_account(1000)))

    assert published == [[(submitted.job_id, "queued", 0)]]


def test_a_repeated_request_is_not_published_again(worker, published):
    account_id = an_account(1000)

    for _ in range(2):
        pipeline.submit(**a_request(account_id, idempotency_key="order-1"))

    assert len(published) == 1


def test_recovery_commits_before_it_publishes_again(worker, published):
    job_id = a_queued_job(an_account(1000))
    sql("UPDATE generation_jobs SET next_at = now(), deadline_at = now() + interval '1 hour'")

    assert periodic.recover_jobs() == {"started": 1}

    assert published == [[(job_id, "queued", 1)]]


def test_a_request_whose_commit_was_not_confirmed_is_one_job(worker, published):
    account_id, lost = an_account(1000), []

    def lose_the_answer(session):
        if not lost:
            lost.append(session)
            raise OperationalError("COMMIT", {}, Exception("the server closed the connection"))

    event.listen(Session, "after_commit", lose_the_answer)
    try:
        submitted = pipeline.submit(**a_request(account_id))
    finally:
        event.remove(Session, "after_commit", lose_the_answer)

    assert lost
    assert published == [[(submitted.job_id, "queued", 0)]]


def test_a_message_that_is_delivered_twice_is_one_job(worker, published):
    request = a_request(an_account(1000))

    first, second = (intake.take_in((), request, message_id="m-1") for _ in range(2))

    assert first == second
    assert len(published) == 1


def test_a_request_that_could_not_be_kept_is_not_taken_for_done(worker):
    lose_the_database()

    with pytest.raises(DatabaseAway):
        intake.take_in((), {"nonsense": 1}, message_id="m-1")


def test_a_step_is_tried_again_while_the_database_is_away(db, monkeypatch):
    tried = []

    def be_away_once(session, job_ids):
        tried.append(job_ids)
        if len(tried) == 1:
            raise OperationalError("SELECT", {}, Exception("the server closed the connection"))
        return job_ids

    monkeypatch.setattr(settling, "settle", be_away_once)
    job_id = uuid4()

    assert generation.settle_charge.apply(([str(job_id)],)).get() == [str(job_id)]
    assert tried == [[job_id]] * 2


def test_a_message_that_ends_worker_after_worker_is_given_up(worker):
    account_id = an_account(1000)
    job_id = a_reserved_job(account_id)
    task = generation.call_provider
    task.push_request(id="m-1", args=([str(job_id)],), kwargs={}, delivery_info={"redelivered": True})
    try:
        for _ in range(giving_up.LOSSES_MAX):
            giving_up.begin(task, [[str(job_id)]])
        assert the_job(job_id).state == "reserved"
        with pytest.raises(Ignore):
            giving_up.begin(task, [[str(job_id)]])
    finally:
        task.pop_request()

    assert (the_job(job_id).state, the_job(job_id).error_code) == ("refunded", "worker_lost")
    assert the_account(account_id).reserved == 0


def test_messages_are_delivered_at_least_once():
    # Of a killed child's message, of a slow step's, and of a paid call when the broker goes away.
    assert app.conf.task_acks_late is True
    assert app.conf.task_reject_on_worker_lost is True
    assert app.conf.worker_cancel_long_running_tasks_on_connection_loss is False


def test_a_request_is_taken_in_while_the_broker_is_away(worker, monkeypatch):
    def be_away(self, *args, **given):
        raise BrokerAway("no broker")

    monkeypatch.setattr("celery.canvas.Signature.apply_async", be_away)
    monkeypatch.setattr("celery.canvas._chain.apply_async", be_away)

    submitted = pipeline.submit(**a_request(an_account(1000)))

    assert the_job(submitted.job_id).state == "queued"


def test_a_message_that_could_not_be_kept_is_not_acknowledged(db):
    message = Message(body="no task", delivery_tag="1", headers={}, channel=None)
    lose_the_database()

    consumer.CarefulConsumer._set_aside(consumer.CarefulConsumer, message, "not_a_task", "It is none.")

    assert not message.acknowledged
