"""The broker connection when Redis is full or gone: messages are held, publishing fails quietly, nothing ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import redis
from celery import Celery
from kombu import Connection, Consumer, Queue
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import OutOfMemoryError

from tasks import pipeline
from tasks.messages import transport
from tasks.messages.transport import CarefulTransport, use_careful_transport
from tests.system import wait_until
from workers.local.embedded.valkey import Valkey

LETTERS = Queue("letters", routing_key="letters")


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    """A Valkey whose memory may be taken away."""
    with TemporaryDirectory(prefix="creditmill-transport-") as folder:
        server = Valkey(Path(folder) / "valkey")
        server.start()
        yield server
        server.stop()


@pytest.fixture
def admin(valkey: Valkey) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()
        yield client
        client.config_set("maxmemory", 0)


@pytest.fixture
def connection(valkey: Valkey, admin: redis.Redis) -> Iterator[Connection]:
    use_careful_transport()
    with Connection(valkey.url) as made:
        yield made


def test_a_full_broker_is_a_broken_connection(connection):
    assert OutOfMemoryError in connection.connection_errors
    assert isinstance(connection.transport, CarefulTransport)


def test_a_message_is_held_while_the_broker_has_no_room_to_note_who_has_it(connection, admin):
    connection.SimpleQueue(LETTERS).put("bread")
    taken: list[str] = []

    def take(body: str, message: object) -> None:
        taken.append(body)

    admin.config_set("maxmemory", 1)
    threading.Timer(1.5, lambda: admin.config_set("maxmemory", 0)).start()
    with Consumer(connection, [LETTERS], callbacks=[take]):
        wait_until(lambda: connection.drain_events(timeout=10) is None and taken, what="the message")

    assert taken == ["bread"]
    assert admin.hlen("unacked") == 1


def test_a_broker_that_stays_full_is_given_up_after_a_while(connection, admin, monkeypatch):
    monkeypatch.setattr(transport, "ROOM_TRIES", 2)
    monkeypatch.setattr(transport, "ROOM_WAIT_S", 0.01)
    connection.SimpleQueue(LETTERS).put("bread")
    admin.config_set("maxmemory", 1)

    with pytest.raises(OutOfMemoryError), Consumer(connection, [LETTERS], callbacks=[print]):
        connection.drain_events(timeout=5)


@pytest.mark.usefixtures("connection")
def test_publishing_to_a_full_broker_fails_quietly(admin, valkey):
    other = Celery(broker=valkey.url)
    other.config_from_object("celeryconfig")
    step = other.signature("generation.settle_charge", args=[[]])
    admin.config_set("maxmemory", 1)

    assert pipeline.publish(step) is False

    admin.config_set("maxmemory", 0)
    assert pipeline.publish(step) is True
    assert admin.llen("billing") == 1
    other.close()


def test_publishing_on_a_channel_that_was_closed_meanwhile_is_a_lost_connection(connection):
    channel = connection.channel()
    message = channel.prepare_message("bread")
    channel.close()

    with pytest.raises(ConnectionLost):
        channel.basic_publish(message, exchange="", routing_key="letters")


def test_a_channel_whose_connection_is_gone_closes_all_the_same(connection):
    connection.SimpleQueue(LETTERS).put("bread")
    channel = connection.channel()
    Consumer(channel, [LETTERS], callbacks=[print]).consume()
    connection.drain_events(timeout=5)
    channel.connection.client = None

    channel.close()


def test_another_mistake_while_closing_is_not_hidden(connection, monkeypatch):
    channel = connection.channel()
    monkeypatch.setattr(channel, "_disconnect_pools", lambda: channel.nonsense)

    with pytest.raises(AttributeError):
        channel.close()
