"""Real servers for all tests: a PostgreSQL and a Valkey for each process that runs tests, and one database, put back
after each test.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import pytest
import redis
from sqlalchemy import Engine, create_engine, make_url, text

from billing import migrating
from config import database
from config.secrets import new_secret_key, use_secret_keys
from tests import rounds, schedule
from tests.own_database import OwnDatabase
from tests.removals import keep_models
from workers.local.embedded.servers import Servers, embedded_servers

SECRET_KEY = new_secret_key()
_made: list[TemporaryDirectory[str]] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a run be quick."""
    parser.addoption(
        "--quick",
        action="store_true",
        help="leave out what is marked own_system; a quarter of the rounds of each property and race",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Give everything that this run makes one temporary folder, also what is killed before it can tidy up."""
    rounds.use(quick=config.getoption("--quick"))
    if not hasattr(config, "workerinput"):
        # The folders of tests stay where pytest keeps those of the last runs.
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
        _made.append(TemporaryDirectory(prefix="creditmill-tests-", ignore_cleanup_errors=True))
        os.environ["TMPDIR"] = _made[0].name
        tempfile.tempdir = None


def pytest_unconfigure() -> None:
    """Leave nothing behind."""
    while _made:
        _made.pop().cleanup()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes longest comes first; a quick run leaves out what needs a system of its own."""
    if config.getoption("--quick"):
        left_out = [item for item in items if item.get_closest_marker("own_system")]
        items[:] = [item for item in items if not item.get_closest_marker("own_system")]
        config.hook.pytest_deselected(items=left_out)
    items.sort(key=schedule.place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> schedule.ByFile | None:
    """With `--dist loadfile`: a file at a time, and the fleet's files as one."""
    return schedule.ByFile(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """A PostgreSQL and a Valkey for the whole run."""
    # Not below pytest's own folder: a second run closes that to PostgreSQL's user.
    with TemporaryDirectory(prefix="creditmill-") as folder, embedded_servers(Path(folder)) as started:
        # No test cuts the power, and copying a database is ten times quicker without waiting for disks. What one test
        # has left is no reason to choose other plans for the next.
        settings = ("fsync = off", "autovacuum = off")
        changes = [f"ALTER SYSTEM SET {setting}" for setting in settings]
        _administer(started.database_url, *changes, "SELECT pg_reload_conf()")
        yield started


@pytest.fixture(scope="session")
def template(servers: Servers) -> str:
    """The name of a migrated database that all others are copied from."""
    name = "creditmill_template"
    _administer(servers.database_url, f"CREATE DATABASE {name}")
    engine = database.make_engine(named(servers.database_url, name))
    migrating.migrate(engine)
    keep_models(engine)
    engine.dispose()
    return name


@pytest.fixture(scope="session")
def own_database(servers: Servers, template: str) -> Iterator[OwnDatabase]:
    """The database of this process, for one test after the other."""
    own = OwnDatabase(lambda: _copied(servers, template), lambda url: _dropped(servers, url))
    yield own
    own.drop()


@pytest.fixture
def database_url(own_database: OwnDatabase) -> Iterator[str]:
    """A database with the schema and the catalogue, for one test; it is as good as a fresh one."""
    yield own_database.url
    own_database.put_back()


@contextmanager
def fresh_database(servers: Servers, template: str) -> Iterator[str]:
    """A copy of the migrated database, for as long as the block lasts."""
    url = _copied(servers, template)
    try:
        yield url
    finally:
        _dropped(servers, url)


def _copied(servers: Servers, template: str) -> str:
    name = f"test_{uuid4().hex}"
    _administer(servers.database_url, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    return named(servers.database_url, name)


def _dropped(servers: Servers, url: str) -> None:
    _administer(servers.database_url, f"DROP DATABASE {make_url(url).database} WITH (FORCE)")


@pytest.fixture
def db(database_url: str) -> Iterator[str]:
    """This process, connected to the database of the test; `transaction()` works."""
    use_secret_keys(SECRET_KEY)
    # What a test listens to, it hears of an engine of its own.
    database.connect(_engine(database_url).execution_options())
    yield database_url
    database.disconnect()


@lru_cache(maxsize=1)
def _engine(url: str) -> Engine:
    """An engine that remembers what it has compiled; `disconnect` closes its connections after each test."""
    return database.make_engine(url)


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
