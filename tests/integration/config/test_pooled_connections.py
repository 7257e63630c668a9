"""Connections that wait in the pool: a living one is used without being asked, a dead one is never handed out."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Barrier

import psycopg2
import pytest
from sqlalchemy import Engine, create_engine, event, make_url, text

from config import database
from config.database import transaction
from tests.own_database import ALONE
from tests.statements import Kind, recorded
from tests.system import wait_until
from workers.local.embedded.postgres import Postgres

SESSIONS = 4


@pytest.fixture
def engine(db: str) -> Engine:
    return database.engine()


def session_pid() -> int:
    """Which of the server's processes a transaction of ours has."""
    with transaction() as session:
        return session.scalars(text("SELECT pg_backend_pid()")).one()


def fill_the_pool(engine: Engine) -> set[int]:
    """Leave this many sessions in the pool; returns their processes."""
    with ExitStack() as stack:
        held = [stack.enter_context(engine.connect()) for _ in range(SESSIONS)]
        return {connection.scalars(text("SELECT pg_backend_pid()")).one() for connection in held}


def end_all_sessions(url: str) -> None:
    """As an operator does; they have ended then."""
    administer = create_engine(make_url(url), isolation_level="AUTOCOMMIT")
    with administer.connect() as connection:
        connection.execute(text(ALONE))
    administer.dispose()


@contextmanager
def found_dead(engine: Engine) -> Iterator[list[BaseException | None]]:
    """Each time that a look at a connection finds it dead."""
    found: list[BaseException | None] = []

    def note(connection, record, error):
        found.append(error)

    event.listen(engine, "invalidate", note)
    yield found
    event.remove(engine, "invalidate", note)


def wait_for_news(connection: psycopg2.extensions.connection) -> None:
    """Wait until the server has said something to an idle connection."""
    news = select.poll()
    news.register(connection.fileno(), select.POLLIN)
    assert news.poll(30_000)


def kinds(statements):
    return [statement.kind for statement in statements]


TRANSACTION = [Kind.TRANSACTION, Kind.WORK, Kind.TRANSACTION]


def test_a_living_connection_is_used_without_asking_the_server(db):
    with recorded(db) as seen:
        pid = session_pid()
        before = len(seen())

        assert {session_pid() for _ in range(5)} == {pid}

        assert kinds(seen()[before:]) == 5 * TRANSACTION


def test_a_connection_whose_server_said_something_is_asked_once_and_kept(db, engine):
    with recorded(db) as seen:
        with engine.begin() as connection:
            connection.execute(text("LISTEN bakery"))
            pooled = connection.connection.driver_connection
        pid, before = session_pid(), len(seen())
        with psycopg2.connect(make_url(db).set(drivername="postgresql").render_as_string()) as other:
            other.cursor().execute("NOTIFY bakery")
        other.close()
        wait_for_news(pooled)

        assert (session_pid(), session_pid()) == (pid, pid)

        ours = [statement for statement in seen()[before:] if statement.application == "creditmill"]
        assert kinds(ours) == [Kind.PING, *TRANSACTION, *TRANSACTION]


def test_a_session_that_was_ended_in_the_pool_is_not_handed_out(db):
    ended = session_pid()
    end_all_sessions(db)

    assert session_pid() != ended


def test_one_dead_connection_ends_all_that_are_older(db, engine):
    ended = fill_the_pool(engine)
    end_all_sessions(db)

    with found_dead(engine) as found:
        fresh = fill_the_pool(engine)

    assert len(fresh) == SESSIONS
    assert not fresh & ended
    assert len(found) == 1


def close(connection: psycopg2.extensions.connection) -> None:
    connection.close()


def shut_down(connection: psycopg2.extensions.connection) -> None:
    with socket.socket(fileno=os.dup(connection.fileno())) as ours:
        ours.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("end", [close, shut_down])
def test_a_connection_that_ended_on_our_side_is_not_handed_out(engine, end):
    with engine.connect() as connection:
        ended = connection.scalars(text("SELECT pg_backend_pid()")).one()
        pooled = connection.connection.driver_connection
    end(pooled)

    assert session_pid() != ended


def test_threads_that_share_a_pool_never_get_a_dead_connection(db, engine):
    at_once = Barrier(SESSIONS)

    def work(_: int) -> int:
        with transaction() as session:
            pid = session.scalars(text("SELECT pg_backend_pid()")).one()
            # Each keeps its session until all have one.
            at_once.wait(30)
            return pid

    ended: set[int] = set()
    with ThreadPoolExecutor(SESSIONS) as threads:
        for _ in range(10):
            # A thread that finds its connection dead late may end another's fresh one; that is replaced as well.
            used = [set(threads.map(work, range(SESSIONS))) for _ in range(2)]
            assert [len(pids) for pids in used] == [SESSIONS, SESSIONS]
            assert not set().union(*used) & ended
            ended |= set().union(*used)
            end_all_sessions(db)


def test_a_process_with_thousands_of_open_files_looks_as_well(db, engine):
    wanted = 1100
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(2 * wanted, limits[1]), limits[1]))
        for _ in range(wanted):
            stack.enter_context(open(os.devnull))
        pid = session_pid()
        with engine.connect() as connection:
            assert connection.connection.driver_connection.fileno() > wanted
        assert session_pid() == pid
        end_all_sessions(db)

        assert session_pid() != pid
        database.engine().dispose()


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A server that may be taken away."""
    with TemporaryDirectory(prefix="creditmill-pool-") as folder:
        server = Postgres(Path(folder) / "postgres")
        server.start()
        yield server
        server.stop()


def stop_immediately(server: Postgres) -> None:
    """What `pg_ctl stop -m immediate` does: sessions are told, nothing is tidied up."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGQUIT)
    wait_until(lambda: server.pid is None, what="the server's end")


@pytest.mark.own_system
@pytest.mark.parametrize("end", [stop_immediately, Postgres.kill])
def test_a_restart_of_the_server_costs_no_transaction(postgres, end):
    engine = database.make_engine(postgres.url)
    database.connect(engine)
    ended = fill_the_pool(engine)
    end(postgres)
    postgres.start()

    with found_dead(engine) as found:
        fresh = fill_the_pool(engine)

    assert not fresh & ended
    assert len(found) == 1
    database.disconnect()
