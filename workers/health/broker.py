"""A plain connection to the broker, for those who only look: the doctor, the watchdog, the metrics."""

from __future__ import annotations

import redis

from tasks.app import app


def broker_client(url: str) -> redis.Redis:
    """Redis at this address, which may be one of Celery's for a socket file; it answers within seconds, or raises."""
    return redis.Redis.from_url(url.replace("redis+socket", "unix"), socket_timeout=3, socket_connect_timeout=3)


def messages_by_queue(client: redis.Redis) -> dict[str, int]:
    """How many messages wait in each queue."""
    return {queue.name: client.llen(queue.name) for queue in app.conf.task_queues}
