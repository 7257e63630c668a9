"""The database session of this process: one engine, and `transaction()` for the owner of a unit of work.

Services never commit; the `with transaction()` of their caller does.
"""

from __future__ import annotations

import select as polling
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypeVar

from sqlalchemy import (
    URL,
    BigInteger,
    Connection,
    DateTime,
    Engine,
    MetaData,
    Numeric,
    Text,
    create_engine,
    event,
    func,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import ArgumentError, DatabaseError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker

from config.addresses import DATABASE, Address, AddressError, read_address
from config.settings import ConfigurationError, SettingError

Item = TypeVar("Item")

DATABASE_TROUBLE = (OperationalError, InterfaceError, PoolTimeout)
"""The errors of a database that is away, restarting, out of connections, or has ended our session."""

ENDED = "25P"
"""The prefix of PostgreSQL's codes for a session that it ended over a time limit."""
LOCKED = "55P03"
"""PostgreSQL's code for a row that another transaction has locked for too long."""


class DatabaseAway(Exception):
    """The database could not be reached, so the caller cannot tell whether its change was made."""

    code = "database_unavailable"

    def __init__(self) -> None:
        super().__init__(
            "The database cannot be reached, so it is not known whether the request was stored: send it again with the "
            "same idempotency key or job id, or run `creditmill doctor`."
        )


NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """The parent of every table: instants carry their zone, whole numbers are BIGINT, USD has ten decimals."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it from the class
        datetime: DateTime(timezone=True),
        int: BigInteger,
        str: Text,
        Decimal: Numeric(20, 10),
        dict[str, Any]: JSONB,
        list[Any]: JSONB,
    }


_sessions: sessionmaker[Session] | None = None


def make_engine(url: str, *, application: str = "creditmill", pool_size: int = 5, by_index: bool = False) -> Engine:
    """An engine for PostgreSQL with short waits, no parameters in its errors, and UTC as its time zone.

    With `by_index`, no row is looked for by reading a whole table where an index leads to it. A session keeps its plans
    for foreign keys and triggers: made while the tables are almost empty, they would read the whole of what grows.
    Raises SettingError when `url` cannot be read.
    """
    made = _create(
        url,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=30,
        # A connection that died with its server is noticed before it is used, not by the transaction that needs it.
        # Who sees no sign of death asks nothing: `_unless_quiet`.
        pool_pre_ping=True,
        # A failed statement's message would otherwise carry its parameters: prompts, e-mail addresses.
        hide_parameters=True,
        connect_args={
            "application_name": application,
            "connect_timeout": 5,
            # A server that vanishes is noticed within a minute, also while an answer is awaited.
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "tcp_user_timeout": 60_000,
            "options": "-c timezone=UTC -c lock_timeout=10s -c statement_timeout=60s"
            " -c idle_in_transaction_session_timeout=60s" + (" -c enable_seqscan=off" if by_index else ""),
        },
    )
    # There is no event for it, and a dialect of our own would need a name in every URL.
    made.dialect.do_ping = _unless_quiet(made.dialect.do_ping)  # type: ignore[assignment]
    event.listen(made, "handle_error", _forget_rows)
    event.listen(made, "handle_error", _name_broken_connections)
    return made


def _create(url: str, **options: Any) -> Engine:
    """An engine for this address, which we read ourselves: SQLAlchemy's own errors may quote it."""
    try:
        found = read_address("DATABASE_URL", url, DATABASE)
        return create_engine(_location(found), **options)
    except AddressError as error:
        raise SettingError(str(error)) from None
    except (ArgumentError, ValueError):
        raise SettingError("DATABASE_URL cannot be read: the hosts and ports in its options do not fit.") from None


def _location(found: Address) -> URL:
    return URL.create(
        "postgresql+psycopg2",
        username=found.user,
        password=found.password,
        host=found.host,
        port=found.port,
        database=found.path or None,
        query={name: values if len(values) > 1 else values[0] for name, values in found.options.items()},
    )


def _unless_quiet(ping: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Ping a pooled connection only when its socket shows something: a ping costs each transaction a round trip.

    A server that ends a session says so, or its kernel does, so there is something to read; a living one has nothing
    to say to an idle session, save at times a notice, and then the ping reads it. A peer that vanishes without a word,
    as when the network drops, shows nothing until the keepalives give it up, within a minute. A transaction that gets
    its connection before waits as long as a ping would have waited, `tcp_user_timeout`, and then fails like one whose
    peer vanished right behind its ping: whoever would repeat that one repeats this one. Firewalls, which forget idle
    connections, are kept from it by the keepalives.
    """

    def ping_unless_quiet(connection: Any) -> bool:
        return _is_quiet(connection) or ping(connection)

    return ping_unless_quiet


def _is_quiet(connection: Any) -> bool:
    """Whether this connection is open, and its server has neither said anything nor gone, as far as we know."""
    if connection.closed:
        return False
    # Not select(), which knows no file descriptor above 1,023.
    look = polling.poll()
    look.register(connection.fileno(), polling.POLLIN)
    return not look.poll(0)


def _forget_rows(context: ExceptionContext) -> None:
    """Cut an error down to its first line: PostgreSQL's DETAIL quotes the whole row, prompts and all."""
    for error in (context.original_exception, context.sqlalchemy_exception):
        if error is not None and error.args and isinstance(error.args[0], str):
            error.args = (error.args[0].split("\n", 1)[0], *error.args[1:])


def _name_broken_connections(context: ExceptionContext) -> None:
    """Raise OperationalError for every broken connection.

    psycopg2 reports an answer that was cut off in the middle as a plain DatabaseError, and a session that was ended
    because it did nothing for too long as an InternalError.
    """
    found = context.sqlalchemy_exception
    ended = isinstance(found, InternalError) and str(getattr(found.orig, "pgcode", "")).startswith(ENDED)
    if isinstance(found, DatabaseError) and (type(found) is DatabaseError or ended) and found.orig is not None:
        raise OperationalError(
            found.statement,
            found.params,
            found.orig,
            hide_parameters=True,
            # A ping that fails says by this that the pool shall replace the connection.
            connection_invalidated=context.is_disconnect,
        ) from None


def is_locked(error: BaseException) -> bool:
    """Whether this error concerns one row alone, which another transaction has locked."""
    return getattr(getattr(error, "orig", None), "pgcode", None) == LOCKED


def connect(engine: Engine) -> None:
    """Make this engine the one that `transaction()` uses in this process."""
    global _sessions
    _sessions = sessionmaker(engine, expire_on_commit=False)


def engine() -> Engine:
    """The engine of this process; raises ConfigurationError before `connect`."""
    return _maker().kw["bind"]


def reconnect() -> None:
    """In a forked child: the same address with a pool of its own; the parent's connections stay the parent's."""
    inherited = engine()
    inherited.dispose(close=False)
    connect(inherited)


def disconnect() -> None:
    """Close the pool, at the end of a process."""
    global _sessions
    if _sessions is not None:
        engine().dispose(close=True)
        _sessions = None


@contextmanager
def transaction(
    *,
    isolation: str | None = None,
    read_only: bool = False,
    lock_timeout_s: int | None = None,
    whole_tables: bool = False,
) -> Iterator[Session]:
    """A session that commits when the block ends and rolls back when it raises.

    `isolation` is a PostgreSQL isolation level, for readers that need one snapshot; `whole_tables` is for those that
    read whole tables, where the engine goes by index. `lock_timeout_s` says how long a
    statement waits for a row that somebody else has locked, in seconds.
    """
    with _maker()() as session, session.begin():
        if isolation is not None:
            session.connection(execution_options={"isolation_level": isolation, "postgresql_readonly": read_only})
        if whole_tables:
            session.execute(select(func.set_config("enable_seqscan", "on", True)))
        if lock_timeout_s is not None:
            session.execute(select(func.set_config("lock_timeout", f"{lock_timeout_s}s", True)))
        yield session


@contextmanager
def single_statements() -> Iterator[Connection]:
    """A connection on which each statement is a transaction of its own: what it writes is committed at once."""
    with engine().connect() as connection:
        driver: Any = connection.connection.dbapi_connection
        # Not by SQLAlchemy's isolation level: the driver sends the server two statements for that, to and fro.
        driver.autocommit = True
        try:
            yield connection
        finally:
            if not driver.closed:
                driver.autocommit = False


def each_apart(
    session: Session, items: Sequence[Item], work: Callable[[Sequence[Item]], None]
) -> list[tuple[Item, Exception]]:
    """Work on all of these at once, or, if that fails, one by one; returns those that could not be worked on.

    Each attempt has a savepoint, so that one bad row never blocks the others, and whatever it wrote is undone. Raises
    when the database itself is in trouble, which is no fault of a row.
    """
    if not items or _apart(session, items, work) is None:
        return []
    return [(item, error) for item in items if (error := _apart(session, [item], work)) is not None]


def _apart(session: Session, items: Sequence[Item], work: Callable[[Sequence[Item]], None]) -> Exception | None:
    try:
        with session.begin_nested():
            work(items)
    except DATABASE_TROUBLE as error:
        if not is_locked(error):
            raise
        return error
    except Exception as error:
        if _is_out_of_time(error):
            # The time of the whole task is over, whichever row it was at.
            raise
        # Whatever is wrong with one row, the others go on.
        return error
    return None


def _is_out_of_time(error: Exception) -> bool:
    from billiard.exceptions import SoftTimeLimitExceeded

    return isinstance(error, SoftTimeLimitExceeded)


def utc_now() -> datetime:
    """The present instant by this machine's clock, with its zone."""
    return datetime.now(UTC)


def database_now(session: Session) -> datetime:
    """The present instant by the database's clock, which decides the leases and deadlines of all machines."""
    now: datetime = session.scalars(select(func.clock_timestamp())).one()
    return now.astimezone(UTC)


def _maker() -> sessionmaker[Session]:
    if _sessions is None:
        raise ConfigurationError("This process has not been connected to a database.")
    return _sessions
