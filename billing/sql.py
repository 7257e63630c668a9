"""Words of SQL that all nouns share: many rows as one JSON parameter, and parts of several nouns as one statement."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Column, Table
from sqlalchemy.dialects import postgresql

_DIALECT = postgresql.dialect()


@dataclass(frozen=True)
class Part:
    """One writing part of a larger statement; it returns one row for each row that it writes.

    `given` holds its parameters, whose names no other part uses; `rows` is how many rows it must write.
    """

    name: str
    sql: str
    rows: int
    given: Mapping[str, Any] = field(default_factory=dict, repr=False)


def together(parts: Sequence[Part]) -> str:
    """Join these parts into one statement, which returns how many rows each part wrote."""
    named = ", ".join(f"{part.name} AS ({part.sql})" for part in parts)
    counted = ", ".join(f"(SELECT count(*) FROM {part.name})" for part in parts)  # noqa: S608 - names of our own parts
    return f"WITH {named} SELECT {counted}"


def as_json(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as one JSON array; Decimals, instants and UUIDs become strings that PostgreSQL reads exactly."""
    return json.dumps(rows, default=_plain)


def recordset(table: Table, columns: Sequence[str], alias: str = "v") -> str:
    """`jsonb_to_recordset(…) AS v(id uuid, …)`, with the types of the table's columns of those names."""
    typed = ", ".join(f"{name} {_type(table.c[name])}" for name in columns)
    return f"jsonb_to_recordset(CAST(:rows AS jsonb)) AS {alias}({typed})"


def _type(column: Column[Any]) -> str:
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
