"""Who asks: the key of a request, what it allows, and how often it may ask."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import redis
from fastapi import Depends, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from limits import RateLimitItemPerMinute
from limits.errors import StorageError
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from billing.access import keys
from billing.access.keys import Bearer, KeyRefused
from billing.errors import BillingError
from config.broker import broker_client
from config.database import single_statements
from config.logging import get_logger
from tasks.runtime import runtime

SCHEME = HTTPBearer(auto_error=False, description="A key, as `creditmill keys create` makes it.")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(SCHEME)]

ANSWERS_WITHIN_S = 1.0

log = get_logger(__name__)


class RateLimited(BillingError):
    """The key has asked too often."""

    code = "rate_limited"

    def __init__(self, limit: int) -> None:
        super().__init__(f"This key may ask {limit:,} times a minute: try again later.")


@dataclass(frozen=True)
class Asker:
    """Who asks, of which account: what an account's key may do is done for its account, and for its user if any."""

    bearer: Bearer
    account_id: int


def asker(credentials: HTTPAuthorizationCredentials | None, scope: str, response: Response) -> Asker:
    """The account whose key this is; raises KeyRefused, ScopeMissing or RateLimited."""
    bearer = bearer_of(credentials, scope, response)
    # A scope of an account's is one of a key that has one.
    assert bearer.account_id is not None
    return Asker(bearer, bearer.account_id)


def bearer_of(credentials: HTTPAuthorizationCredentials | None, scope: str, response: Response) -> Bearer:
    """Whoever has the key of a request, which allows this; raises KeyRefused, ScopeMissing or RateLimited."""
    if credentials is None:
        raise KeyRefused("Give a key: Authorization: Bearer cm_...")
    with single_statements() as connection:
        bearer = keys.bearer(connection, credentials.credentials)
    _count(bearer, response)
    bearer.require(scope)
    return bearer


def _count(bearer: Bearer, response: Response) -> None:
    """Count the request against its key; while Redis is away, nobody is kept out."""
    rate = runtime().settings.api_rate_per_minute
    item, name = RateLimitItemPerMinute(rate), str(bearer.key_id)
    try:
        limiter = _limiter(runtime().settings.broker_url.get_secret_value())
        fits = limiter.hit(item, name)
        stats = limiter.get_window_stats(item, name)
    except (redis.RedisError, StorageError) as error:
        log.warning("rate_not_counted", error=type(error).__name__)
        return
    response.headers["RateLimit-Policy"] = f'"key";q={rate};w=60'
    response.headers["RateLimit"] = f'"key";r={stats.remaining};t={max(0, round(stats.reset_time - time.time()))}'
    if not fits:
        raise RateLimited(rate)


@lru_cache(maxsize=1)
def _limiter(url: str) -> SlidingWindowCounterRateLimiter:
    pool = broker_client(url, timeout_s=ANSWERS_WITHIN_S).connection_pool
    return SlidingWindowCounterRateLimiter(RedisStorage("redis://", connection_pool=pool, key_prefix="creditmill.rate"))
