"""The catalogue of faults: what can happen to the processes, their messages, both servers, the network, the provider.

Each fault does its harm, holds it for its time, and takes back what would not mend itself. Which comes when is decided
in `storm`.
"""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from random import Random
from urllib.error import URLError
from uuid import uuid4

import psutil
import psycopg2
import redis
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tests.chaos import chaotic
from tests.chaos.proxy import Proxy
from tests.chaos.storm_world import (
    BEATS,
    BILLING,
    GENERATION,
    MOST_CONNECTIONS,
    PROVIDER,
    World,
    restart_postgres,
    restart_valkey,
    sleep,
)

LEASE_S = 14
"""How long a claim lasts at the storm's pace, in seconds: a call, a wait, and ten."""

LOOKS, LOOK_EVERY_S = 300, 0.01

PROVIDER_FAULTS = (
    *("rate_limit", "rate_limit_window", "overloaded", "overloaded_until", "too_early", "server_error"),
    *("hang_before_accept", "hang_after_accept", "reset_before_accept", "reset_mid_body", "drip", "bad_gateway"),
    *("gateway_timeout", "malformed_body", "missing_usage", "model_refusal", "error_in_answer", "content_policy"),
    *("insufficient_quota", "slow"),
)

NOT_NOW = (redis.RedisError, DBAPIError, psycopg2.Error, URLError, ConnectionError, psutil.NoSuchProcess)
"""What a fault meets when another one got there first; it then did not happen."""


class NotNow(Exception):
    """The fault found nothing to harm."""


Harm = Callable[[World, Random], str]
"""Does it, and says in a few words what was done."""


@dataclass(frozen=True)
class Fault:
    """A fault by its name: how often it is chosen compared with others, and what it needs to itself meanwhile."""

    name: str
    weight: int
    alone_with: str
    harm: Harm


def _kill_one_of(names: Sequence[str]) -> Harm:
    def kill(world: World, chance: Random) -> str:
        name, pid = _one_of(world, chance, names)
        os.kill(pid, signal.SIGKILL)
        return name

    return kill


def _kill_child(world: World, chance: Random) -> str:
    name, pid = _one_of(world, chance, BILLING)
    children = psutil.Process(pid).children()
    if not children:
        raise NotNow
    chance.choice(children).kill()
    return name


def _rolling_restart(world: World, chance: Random) -> str:
    names = chance.choice([BILLING, GENERATION])
    for name, pid in world.pids(names).items():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        for _ in range(100):
            if world.pids([name]).get(name, pid) != pid:
                break
            sleep(0.1)
    return ", ".join(names)


def _suspend(seconds: tuple[float, float]) -> Harm:
    def suspend(world: World, chance: Random) -> str:
        name, pid = _one_of(world, chance, [*BILLING, *GENERATION])
        for_s = chance.uniform(*seconds)
        os.killpg(pid, signal.SIGSTOP)
        try:
            sleep(for_s)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGCONT)
        return f"{name} for {for_s:.1f} s"

    return suspend


def _weather(world: World, chance: Random) -> str:
    for_s = chance.uniform(2, 5)
    chaotic.forecast(world.weather, chaotic.STORMY)
    try:
        sleep(for_s)
    finally:
        chaotic.forecast(world.weather, chaotic.CLEAR)
    return f"for {for_s:.1f} s"


def _in_queue(change: Callable[[redis.client.Pipeline, str, list[bytes], Random], None]) -> Harm:
    """Do something to everything that lies in one queue just now."""

    def harm(world: World, chance: Random) -> str:
        with world.broker() as broker:
            queue = _a_full_queue(broker, chance)
            items = broker.lrange(queue, 0, -1)
            with broker.pipeline() as pipeline:
                change(pipeline, queue, items, chance)
                pipeline.execute()
        return f"{len(items)} in {queue}"

    return harm


def _a_full_queue(broker: redis.Redis, chance: Random) -> str:
    """A queue with something in it, looked for during a few seconds: most are empty most of the time."""
    for _ in range(LOOKS):
        full = [queue for queue in sorted(chaotic.QUEUES) if broker.llen(queue)]
        if full:
            return chance.choice(full)
        sleep(LOOK_EVERY_S)
    raise NotNow


def _double(pipeline: redis.client.Pipeline, queue: str, items: list[bytes], chance: Random) -> None:
    for item in items:
        message = json.loads(item)
        # A copy in its own right, which is acknowledged by itself.
        message["properties"]["delivery_tag"] = str(uuid4())
        pipeline.lpush(queue, json.dumps(message))


def _shuffle(pipeline: redis.client.Pipeline, queue: str, items: list[bytes], chance: Random) -> None:
    for item in items:
        pipeline.lrem(queue, 1, item)
    for item in chance.sample(items, len(items)):
        pipeline.lpush(queue, item)


def _drop(pipeline: redis.client.Pipeline, queue: str, items: list[bytes], chance: Random) -> None:
    for item in items:
        pipeline.lrem(queue, 1, item)


def _flush(world: World, chance: Random) -> str:
    with world.broker() as broker:
        broker.flushall()
    return ""


def _restart_valkey(*, empty: bool) -> Harm:
    def restart(world: World, chance: Random) -> str:
        restart_valkey(world, empty=empty)
        return ""

    return restart


def _pause_clients(world: World, chance: Random) -> str:
    for_s = chance.uniform(0.5, 3)
    with world.broker() as broker:
        broker.client_pause(int(for_s * 1000))
    sleep(for_s)
    return f"for {for_s:.1f} s"


def _out_of_memory(world: World, chance: Random) -> str:
    for_s = chance.uniform(1, 4)
    with world.broker() as broker:
        broker.config_set("maxmemory", 1)
    try:
        sleep(for_s)
    finally:
        with world.broker() as broker:
            broker.config_set("maxmemory", 0)
    return f"for {for_s:.1f} s"


def _restart_postgres(*, immediate: bool) -> Harm:
    def restart(world: World, chance: Random) -> str:
        restart_postgres(world, immediate=immediate)
        return ""

    return restart


def _end_backends(world: World, chance: Random) -> str:
    times = chance.randint(1, 5)
    ended = 0
    for _ in range(times):
        with world.direct.connect() as connection:
            statement = (
                "SELECT count(*) FROM (SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()) t"
            )
            ended += connection.execute(text(statement)).scalar_one()
        sleep(0.1)
    return f"{ended} in {times} blows"


def _exhaust_connections(world: World, chance: Random) -> str:
    for_s = chance.uniform(1, 4)
    url = world.postgres.url.replace("postgresql+psycopg2", "postgresql")
    held = []
    try:
        with suppress(psycopg2.OperationalError):
            while len(held) < MOST_CONNECTIONS:
                held.append(psycopg2.connect(url))
        sleep(for_s)
    finally:
        for connection in held:
            with closing(connection):
                pass
    return f"{len(held)} for {for_s:.1f} s"


def _suspend_postgres(world: World, chance: Random) -> str:
    for_s = chance.uniform(1, 4)
    pid = world.postgres.pid
    if pid is None:
        raise NotNow
    main = psutil.Process(pid)
    family = [main, *main.children(recursive=True)]
    try:
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        sleep(for_s)
    finally:
        for process in reversed(family):
            with suppress(psutil.NoSuchProcess):
                process.resume()
    return f"{len(family)} processes for {for_s:.1f} s"


def _cut(proxy_of: Callable[[World], Proxy]) -> Harm:
    def cut(world: World, chance: Random) -> str:
        return f"{proxy_of(world).cut()} connections"

    return cut


def _lose_commits(*, done: bool) -> Harm:
    def lose(world: World, chance: Random) -> str:
        count, before = chance.randint(1, 5), world.to_postgres.commits_cut
        (world.to_postgres.lose_answers if done else world.to_postgres.lose_commits)(count)
        for _ in range(30):
            if world.to_postgres.commits_cut - before >= count:
                break
            sleep(0.1)
        world.to_postgres.lose_answers(0)
        world.to_postgres.lose_commits(0)
        if world.to_postgres.commits_cut == before:
            raise NotNow
        return f"{world.to_postgres.commits_cut - before} commits"

    return lose


def _half_open(proxy_of: Callable[[World], Proxy]) -> Harm:
    def half_open(world: World, chance: Random) -> str:
        for_s = chance.uniform(1, 5)
        proxy_of(world).freeze()
        try:
            sleep(for_s)
        finally:
            proxy_of(world).thaw()
        return f"for {for_s:.1f} s"

    return half_open


def _bad_provider(world: World, chance: Random) -> str:
    fault, times = chance.choice(PROVIDER_FAULTS), chance.randint(1, 4)
    body = json.dumps({"faults": [{"fault": fault, "times": times}]}).encode()
    request = urllib.request.Request(f"{world.provider_url}/simulator/faults", body, method="POST")
    with urllib.request.urlopen(request, timeout=5) as answer:
        answer.read()
    return f"{fault} x{times}"


def _postgres_proxy(world: World) -> Proxy:
    return world.to_postgres


def _valkey_proxy(world: World) -> Proxy:
    return world.to_valkey


# Whatever takes a worker away costs seconds of its work: too much of that, and nothing is left to go wrong.
FAULTS: Sequence[Fault] = (
    Fault("billing worker killed", 3, "programs", _kill_one_of(BILLING)),
    Fault("billing child killed", 6, "programs", _kill_child),
    Fault("generation worker killed", 3, "programs", _kill_one_of(GENERATION)),
    Fault("beat killed", 2, "programs", _kill_one_of(BEATS)),
    Fault("rolling restart", 1, "programs", _rolling_restart),
    Fault("worker suspended", 4, "programs", _suspend((1, 5))),
    Fault("worker suspended past its lease", 1, "programs", _suspend((LEASE_S + 2, LEASE_S + 4))),
    Fault("message weather", 8, "weather", _weather),
    Fault("queue doubled", 9, "valkey", _in_queue(_double)),
    Fault("queue shuffled", 9, "valkey", _in_queue(_shuffle)),
    Fault("queue dropped", 9, "valkey", _in_queue(_drop)),
    Fault("everything flushed", 4, "valkey", _flush),
    Fault("Valkey restarted empty", 3, "valkey", _restart_valkey(empty=True)),
    Fault("Valkey restarted", 2, "valkey", _restart_valkey(empty=False)),
    Fault("Valkey clients paused", 4, "valkey", _pause_clients),
    Fault("Valkey out of memory", 2, "valkey", _out_of_memory),
    Fault("PostgreSQL stopped immediately", 3, "postgres", _restart_postgres(immediate=True)),
    Fault("PostgreSQL killed", 2, "postgres", _restart_postgres(immediate=False)),
    Fault("backends terminated", 8, "postgres", _end_backends),
    Fault("connections exhausted", 3, "postgres", _exhaust_connections),
    Fault("PostgreSQL suspended", 3, "postgres", _suspend_postgres),
    Fault("PostgreSQL connections cut", 10, "network", _cut(_postgres_proxy)),
    Fault("Valkey connections cut", 8, "network", _cut(_valkey_proxy)),
    Fault("commits unanswered", 18, "network", _lose_commits(done=True)),
    Fault("commits lost", 12, "network", _lose_commits(done=False)),
    Fault("PostgreSQL half open", 3, "network", _half_open(_postgres_proxy)),
    Fault("Valkey half open", 3, "network", _half_open(_valkey_proxy)),
    Fault("provider fails", 16, "provider", _bad_provider),
    Fault("provider killed", 4, "provider", _kill_one_of([PROVIDER])),
)


def _one_of(world: World, chance: Random, names: Sequence[str]) -> tuple[str, int]:
    running = world.pids(names)
    if not running:
        raise NotNow
    name = chance.choice(sorted(running))
    return name, running[name]
