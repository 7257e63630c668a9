"""Creditmill as it is measured: a prepared database, real worker processes, and a program that submits to them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg2.errors import QueryCanceled
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from billing import schema
from billing.reports import audit
from config.database import utc_now
from tests.benchmarks.place import BenchError, Place
from tests.benchmarks.running import Program, Running, running
from tests.benchmarks.sizes import ACCOUNTS
from workers.local.machine import SIMULATOR_KEY, generation_workers

ROOT = Path(schema.__file__).parents[1]
PROGRAMS = Path(__file__).parent / "programs"
OPENING_CREDITS = 1_000_000_000
MOST_OPEN_JOBS = 10_000_000
KEY_VARIABLE = "BENCH_PROVIDER_KEY"
SHOWN_FINDINGS = 5
AUDIT_S = 60
"""The longest that one rule of the audit may take, as in the product (`config.database`)."""

STOCK = (
    "INSERT INTO accounts (name, balance) SELECT 'account ' || n, :credits FROM generate_series(1, :accounts) n",
    """INSERT INTO credit_transactions (account_id, transaction_type, amount, balance_after, description,
           idempotency_key, created_at)
       SELECT id, 'purchase', balance, balance, 'Opening credits', 'opening', now() FROM accounts ORDER BY id""",
    "UPDATE billing_configuration SET max_open_jobs = :most, max_open_jobs_per_account = :most",
    "VACUUM ANALYZE",
)
"""What the lanes start from: accounts that can pay for everything, and no bound on open jobs."""


class NotAudited(BenchError):
    """Says in one sentence why the books were not audited."""


@dataclass(frozen=True)
class Version:
    """A checkout, and the Python of its environment."""

    name: str
    folder: Path
    python: Path


OURS = Version("ours", ROOT, Path(sys.executable))


def version_in(folder: Path) -> Version:
    """The version in another checkout, with its own environment; raises BenchError when it has none."""
    python = folder.resolve() / ".venv" / "bin" / "python"
    if not python.exists():
        raise BenchError(f"The baseline has no environment: {python} is missing.")
    return Version("baseline", folder.resolve(), python)


class Work:
    """Workers at work on one database."""

    def __init__(self, mill: Mill, database: str, programs: Running) -> None:
        self.programs = programs
        self._mill = mill
        self._database = database

    def customer(self, *arguments: str | int) -> Any:
        """Have the customer do this; returns what it measured."""
        command = [PROGRAMS / "customer.py", *map(str, arguments)]
        return self.programs.ask(self._mill.program("customer", self._database, *command))


class Mill:
    """One version of Creditmill on the servers of the run."""

    def __init__(self, place: Place, version: Version = OURS) -> None:
        self.place = place
        self._version = version
        self._template = ""

    @contextmanager
    def at_work(self, lane: str, *, url: str = "", generation: int | None = None, **settings: str) -> Iterator[Work]:
        """Workers on a fresh database, which is audited in the end, and thrown away.

        Without the `url` of a provider, one within the worker answers at once. There are as many generation workers as
        a machine runs, unless `generation` says how many. `settings` are CREDITMILL_ variables in lower case, without
        the prefix.
        """
        self.make_database(lane)
        try:
            with self.working_on(lane, url=url, generation=generation, **settings) as work:
                yield work
            if self._version is OURS:
                with self.place.connection(lane) as connection:
                    audit_books(connection, lane)
        finally:
            self.place.drop_database(lane)

    @contextmanager
    def working_on(
        self, database: str, *, url: str = "", generation: int | None = None, **settings: str
    ) -> Iterator[Work]:
        """Workers on a database that there is."""
        self.place.empty_broker()
        if url:
            with self.place.connection(database) as connection:
                connection.execute(text("UPDATE global_integration_settings SET openai_base_url = :url"), {"url": url})
        given = {f"CREDITMILL_{name.upper()}": value for name, value in settings.items()}
        calling = ["-m", "workers.cli", "worker", "generation"] if url else [PROGRAMS / "instant_generation.py"]
        programs = [
            self.program("billing", database, "-m", "workers.cli", "worker", "billing", environment=given),
            *(
                self.program(f"generation-{number}", database, *calling, environment=given)
                for number in range(1, (generation or generation_workers()) + 1)
            ),
        ]
        with running(self.place.folder / "logs" / database, programs) as started:
            yield Work(self, database, started)

    def make_database(self, name: str) -> None:
        """Make a database with the schema, the catalogue, the accounts and the connection to the provider."""
        if not self._template:
            self._template = self._prepared()
        self.place.copy_database(name, self._template)

    def run(self, database: str, *arguments: str) -> None:
        """Run one command of Creditmill's to its end."""
        with running(self.place.folder / "logs" / database, []) as programs:
            programs.run(self.program(arguments[0], database, "-m", "workers.cli", *arguments))

    def program(
        self, name: str, database: str, *arguments: str | Path, environment: Mapping[str, str] | None = None
    ) -> Program:
        """A program of this version, with the addresses of the servers."""
        addresses = {
            "DATABASE_URL": self.place.postgres.database_url(database),
            "BROKER_URL": self.place.valkey.url,
            "CREDITMILL_SECRET_KEY": self.place.secret_key,
            "CREDITMILL_FOLDER": str(self.place.folder),
            KEY_VARIABLE: SIMULATOR_KEY,
        }
        # -P: neither the working folder nor a program's own comes before the environment's packages.
        command = [str(self._version.python), "-P", *map(str, arguments)]
        return Program(name, command, self._version.folder, {**addresses, **(environment or {})})

    def _prepared(self) -> str:
        name = f"template_{self._version.name}"
        self.place.copy_database(name)
        self.run(name, "migrate")
        self.run(name, "integrations", "set", "openai", "--key-variable", KEY_VARIABLE)
        given = {"credits": OPENING_CREDITS, "accounts": ACCOUNTS, "most": MOST_OPEN_JOBS}
        with self.place.connection(name) as connection:
            for statement in STOCK:
                made = text(statement)
                connection.execute(made, {key: given[key] for key in made.compile().params})
        return name


def audit_books(connection: Connection, database: str) -> None:
    """Check the books; raises BenchError when they do not balance, and NotAudited when a rule takes too long."""
    # In one transaction, which the connection, of single statements, is not.
    with Session(connection.engine.execution_options(isolation_level="REPEATABLE READ")) as session:
        session.execute(text(f"SET LOCAL statement_timeout = {AUDIT_S * 1000:.0f}"))
        try:
            findings = audit.audit(session, now=utc_now())
        except OperationalError as error:
            if isinstance(error.orig, QueryCanceled):
                raise NotAudited(f"A rule of the audit takes more than {AUDIT_S} s on {database}.") from None
            raise
    if findings:
        shown = "; ".join(f"{each.rule}: {each.row}: {each.problem}" for each in findings[:SHOWN_FINDINGS])
        raise BenchError(f"The books of {database} do not balance: {len(findings)} findings, such as {shown}.")
