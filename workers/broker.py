"""A plain connection to the broker, for whoever only looks: the doctor, the watchdog, the metrics."""

from __future__ import annotations

import redis


def broker_client(url: str) -> redis.Redis:
    """Redis at this address, which may be one of Celery's for a socket file; it answers within seconds, or raises."""
    return redis.Redis.from_url(url.replace("redis+socket", "unix"), socket_timeout=3, socket_connect_timeout=3)
