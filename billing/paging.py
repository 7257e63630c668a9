"""Long lists, page by page: a page ends with a cursor, and the next one begins behind it.

A cursor holds the keys of the row that ended its page, so a page costs the same however far down the list it is, and
rows that are added meanwhile move no other. It is text that callers pass on and do not read. No SQL lives here.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

from billing.errors import InvalidRequest

T = TypeVar("T")
Key = tuple[Any, ...]
"""What orders the rows of a list; no two of its rows have the same."""

CURSOR_MAX = 300
"""Characters: more than any cursor of ours has."""
BIGINT_MAX = 2**63 - 1


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some rows of a list, in its order; `next` is the cursor of the page behind them, None at the end of the list."""

    rows: list[T]
    next: str | None


@dataclass(frozen=True)
class Listing:
    """A list that is read in pages: its name, and the types of its key: `datetime`, `date`, `UUID` or `int`."""

    name: str
    types: tuple[type, ...]

    def key(self, cursor: str | None) -> Key | None:
        """The key behind which a page begins; None without a cursor, for the first page.

        Raises InvalidRequest (`invalid_cursor`) for all but a cursor that this list gave, whole and unchanged.
        """
        if cursor is None:
            return None
        with suppress(ValueError, TypeError, OverflowError):
            found = self._read(cursor)
            # What decodes to a key and is written otherwise is no cursor of ours either.
            if self.cursor(found) == cursor:
                return found
        raise InvalidRequest(
            f"That is no cursor of the list of {self.name}: give the one that its page before ended with, whole.",
            code="invalid_cursor",
        )

    def cursor(self, key: Key) -> str:
        """The cursor of the page behind the row with this key."""
        body = json.dumps([self.name, *map(_written, key)], separators=(",", ":"))
        return base64.urlsafe_b64encode(body.encode()).decode().rstrip("=")

    def page(self, found: Sequence[T], limit: int, key: Callable[[T], Key]) -> Page[T]:
        """The first `limit` rows of what was found, which is one row more wherever the list goes on."""
        rows = list(found[:limit])
        return Page(rows, self.cursor(key(rows[-1])) if len(found) > limit else None)

    def _read(self, cursor: str) -> Key:
        if len(cursor) > CURSOR_MAX:
            raise ValueError("too long")
        name, *values = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if name != self.name:
            raise ValueError("of another list")
        return tuple(_value(kind, value) for kind, value in zip(self.types, values, strict=True))


def _written(value: object) -> str | int:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    return value if isinstance(value, int) else str(value)


def _value(kind: type, given: Any) -> Any:
    if kind is int:
        if type(given) is not int or not 0 <= given <= BIGINT_MAX:
            raise ValueError("no number of a row")
        return given
    if not isinstance(given, str):
        raise TypeError("not as it was written")
    return kind(given) if kind is UUID else kind.fromisoformat(given)  # type: ignore[attr-defined]
