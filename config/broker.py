"""A plain connection to the broker, beside those of Celery: for those who look at it, and for marks in it."""

from __future__ import annotations

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry


def broker_client(url: str, *, timeout_s: float = 3) -> redis.Redis:
    """Redis at this address, which may be one of Celery's for a socket file; it answers within seconds, or raises."""
    return redis.Redis.from_url(
        url.replace("redis+socket", "unix"),
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        # A connection that died with its server is replaced once.
        retry=Retry(NoBackoff(), 1),
    )
