"""The system that a storm goes over: servers, proxies before them, two workers of each kind, two beats, a provider.

What is done to it is in `faults`; who uses it is in `storm_traffic`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import Engine, create_engine, make_url, text

from billing import migrating
from config import database
from config.database import transaction
from config.integrations import set_connection
from config.logging import configure_logging
from tests.chaos import chaotic
from tests.chaos.proxy import HOST, Proxy, Target
from tests.conftest import SECRET_KEY
from tests.removals import keep_models
from tests.system import forget_broker, wait_until
from workers import bootstrap
from workers.local import machine, supervisor
from workers.local.embedded.postgres import Postgres
from workers.local.embedded.valkey import Valkey
from workers.local.supervisor import Program, Supervisor, is_alive

PACE = {
    "CREDITMILL_TEXT_CALL_S": "3",
    "CREDITMILL_IMAGE_CALL_S": "3",
    "CREDITMILL_CALL_WAIT_MAX_S": "1",
    "CREDITMILL_CALL_TOTAL_S": "10",
    "CREDITMILL_UNKNOWN_WAIT_S": "2",
    "CREDITMILL_REPUBLISH_AFTER_S": "1",
    "CREDITMILL_RECOVER_EVERY_S": "1",
    "CREDITMILL_VISIBILITY_TIMEOUT_S": "10",
    "CREDITMILL_GENERATION_CONCURRENCY": "16",
    "CREDITMILL_BILLING_CONCURRENCY": "2",
}
MOST_CONNECTIONS = 120
RATES = {
    "rate_limit": 0.04,
    "rate_limit_window": 0.01,
    "overloaded": 0.02,
    "overloaded_until": 0.01,
    "too_early": 0.01,
    "server_error": 0.03,
    "hang_before_accept": 0.01,
    "hang_after_accept": 0.01,
    "reset_before_accept": 0.01,
    "reset_mid_body": 0.01,
    "drip": 0.01,
    "bad_gateway": 0.01,
    "gateway_timeout": 0.01,
    "malformed_body": 0.01,
    "missing_usage": 0.01,
    "model_refusal": 0.01,
    "error_in_answer": 0.01,
    "content_policy": 0.01,
    "bad_request": 0.01,
    "insufficient_quota": 0.005,
    "fewer_images": 0.03,
    "slow": 0.03,
}
LATENCY_S = 0.2
BILLING = ("billing-1", "billing-2")
GENERATION = ("generation-1", "generation-2")
BEATS = ("beat-1", "beat-2")
PROVIDER = "simulator"


@dataclass
class World:
    """Everything that runs, and how to get at it: through the proxies as the programs do, and past them."""

    home: Path
    postgres: Postgres
    valkey: Valkey
    to_postgres: Proxy
    to_valkey: Proxy
    supervisor: Supervisor
    weather: Path
    environment: dict[str, str]
    provider_url: str
    # Straight to the server, for whoever looks on.
    direct: Engine

    def pids(self, names: Sequence[str]) -> dict[str, int]:
        """The main process ids of those of the programs that run just now."""
        running = self.supervisor.pids()
        return {name: running[name] for name in names if name in running}

    def broker(self) -> redis.Redis:
        """Valkey, past the proxy."""
        return redis.Redis.from_url(self.valkey.url, socket_timeout=8, retry=Retry(NoBackoff(), 0))

    @property
    def journal(self) -> Path:
        """What the provider did."""
        return self.home / "simulator-journal.jsonl"

    def heal(self) -> None:
        """End everything that goes on being wrong by itself: the weather, the proxies, what is suspended."""
        chaotic.forecast(self.weather, chaotic.CLEAR)
        for proxy in (self.to_postgres, self.to_valkey):
            proxy.heal()
        for pid in self.supervisor.pids().values():
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGCONT)


def restart_postgres(world: World, *, immediate: bool) -> None:
    """End PostgreSQL at once, by its own immediate shutdown or by kill -9 of all its processes; start it again."""
    pid = world.postgres.pid
    if immediate and pid is not None:
        main = psutil.Process(pid)
        main.send_signal(signal.SIGQUIT)
        wait_until(lambda: not is_alive(main), within_s=20, what="PostgreSQL's end")
    else:
        world.postgres.kill()
    world.postgres.start()


def restart_valkey(world: World, *, empty: bool) -> None:
    """kill -9 Valkey, delete what it kept if it is to come back empty, and start it at the same port."""
    world.valkey.kill()
    if empty:
        for kept in (world.valkey.folder / "appendonlydir").glob("*"):
            kept.unlink()
    world.valkey.start()


@contextmanager
def running_world(home: Path, seed: int, *, rates: dict[str, float] | None = None) -> Iterator[World]:
    """Run everything, with this process connected through the proxies; in the end nothing of it is left."""
    before, pause = dict(os.environ), supervisor.LONGEST_PAUSE_S
    with ExitStack() as stack:
        # Not below pytest's own folder: a second run closes that to PostgreSQL's user.
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="creditmill-")))
        postgres, valkey = Postgres(folder / "postgres"), Valkey(folder / "valkey")
        for server in (postgres, valkey):
            stack.callback(server.stop)
            server.start()
        _configure(postgres)
        to_postgres = Proxy(Target(path=_socket(postgres)))
        to_valkey = Proxy(Target(port=valkey.port))
        for proxy in (to_postgres, to_valkey):
            proxy.start()
            stack.callback(proxy.stop)
        direct = database.make_engine(postgres.url, application="onlooker", pool_size=2)
        stack.callback(direct.dispose)
        migrating.migrate(direct)
        keep_models(direct)
        port = machine.free_port()
        environment = _environment(home, seed, to_postgres, to_valkey, valkey)
        stack.callback(_restore, before, pause)
        os.environ.update(environment)
        # A program that was killed comes back at once: the storm is about work, not about the supervisor's patience.
        supervisor.LONGEST_PAUSE_S = 1
        weather = home / "weather.json"
        chaotic.forecast(weather, chaotic.CLEAR)
        forget_broker()
        bootstrap.publisher("storm")
        # What the apps in this process meet in a storm is thousands of lines: they belong with the others' logs.
        apps = stack.enter_context((home / "apps.log").open("w"))
        configure_logging("WARNING", stream=apps)
        stack.callback(configure_logging, "WARNING")
        stack.callback(database.disconnect)
        provider_url = f"http://{HOST}:{port}"
        with transaction() as session:
            set_connection(session, "openai", api_key=machine.SIMULATOR_KEY, base_url=f"{provider_url}/v1")
        programs = _programs(home, weather, port, RATES if rates is None else rates, seed, environment)
        output = stack.enter_context((home / "output.log").open("w"))
        supervised = stack.enter_context(machine.supervised(home, programs, output, quiet=True))
        stack.callback(chaotic.let_it_storm(weather, f"{seed} app"))
        yield World(
            home,
            postgres,
            valkey,
            to_postgres,
            to_valkey,
            supervised,
            weather,
            environment,
            provider_url,
            direct,
        )


def _configure(postgres: Postgres) -> None:
    """Killed processes lose nothing of what they wrote, whether or not it has reached the disk."""
    engine = create_engine(postgres.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("ALTER SYSTEM SET fsync = off"))
        connection.execute(text(f"ALTER SYSTEM SET max_connections = {MOST_CONNECTIONS}"))
    engine.dispose()
    postgres.stop()
    postgres.start()


def _socket(postgres: Postgres) -> Path:
    query: dict[str, Any] = dict(make_url(postgres.url).query)
    return Path(query["host"]) / f".s.PGSQL.{query['port']}"


def _environment(home: Path, seed: int, to_postgres: Proxy, to_valkey: Proxy, valkey: Valkey) -> dict[str, str]:
    broker_url = valkey.url.replace(f":{valkey.port}/", f":{to_valkey.port}/")
    return {
        **PACE,
        "DATABASE_URL": f"postgresql://postgres@{HOST}:{to_postgres.port}/postgres?sslmode=disable&gssencmode=disable",
        "BROKER_URL": broker_url,
        "CREDITMILL_SECRET_KEY": SECRET_KEY,
        "CREDITMILL_FOLDER": str(home),
        "CREDITMILL_LOG_FORMAT": "json",
        "CHAOS_SEED": str(seed),
    }


def _programs(
    home: Path, weather: Path, port: int, rates: dict[str, float], seed: int, environment: dict[str, str]
) -> list[Program]:
    def ours(name: str, *arguments: str, stop_order: int) -> Program:
        command = [sys.executable, "-P", chaotic.__file__, str(weather), *arguments]
        return Program(name=name, command=command, environment=environment, stop_grace_s=10, stop_order=stop_order)

    return [
        machine.simulator_program(home, port, faults=rates, seed=seed, latency_s=LATENCY_S),
        *(ours(name, "worker", "billing", stop_order=3) for name in BILLING),
        *(ours(name, "worker", "generation", stop_order=2) for name in GENERATION),
        *(ours(name, "beat", stop_order=1) for name in BEATS),
    ]


def _restore(before: dict[str, str], pause: int) -> None:
    supervisor.LONGEST_PAUSE_S = pause
    os.environ.clear()
    os.environ.update(before)


def sleep(seconds: float) -> None:
    """How long a fault lasts: the one place where waiting is not for something."""
    time.sleep(seconds)
