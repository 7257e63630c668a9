"""What waits in the broker is counted whole: every priority of every queue, and in one round trip."""

from __future__ import annotations

import json
import time

import pytest
import redis
from celery import Celery
from redis.connection import Connection

from tests.system import forget_broker
from workers.health import watchdog
from workers.health.broker import messages_by_queue, queue_names
from workers.health.watchdog import Watchdog


@pytest.fixture
def app_of_others(broker_url):
    """Another program that sends us messages by Celery."""
    forget_broker()
    other = Celery(broker=broker_url)
    other.config_from_object("celeryconfig")
    yield other
    other.close()


def sent(other, *priorities, queue="requests"):
    for priority in priorities:
        other.send_task("generation.submit", kwargs={}, queue=queue, priority=priority)


def test_a_message_of_any_priority_is_counted(app_of_others, broker_url):
    sent(app_of_others, *range(10))
    sent(app_of_others, 9, queue="text")

    with redis.Redis.from_url(broker_url) as client:
        waiting = messages_by_queue(client, queue_names())

    assert waiting == dict.fromkeys(queue_names(), 0) | {"requests": 10, "text": 1}


def test_all_queues_are_counted_in_one_round_trip(broker_url, monkeypatch):
    trips = []
    send = Connection.send_packed_command
    with redis.Redis.from_url(broker_url) as client:
        client.ping()
        monkeypatch.setattr(
            Connection, "send_packed_command", lambda *args, **given: trips.append(1) or send(*args, **given)
        )

        messages_by_queue(client, queue_names())

    assert len(trips) == 1


def test_metrics_and_doctor_tell_messages_of_every_priority(app_of_others, run):
    sent(app_of_others, 0, 0, 3, 4, 6, 7, 9, 9)

    figures = [json.loads(line) for line in run("metrics", "--json")[1].splitlines()]
    (checks,) = (json.loads(line)["checks"] for line in run("doctor", "--json")[1].splitlines())

    waiting = {each["labels"]["queue"]: each["value"] for each in figures if "queue" in each["labels"]}
    assert waiting["requests"] == 8
    assert [each["sentence"] for each in checks if each["name"] == "queues"] == ["Messages wait in queues: requests 8."]


def test_the_watchdog_sees_messages_of_another_priority_wait(app_of_others, broker_url, monkeypatch):
    monkeypatch.setattr(watchdog, "received_count", lambda: 0)
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    sent(app_of_others, 6, queue="text")
    dog = Watchdog(broker_url, ["text", "image"], room=2, stalled_after_s=60, stop_within_s=1)

    assert [second for second in range(0, 90, 6) if not dog.look(second)] == [60, 66, 72, 78, 84]
