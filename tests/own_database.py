"""The database of a test process: a copy of the template, put back to what it was after each test.

Copying a database costs ten times as much as putting one back. What cannot be put back by rows, a change of the schema
or of the database's settings, is noticed, and so is a database that has grown: then the process gets another copy.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import NamedTuple

from sqlalchemy import Connection, NullPool, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError

ALONE = """
    DO $$ BEGIN
        LOOP
            PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid();
            EXIT WHEN NOT FOUND;
            PERFORM pg_sleep(0.001), pg_stat_clear_snapshot();
        END LOOP;
    END $$
"""
"""Ends every other session of this database, and waits until they are gone."""

SCHEMA = """
    WITH made AS (
        SELECT xmin FROM pg_class WHERE oid >= 16384
        UNION ALL SELECT xmin FROM pg_attribute WHERE attrelid >= 16384
        UNION ALL SELECT xmin FROM pg_attrdef
        UNION ALL SELECT xmin FROM pg_constraint WHERE oid >= 16384
        UNION ALL SELECT xmin FROM pg_index WHERE indexrelid >= 16384
        UNION ALL SELECT xmin FROM pg_trigger
        UNION ALL SELECT xmin FROM pg_policy
        UNION ALL SELECT xmin FROM pg_event_trigger
        UNION ALL SELECT xmin FROM pg_proc WHERE oid >= 16384
        UNION ALL SELECT xmin FROM pg_type WHERE oid >= 16384
        UNION ALL SELECT xmin FROM pg_sequence
        UNION ALL SELECT xmin FROM pg_namespace WHERE nspname NOT LIKE 'pg\\_%temp\\_%'
        UNION ALL SELECT xmin FROM pg_extension
        UNION ALL SELECT xmin FROM pg_statistic WHERE starelid >= 16384
        UNION ALL SELECT s.xmin FROM pg_db_role_setting s, pg_database d
            WHERE d.datname = current_database() AND s.setdatabase IN (0, d.oid)
        UNION ALL SELECT xmin FROM pg_database WHERE datname = current_database()
    )
    SELECT count(*), max(xmin::text::bigint) FROM made
"""
"""Changes whenever something of the schema, of its statistics or of the database's settings was changed."""

SIZE = (
    "SELECT coalesce(sum(pg_relation_size(oid)), 0)::bigint FROM pg_class WHERE oid >= 16384 AND relkind IN ('r', 'i')"
)
GROWN_BYTES = 16 * 2**20
"""More than this beyond the template's size is not emptied but thrown away: what was deleted still has to be read."""

FILLED = "SELECT '{0}', count(*), max(xmin::text::bigint)::bigint FROM {0}"
"""Of a table with rows of its own: changes whenever a row was added, changed or removed."""
EMPTY = "SELECT '{0}', count(*), CAST(NULL AS bigint) FROM (SELECT FROM {0} LIMIT 1) AS any_row"
COUNTER = "SELECT '{0}', last_value, is_called::int FROM {0}"


class _State(NamedTuple):
    """What each table and sequence shows: equal to what it showed at first, or changed."""

    shows: dict[str, tuple[int, int | None]]

    def changed(self, names: list[str], since: _State) -> list[str]:
        return [name for name in names if self.shows[name] != since.shows[name]]


class OwnDatabase:
    """One database for a process, the same at the beginning of each test.

    `copy` makes another copy of the template and returns its URL; `drop` throws the one with this URL away.
    """

    def __init__(self, copy: Callable[[], str], drop: Callable[[str], None]) -> None:
        self._copy = copy
        self._drop = drop
        self.copies = 0
        self._make()

    def put_back(self) -> None:
        """Make everything as it was at first; every session of the database has ended then."""
        try:
            with self._engine.connect() as connection:
                kept = self._put_back(connection)
        except DBAPIError:
            kept = False
        if not kept:
            self.drop()
            self._make()

    def drop(self) -> None:
        """Throw the database away."""
        self._drop(self.url)

    def _make(self) -> None:
        self.url = self._copy()
        self.copies += 1
        self._engine = create_engine(make_url(self.url), poolclass=NullPool)
        with self._engine.connect() as connection:
            tables = _names(connection, "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
            self._sequences = _names(connection, "SELECT sequencename FROM pg_sequences ORDER BY 1")
            self._rows = {table: found for table in tables if (found := _read(connection, table))}
            self._tables = tables
            self._look = " UNION ALL ".join(
                [(FILLED if table in self._rows else EMPTY).format(table) for table in tables]
                + [COUNTER.format(sequence) for sequence in self._sequences]
            )
            self._first = self._state(connection)
            self._schema = connection.execute(text(SCHEMA)).one()
            self._largest = connection.scalars(text(SIZE)).one() + GROWN_BYTES

    def _state(self, connection: Connection) -> _State:
        return _State({name: (one, other) for name, one, other in connection.execute(text(self._look))})

    def _put_back(self, connection: Connection) -> bool:
        """Whether what was done could be undone."""
        connection.execute(text(ALONE))
        if connection.execute(text(SCHEMA)).one() != self._schema:
            return False
        state = self._state(connection)
        tables = state.changed(self._tables, self._first)
        sequences = state.changed(self._sequences, self._first)
        if not tables and not sequences:
            return True
        # No trigger fires, no foreign key is checked.
        statements = ["SET LOCAL session_replication_role = replica"]
        statements += [f"DELETE FROM {table}" for table in tables]
        for sequence in sequences:
            value, called = self._first.shows[sequence]
            statements.append(f"SELECT setval('{sequence}', {value}, {bool(called)})")
        connection.exec_driver_sql("; ".join(statements))
        filled = [table for table in tables if table in self._rows]
        for table in filled:
            _write(connection, table, self._rows[table])
        if filled:
            self._first = self._state(connection)
        small = connection.scalars(text(SIZE)).one() <= self._largest
        connection.commit()
        return small


def _names(connection: Connection, query: str) -> list[str]:
    return list(connection.scalars(text(query)))


def _read(connection: Connection, table: str) -> str:
    found = io.StringIO()
    with connection.connection.cursor() as cursor:
        cursor.copy_expert(f"COPY {table} TO STDOUT", found)
    return found.getvalue()


def _write(connection: Connection, table: str, rows: str) -> None:
    with connection.connection.cursor() as cursor:
        cursor.copy_expert(f"COPY {table} FROM STDIN", io.StringIO(rows))
