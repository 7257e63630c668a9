"""A plain connection to the broker, beside those of Celery: for those who look at it, and for marks in it."""

from __future__ import annotations

from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from config.addresses import BROKER, SOCKET, Address, read_address

PORT = 6379


def broker_client(url: str, *, timeout_s: float = 3) -> redis.Redis:
    """Redis at this address, as Celery understands it; it answers within seconds, or raises.

    Raises AddressError when `url` cannot be read.
    """
    return redis.Redis(
        **_place(url),
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        # A connection that died with its server is replaced once.
        retry=Retry(NoBackoff(), 1),
    )


def listening_client(url: str) -> redis.asyncio.Redis:
    """The same for an event loop, to listen for as long as it takes; raises AddressError like `broker_client`."""
    return redis.asyncio.Redis(
        **_place(url),
        socket_connect_timeout=3,
        health_check_interval=15,
        # Whoever listens comes again by itself.
        retry=AsyncRetry(NoBackoff(), 0),
    )


def _place(url: str) -> dict[str, Any]:
    found = read_address("BROKER_URL", url, BROKER)
    place = _file(found) if found.scheme == SOCKET else _host(found)
    return {**place, "username": found.user, "password": found.password}


def _file(found: Address) -> dict[str, Any]:
    (number,) = found.options.get("virtual_host", ("0",))
    return {"unix_socket_path": found.path, "db": int(number)}


def _host(found: Address) -> dict[str, Any]:
    place = {
        "host": found.host or "127.0.0.1",
        "port": found.port or PORT,
        "db": int(found.path.removeprefix("/") or 0),
    }
    if found.scheme == "redis":
        return place
    options: dict[str, Any] = {name: values[-1] for name, values in found.options.items()}
    if "ssl_cert_reqs" in options:
        # Celery takes Python's own names of them, too.
        options["ssl_cert_reqs"] = options["ssl_cert_reqs"].removeprefix("CERT_").lower()
    if "ssl_check_hostname" in options:
        options["ssl_check_hostname"] = options["ssl_check_hostname"].lower() == "true"
    return {**place, "ssl": True, **options}
