"""The statements that reach PostgreSQL, from whichever process, as its own log tells them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from sqlalchemy import Connection, NullPool, create_engine, make_url, text

from tests.conftest import named
from tests.own_database import ALONE
from tests.system import wait_until
from workers.local.embedded.postgres import Postgres

PREFIX = ">%n|%d|%a|"
"""What stands before each line of the log: seconds since 1970, the database, the application."""
LINE = re.compile(r"^>(\d+\.\d+)\|([^|]*)\|([^|]*)\|LOG:  statement: (.*(?:\n\t.*)*)", re.MULTILINE)
"""A statement in the log: the lines that follow its first begin with a tab."""


class Kind(StrEnum):
    """What a statement is for."""

    WORK = "work"
    TRANSACTION = "transaction"
    PING = "ping"
    SESSION = "session"


KINDS = (
    (Kind.TRANSACTION, re.compile(r"(BEGIN|COMMIT|ROLLBACK|SAVEPOINT|RELEASE)\b", re.IGNORECASE)),
    (Kind.PING, re.compile(r"(SELECT 1)?;?$", re.IGNORECASE)),
    # What SQLAlchemy asks and sets when it connects.
    (
        Kind.SESSION,
        re.compile(
            r"(SHOW|SET) |select (pg_catalog\.version|current_schema)\(\)|SELECT t\.oid, typarray FROM pg_type",
            re.IGNORECASE,
        ),
    ),
)
"""How each kind but work begins."""


@dataclass(frozen=True)
class Statement:
    """One message to the server: when it came (seconds since 1970), which application sent it, its text in one line."""

    at: float
    application: str
    text: str

    @property
    def kind(self) -> Kind:
        return next((kind for kind, beginning in KINDS if beginning.match(self.text)), Kind.WORK)


def work(statements: Iterable[Statement]) -> list[Statement]:
    """Those that do something: neither a transaction's beginning and end, nor a ping, nor a session's settings."""
    return [statement for statement in statements if statement.kind is Kind.WORK]


@contextmanager
def recorded(url: str) -> Iterator[Callable[[], list[Statement]]]:
    """Record what reaches this database of an embedded server; gives what has come since the block began, in order.

    The sessions that the database has are ended, because only new ones are recorded: begin on an idle system, or
    before it is started. Whoever asks as soon as a statement was answered finds it.
    """
    name = make_url(url).database
    server = named(url, "postgres")
    with _connected(server) as connection:
        log = Postgres(Path(connection.scalars(text("SHOW data_directory")).one()).parent).log_file
    try:
        _set(server, f"ALTER SYSTEM SET log_line_prefix = '{PREFIX}'", "SELECT pg_reload_conf()")
        _set(server, f"ALTER DATABASE {name} SET log_statement = 'all'")
        wait_until(lambda: _prefix_of_a_new_session(url) == PREFIX, what="the log's new prefix")
        _set(url, ALONE)
        begin = log.stat().st_size
        yield lambda: [statement for database, statement in _read(log, begin) if database == name]
    finally:
        _set(server, f"ALTER DATABASE {name} RESET log_statement")
        _set(server, "ALTER SYSTEM RESET log_line_prefix", "SELECT pg_reload_conf()")


def _read(log: Path, begin: int) -> Iterator[tuple[str, Statement]]:
    """Each statement from this place of the log on, with its database."""
    with log.open(encoding="utf-8", errors="replace") as lines:
        lines.seek(begin)
        found = LINE.findall(lines.read())
    for at, database, application, statement in found:
        yield database, Statement(at=float(at), application=application, text=" ".join(statement.split()))


def _connected(url: str) -> Connection:
    return create_engine(make_url(url), poolclass=NullPool, isolation_level="AUTOCOMMIT").connect()


def _set(url: str, *statements: str) -> None:
    with _connected(url) as connection:
        for statement in statements:
            connection.execute(text(statement))


def _prefix_of_a_new_session(url: str) -> str:
    with _connected(url) as connection:
        return connection.scalars(text("SHOW log_line_prefix")).one()
