"""Is everything well? Each check is one sentence; an unhealthy one says what to do."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import redis
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from billing.store import dead, schema
from config import database
from config.database import transaction, utc_now
from config.integrations import PROVIDERS, configured_providers, connection_for
from config.settings import ConfigurationError, Settings
from tasks.app import app
from workers import bootstrap

CLOCK_S = 2.0
"""How far this machine's clock may be from the database's, in seconds."""
WORKERS = ("billing", "generation")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    healthy: bool
    sentence: str


def examine() -> list[Check]:
    """Look at everything that a running system needs; a check that depends on a failed one is left out."""
    try:
        settings = bootstrap.publisher("doctor")
    except ConfigurationError as error:
        return [Check("settings", False, str(error))]
    checks = [Check("settings", True, "The required settings are set.")]
    checks += _database()
    checks += _broker(settings)
    return checks


def _database() -> list[Check]:
    try:
        missing = schema.pending(database.engine())
    except OperationalError:
        return [Check("database", False, "PostgreSQL does not answer: start it, or correct DATABASE_URL.")]
    checks = [Check("database", True, "PostgreSQL answers.")]
    if missing:
        return [*checks, Check("migrations", False, f"{len(missing)} are missing: run `creditmill migrate`.")]
    return [*checks, Check("migrations", True, "The schema is up to date."), _clock(), *_keys(), _set_aside()]


def _clock() -> Check:
    before = utc_now()
    with transaction() as session:
        theirs: datetime = session.scalars(text("SELECT clock_timestamp()")).one()
    middle = before + (utc_now() - before) / 2
    apart = abs((theirs.astimezone(UTC) - middle).total_seconds())
    if apart > CLOCK_S:
        return Check("clock", False, f"This machine and the database are {apart:.1f} s apart: set both by NTP.")
    return Check("clock", True, "This machine's clock agrees with the database's.")


def _keys() -> list[Check]:
    try:
        with transaction() as session:
            found = configured_providers(session)
            for name in found:
                connection_for(session, name, "text")
    except ConfigurationError as error:
        return [Check("keys", False, str(error))]
    if not found:
        return [Check("keys", False, "No provider has a key: run `creditmill integrations set openai`.")]
    known = ", ".join(name + (f" at {found[name]}" if found[name] else "") for name in PROVIDERS if name in found)
    return [Check("keys", True, f"Can be called: {known}.")]


def _set_aside() -> Check:
    with transaction() as session:
        count = dead.count(session)
    sentence = f"{count} messages were set aside: see dead_messages." if count else "No message was set aside."
    return Check("messages", True, sentence)


def _broker(settings: Settings) -> list[Check]:
    url = settings.broker_url.get_secret_value()
    if not url.startswith(("redis://", "rediss://", "redis+socket://")):
        return [Check("broker", False, "BROKER_URL is not a Redis URL: it should look like redis://…")]
    try:
        policy = _eviction_policy(url)
    except redis.RedisError:
        return [Check("broker", False, "Redis does not answer: start it, or correct BROKER_URL.")]
    checks = [Check("broker", True, "Redis answers.")]
    if policy not in (None, "noeviction"):
        sentence = f"Redis may evict queued messages ({policy}): set its maxmemory-policy to noeviction."
        checks.append(Check("eviction", False, sentence))
    return [*checks, *_workers()]


def _eviction_policy(url: str) -> str | None:
    with redis.Redis.from_url(
        url.replace("redis+socket", "unix"), socket_timeout=3, socket_connect_timeout=3
    ) as client:
        client.ping()
        try:
            return client.config_get("maxmemory-policy").get("maxmemory-policy")
        except redis.ResponseError:
            # Managed servers forbid CONFIG; they answer all the same.
            return None


def _workers() -> list[Check]:
    answers = app.control.ping(timeout=2.0)
    names = {name.split("-")[0] for answer in answers for name in answer}
    return [
        Check(f"{kind}", True, f"The {kind} worker answers.")
        if kind in names
        else Check(f"{kind}", False, f"No {kind} worker answers: run `creditmill worker {kind}`, or `creditmill up`.")
        for kind in WORKERS
    ]
