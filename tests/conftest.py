"""Real servers for all tests: one PostgreSQL and one Valkey for the run, and a database of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import pytest
import redis
from sqlalchemy import create_engine, make_url, text

from billing import migrating
from config import database
from config.secrets import new_secret_key, use_secret_keys
from workers.local.embedded.servers import Servers, embedded_servers

SECRET_KEY = new_secret_key()


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """A PostgreSQL and a Valkey for the whole run."""
    # Not below pytest's own folder: a second run closes that to PostgreSQL's user.
    with TemporaryDirectory(prefix="creditmill-") as folder, embedded_servers(Path(folder)) as started:
        # No test cuts the power, and copying a database for each test is ten times quicker without waiting for disks.
        _administer(started.database_url, "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
        yield started


@pytest.fixture(scope="session")
def template(servers: Servers) -> str:
    """The name of a migrated database that each test's own is copied from."""
    name = "creditmill_template"
    _administer(servers.database_url, f"CREATE DATABASE {name}")
    engine = database.make_engine(named(servers.database_url, name))
    migrating.migrate(engine)
    engine.dispose()
    return name


@pytest.fixture
def database_url(servers: Servers, template: str) -> Iterator[str]:
    """A fresh database with the schema and the catalogue, for one test."""
    with fresh_database(servers, template) as url:
        yield url


@contextmanager
def fresh_database(servers: Servers, template: str) -> Iterator[str]:
    """A copy of the migrated database, for as long as the block lasts."""
    name = f"test_{uuid4().hex}"
    _administer(servers.database_url, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    try:
        yield named(servers.database_url, name)
    finally:
        _administer(servers.database_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def db(database_url: str) -> Iterator[str]:
    """This process, connected to a fresh database; `transaction()` works."""
    use_secret_keys(SECRET_KEY)
    database.connect(database.make_engine(database_url))
    yield database_url
    database.disconnect()


@pytest.fixture
def broker_url(servers: Servers) -> str:
    """The broker, empty."""
    return emptied(servers)


def emptied(servers: Servers) -> str:
    """The broker's address, after everything in it was thrown away."""
    with redis.Redis.from_url(servers.broker_url) as client:
        client.flushall()
    return servers.broker_url


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A private folder."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def named(url: str, name: str) -> str:
    """The same server's database of this name."""
    return make_url(url).set(database=name).render_as_string(hide_password=False)


def _administer(url: str, *statements: str) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()
