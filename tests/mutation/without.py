"""A pytest plugin: takes a guard out of the database that tests are copied from, and writes down what fails.

Loaded by `-p tests.mutation.without`; the check passes the SQL, the file for the failures, and servers that run
already, in the environment.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, text

from billing import migrating, schema
from workers.local.embedded import servers
from workers.local.embedded.servers import Servers

SQL = "CREDITMILL_WITHOUT_SQL"
FAILURES = "CREDITMILL_FAILURES_FILE"
SERVERS = "CREDITMILL_RUNNING_SERVERS"
NOT_REMOVED = 40
"""The exit code for a guard that could not be taken away: pytest itself has none of that number."""


def pytest_configure(config: pytest.Config) -> None:
    """Let every migration end with the statement that takes the guard away; refuse to test another tree's modules."""
    if not Path(schema.__file__).is_relative_to(Path.cwd()):
        pytest.exit(f"{schema.__file__} is not of this tree", returncode=NOT_REMOVED)
    if statement := os.environ.get(SQL):
        migrating.migrate = _then_remove(migrating.migrate, statement)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Let the tests take the servers that run already: before the module that starts them is imported."""
    if running := os.environ.get(SERVERS):
        servers.embedded_servers = _already(*running.split())


def _then_remove(migrate: Callable[[Engine], list[str]], statement: str) -> Callable[[Engine], list[str]]:
    def migrate_and_remove(engine: Engine) -> list[str]:
        applied = migrate(engine)
        if applied:
            try:
                with engine.begin() as connection:
                    connection.execute(text(statement))
            except Exception as error:  # noqa: BLE001 - whatever it is, the guard is still there
                pytest.exit(f"the guard was not removed: {error}", returncode=NOT_REMOVED)
        return applied

    return migrate_and_remove


def _already(database_url: str, broker_url: str) -> object:
    @contextmanager
    def running(folder: Path) -> Iterator[Servers]:
        """Servers that an earlier run has used; its databases go away first."""
        engine = create_engine(database_url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            left = "SELECT datname FROM pg_database WHERE NOT datistemplate AND datname <> current_database()"
            for name in connection.scalars(text(f"{left} AND datname <> 'postgres'")).all():
                connection.execute(text(f'DROP DATABASE "{name}" WITH (FORCE)'))
        engine.dispose()
        yield Servers(database_url, broker_url)

    return running


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write down the id of each test that failed, whether in its setup, its body or its teardown."""
    file = os.environ.get(FAILURES)
    if report.failed and file:
        with Path(file).open("a") as failures:
            failures.write(report.nodeid + "\n")
