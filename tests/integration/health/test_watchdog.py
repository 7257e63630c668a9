"""When a worker counts as stalled: messages wait, it has room, and none arrives for too long."""

from __future__ import annotations

import time

import pytest
import redis
from celery.worker import state as worker_state

from tests.system import wait_until
from workers.health import watchdog
from workers.health.watchdog import Watchdog

AFTER_S = 60.0


class Work:
    """What a worker is busy with; only its identity counts."""


@pytest.fixture
def received(monkeypatch):
    """How many messages the worker has received; set it to have some arrive."""
    count = {"count": 0}
    monkeypatch.setattr(watchdog, "received_count", lambda: count["count"])
    return count


@pytest.fixture
def dog(broker_url, received, monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    return Watchdog(broker_url, ["text", "image"], room=2, stalled_after_s=AFTER_S, stop_within_s=1)


@pytest.fixture
def _waiting(broker_url):
    with redis.Redis.from_url(broker_url) as client:
        client.lpush("image", "a message")


def test_an_empty_queue_is_no_stall(dog):
    assert all(dog.look(second) for second in range(0, 1_000, 6))


@pytest.mark.usefixtures("_waiting")
def test_messages_that_wait_a_minute_without_one_arriving_are_a_stall(dog):
    assert [second for second in range(0, 90, 6) if not dog.look(second)] == [60, 66, 72, 78, 84]


@pytest.mark.usefixtures("_waiting")
def test_a_message_that_arrives_starts_the_minute_anew(dog, received):
    stalled = []
    for second in range(0, 120, 6):
        received["count"] += second == 54
        stalled += [] if dog.look(second) else [second]

    assert stalled == [114]


@pytest.mark.usefixtures("_waiting")
def test_a_worker_without_room_is_not_stalled(dog, monkeypatch):
    work = [Work(), Work()]
    monkeypatch.setattr(worker_state, "reserved_requests", work)
    assert all(dog.look(second) for second in range(0, 1_000, 6))

    work.pop()
    assert not all(dog.look(second) for second in range(1_000, 1_100, 6))


@pytest.mark.usefixtures("_waiting")
def test_a_worker_that_was_told_to_stop_is_left_to_finish(dog, monkeypatch):
    monkeypatch.setattr(worker_state, "should_stop", 0)

    assert all(dog.look(second) for second in range(0, 1_000, 6))


@pytest.mark.usefixtures("_waiting")
def test_a_worker_that_was_suspended_has_its_minute_afterwards(dog):
    assert [dog.look(second) for second in (0, 6, 300, 306)] == [True, True, True, True]


@pytest.mark.usefixtures("received")
def test_a_broker_that_is_away_is_no_stall(monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    dog = Watchdog("redis://127.0.0.1:1/0", ["text"], room=2, stalled_after_s=AFTER_S, stop_within_s=1)

    assert all(dog.look(second) for second in range(0, 1_000, 60))


@pytest.mark.usefixtures("_waiting", "received")
def test_a_worker_that_does_not_stop_is_ended(broker_url, monkeypatch):
    told = []
    monkeypatch.setattr(watchdog.os, "_exit", lambda code: told.append(code))
    dog = Watchdog(
        broker_url,
        ["image"],
        room=2,
        stalled_after_s=0.2,
        stop_within_s=0.1,
        stop=lambda: told.append("stop"),
    )

    dog.start()

    wait_until(lambda: len(told) == 2, what="a stop and an end")
    assert told == ["stop", watchdog.EXIT_CODE]
