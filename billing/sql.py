"""Words of SQL that all nouns share: many rows as one JSON parameter, parts of several nouns as one statement, and the
newest rows of several indexes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, TypeVar
from uuid import UUID

from pydantic_core import to_json
from sqlalchemy import Column, Select, Table, TextClause, select, text, union_all
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, aliased

_DIALECT = postgresql.dialect()

Row = TypeVar("Row", bound=DeclarativeBase)


@dataclass(frozen=True)
class Part:
    """One writing part of a larger statement; it returns one row for each row that it writes.

    `given` holds its parameters, whose names no other part uses; `rows` is how many rows it must write.
    """

    name: str
    sql: str
    rows: int
    given: Mapping[str, Any] = field(default_factory=dict, repr=False)


def together(parts: Sequence[Part]) -> tuple[TextClause, dict[str, Any]]:
    """Join these parts into one statement, which returns how many rows each part wrote; and its parameters."""
    given = {name: value for part in parts for name, value in part.given.items()}
    return _joined(tuple((part.name, part.sql) for part in parts)), given


@lru_cache(maxsize=64)
def _joined(parts: tuple[tuple[str, str], ...]) -> TextClause:
    named = ", ".join(f"{name} AS ({sql})" for name, sql in parts)
    counted = ", ".join(f"(SELECT count(*) FROM {name})" for name, _ in parts)  # noqa: S608 - names of our own parts
    return text(f"WITH {named} SELECT {counted}")


def check_written(parts: Sequence[Part], written: Sequence[int]) -> None:
    """Raise AssertionError unless each part wrote the rows that it must: the caller's transaction then writes nothing.

    The caller has locked what it writes and decided on it, so a row that does not fit is a mistake of ours.
    """
    wrong = [part.name for part, count in zip(parts, written, strict=True) if part.rows != count]
    assert not wrong, f"{', '.join(wrong)}: what was locked and decided on could not be written"


def as_json(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as one JSON array; Decimals, instants and UUIDs become strings that PostgreSQL reads exactly."""
    return to_json(rows).decode()


def recordset(table: Table, columns: Sequence[str], alias: str = "v", given: str = "rows") -> str:
    """`jsonb_to_recordset(…) AS v(id uuid, …)`, with the types of the table's columns of those names.

    `given` is the name of the parameter that holds the rows.
    """
    typed = ", ".join(f"{name} {type_of(table.c[name])}" for name in columns)
    return f"jsonb_to_recordset(CAST(:{given} AS jsonb)) AS {alias}({typed})"


def inserted(table: Table, rows: Sequence[dict[str, Any]], *, name: str) -> Part:
    """The part that adds these rows, which have the same columns, in their order."""
    columns = tuple(rows[0]) if rows else ()
    return Part(name, _insert(table, columns, name) if rows else "", len(rows), {name: as_json(rows)})


@lru_cache(maxsize=64)
def _insert(table: Table, columns: tuple[str, ...], name: str) -> str:
    listed = ", ".join(columns)
    return (
        f"INSERT INTO {table.name} ({listed}) SELECT {listed} FROM {recordset(table, columns, given=name)} RETURNING 1"  # noqa: S608
    )


def newest_first(row: type[Row], branches: Sequence[Select[Row]], by: Sequence[str], *, limit: int) -> Select[Row]:
    """The first `limit` rows of these statements together, the greatest first by these columns.

    Each statement is read no further than that: an index yields its rows in this order, and PostgreSQL merges them.
    What one statement finds by several indexes, it would read whole and sort.
    """
    read = [branch.order_by(*(getattr(row, name).desc() for name in by)).limit(limit) for branch in branches]
    merged = aliased(row, union_all(*read).subquery())
    return select(merged).order_by(*(getattr(merged, name).desc() for name in by)).limit(limit)


def type_of(column: Column[Any]) -> str:
    """The name of the column's type in PostgreSQL."""
    return column.type.compile(dialect=_DIALECT)


def _plain(value: object) -> str:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal | UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not a database value")


def in_list(column: str, values: object) -> str:
    """`column IN ('a', 'b')`, for a CHECK."""
    quoted = ", ".join(f"'{value}'" for value in sorted(map(str, values)))  # type: ignore[call-overload]
    return f"{column} IN ({quoted})"
