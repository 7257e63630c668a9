"""Publishing comes after the commit: what is stored is reported as stored, whatever publishing raises."""

from __future__ import annotations

import pytest
import redis
from celery.app.trace import build_tracer
from kombu.exceptions import OperationalError
from kombu.messaging import Producer

from config.settings import Settings
from tasks import generation, pipeline, runtime
from tasks.app import app
from tasks.runtime import Runtime
from tests.conftest import emptied
from tests.factories import an_account, rows, the_job

# What kombu raised on a connection that had just died, what it says it raises, and what lies below it.
TROUBLES = [
    AttributeError("'NoneType' object has no attribute 'client'"),
    OperationalError("away"),
    OSError(32, "Broken pipe"),
    redis.ConnectionError("away"),
]


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: type(trouble).__name__)
def test_a_stored_request_is_reported_as_stored_whatever_publishing_raises(db, servers, monkeypatch, trouble):
    def fail(*args, **kwargs):
        raise trouble

    settings = Settings(DATABASE_URL=db, BROKER_URL=emptied(servers), secret_key="unused")
    monkeypatch.setattr(runtime, "_runtime", Runtime(settings, {}))
    monkeypatch.setattr(Producer, "publish", fail)
    monkeypatch.setattr(redis.Redis, "execute_command", fail)

    submitted = pipeline.submit(an_account(1000), "clustering", {"prompt": "Bread.", "max_output_tokens": 100})

    assert submitted.created
    assert the_job(submitted.job_id).state == "queued"


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: type(trouble).__name__)
def test_a_step_is_done_whatever_publishing_the_next_one_raises(db, servers, monkeypatch, trouble):
    def fail(*args, **kwargs):
        raise trouble

    settings = Settings(DATABASE_URL=db, BROKER_URL=emptied(servers), secret_key="unused")
    monkeypatch.setattr(runtime, "_runtime", Runtime(settings, {}))
    monkeypatch.setattr(Producer, "publish", fail)
    step = generation.refund_credits
    request = {"id": "m-1", "chain": [app.signature("generation.settle_charge")], "is_eager": False}

    build_tracer(step.name, step, app=app)("m-1", ([],), {}, request)

    assert rows("SELECT code, reason FROM dead_messages") == []


def test_what_stops_a_process_is_not_taken_for_trouble(db, servers, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    settings = Settings(DATABASE_URL=db, BROKER_URL=emptied(servers), secret_key="unused")
    monkeypatch.setattr(runtime, "_runtime", Runtime(settings, {}))
    monkeypatch.setattr(Producer, "publish", stop)

    with pytest.raises(KeyboardInterrupt):
        pipeline.submit(an_account(1000), "clustering", {"prompt": "Bread.", "max_output_tokens": 100})
