"""How commands print: JSON for programs, tables for people. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import click
from rich.console import Console
from rich.table import Table

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
FORMULA = tuple("=+-@＝＋－＠")
"""The characters that begin a cell which a spreadsheet would compute."""


def console() -> Console:
    """Where tables are drawn: stdout, at least wide enough for a ledger row when it is not a terminal."""
    # No markup: a customer may be called "[/b]".
    found = Console(soft_wrap=False, highlight=False, markup=False, emoji=False)
    return found if found.is_terminal else Console(width=140, highlight=False, markup=False, emoji=False)


def json_line(value: Any) -> str:
    """One line of JSON; amounts of USD are strings, so that no reader rounds them.

    Letters stay as they are; what steers a terminal is escaped.
    """
    line = json.dumps(value, default=_plain, ensure_ascii=False)
    return "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in line)


def print_json(value: Any) -> None:
    """Print one value as one line of JSON."""
    click.echo(json_line(value))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, left: int = 1) -> Table:
    """A table whose first `left` columns are text and whose others are amounts."""
    made = Table(title=title, title_justify="left", header_style="bold")
    for number, name in enumerate(columns):
        # The first column is what a person copies: it stays whole on the narrowest terminal.
        made.add_column(name, justify="left" if number < left else "right", overflow="fold", no_wrap=number == 0)
    for row in rows:
        made.add_row(*(_shown(value) for value in row))
    return made


def usd(amount: Decimal, places: int = 4) -> str:
    """An amount of USD for people."""
    return f"${amount:,.{places}f}" if amount >= 0 else f"-${-amount:,.{places}f}"


def plain(value: object) -> str:
    """A value for people: no trailing zeros, no Python words."""
    if isinstance(value, Decimal):
        return format(value.normalize(), "f")
    if isinstance(value, list):
        return ", ".join(plain(item) for item in value)
    return f"{value:%Y-%m-%d %H:%M:%S} UTC" if isinstance(value, datetime) else _shown(value)


def printable(text: str) -> str:
    """A name that somebody else chose, without the characters that steer a terminal."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _shown(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Decimal):
        return plain(value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def _plain(value: object) -> str:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be printed as JSON")


def csv_cell(value: object) -> str:
    """A value as a spreadsheet may read it: a text is never a formula, an amount keeps every decimal."""
    if value is None:
        return ""
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return value.isoformat()
    if not isinstance(value, str):
        return str(value)
    text = printable(value)
    return f"'{text}" if text.lstrip().startswith(FORMULA) else text
