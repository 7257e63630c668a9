"""Where a benchmark runs: a PostgreSQL and a Valkey of its own below a temporary folder, a database for each lane."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import redis
from psycopg2.extensions import set_wait_callback
from psycopg2.extras import wait_select
from sqlalchemy import Connection, NullPool, create_engine, text

from config.secrets import new_secret_key
from workers.local.embedded.postgres import Postgres
from workers.local.embedded.valkey import Valkey

DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
"""What PostgreSQL must be set to for a fair figure: every commit is on the disk."""


class BenchError(Exception):
    """Says in one sentence why a lane has no figure."""


@dataclass
class Place:
    """The servers of one run, and the folder that everything else of it is in."""

    folder: Path
    postgres: Postgres
    valkey: Valkey
    secret_key: str = field(default_factory=new_secret_key, repr=False)

    def copy_database(self, name: str, template: str = "template1") -> str:
        """Make a database of this name that is like the template; returns its URL."""
        with self.connection() as connection:
            connection.execute(text(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'))
            # What was copied is on the disk before anything is measured.
            connection.execute(text("CHECKPOINT"))
        return self.postgres.database_url(name)

    def drop_database(self, name: str) -> None:
        """Throw a database away."""
        with self.connection() as connection:
            connection.execute(text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))

    def empty_broker(self) -> None:
        """Throw away every message."""
        with redis.Redis.from_url(self.valkey.url) as client:
            client.flushall()

    @contextmanager
    def connection(self, name: str = "postgres") -> Iterator[Connection]:
        """A connection to this database, on which each statement is a transaction of its own, however long it takes."""
        engine = create_engine(self.postgres.database_url(name), isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with engine.connect() as connection:
            connection.execute(text("SET statement_timeout = 0"))
            yield connection

    def versions(self) -> dict[str, str]:
        """The versions of both servers."""
        with self.connection() as connection, redis.Redis.from_url(self.valkey.url) as client:
            found = connection.scalar(text("SHOW server_version"))
            info = client.info("server")
        return {"postgresql": str(found), "valkey": str(info.get("valkey_version") or info["redis_version"])}


@contextmanager
def opened() -> Iterator[Place]:
    """Start both servers; in the end nothing of them is left. Raises BenchError unless commits are durable."""
    # Waits for an answer in Python, so that Ctrl-C also ends a statement that takes minutes.
    set_wait_callback(wait_select)
    with ExitStack() as stack:
        stack.callback(set_wait_callback, None)
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="creditmill-bench-")))
        place = Place(folder, Postgres(folder / "postgres"), Valkey(folder / "valkey"))
        for server in (place.postgres, place.valkey):
            stack.callback(server.stop)
            server.start()
        _check_durable(place)
        yield place


def _check_durable(place: Place) -> None:
    with place.connection() as connection:
        found = {name: connection.scalar(text(f"SHOW {name}")) for name in DURABLE}
    if found != DURABLE:
        raise BenchError(f"PostgreSQL does not run with durable commits: {found}.")
