"""Keeps PostgreSQL and Valkey running below one folder, for as long as they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from workers.local.embedded.postgres import Postgres
from workers.local.embedded.valkey import Valkey


@dataclass(frozen=True)
class Servers:
    """Where the started servers are; the URL of one that was not asked for is empty."""

    database_url: str
    broker_url: str


@contextmanager
def embedded_servers(folder: Path, *, database: bool = True, broker: bool = True) -> Iterator[Servers]:
    """Run the servers below the folder for as long as the block lasts. Raises EmbeddedServerError, see `start`."""
    with ExitStack() as stack:
        urls = {"postgres": "", "valkey": ""}
        for name, wanted, kind in (("postgres", database, Postgres), ("valkey", broker, Valkey)):
            if wanted:
                server = kind(Path(folder) / name)
                stack.callback(server.stop)
                urls[name] = server.start()
        yield Servers(database_url=urls["postgres"], broker_url=urls["valkey"])
