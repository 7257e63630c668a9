"""What the commands that set things share: `FIELD=VALUE` arguments, the acting person, and reports of a change."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from workers.commands.output import console, json_line, plain, table
from workers.commands.pages import print_page, tell_more

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from billing.catalog.history import FieldChange
    from billing.catalog.margins import Margin
    from billing.paging import Page


force_option = click.option("--force", is_flag=True, help="Accept a price that looks like a slip.")


def _read(context: click.Context, parameter: click.Parameter, given: Sequence[str]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{each[:60]!r} is not FIELD=VALUE.")
        if name in fields:
            raise click.BadParameter(f"{name} is given twice.")
        fields[name] = value
    return fields


def fields_argument(required: bool = True) -> Callable[[Any], Any]:
    """The arguments FIELD=VALUE ..., as a dict."""
    return click.argument("fields", nargs=-1, required=required, callback=_read, metavar="FIELD=VALUE...")


def actor() -> str:
    """The person at the keyboard, as the machine knows them."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = f"user {os.getuid()}"
    return "".join(letter if letter.isprintable() else "?" for letter in name)[:100]


@contextmanager
def acting() -> Iterator[Session]:
    """A transaction whose changes the history keeps under the name of the person at the keyboard."""
    from billing.catalog import history
    from config.database import transaction

    with transaction() as session:
        history.act_as(session, actor())
        yield session


def show_changes(page: Page[FieldChange], as_json: bool) -> None:
    """Print a page of a history, the newest change first."""
    if as_json:
        print_page("changes", page)
        return
    if not page.rows and page.next is None:
        click.echo("Nothing was changed yet.")
        return
    rows = [
        (
            *(f"{change.changed_at:%Y-%m-%d %H:%M:%S}", change.actor, change.row, change.action, change.field),
            *(_told(value) for value in (change.old, change.new)),
        )
        for change in page.rows
    ]
    console().print(table("Changes", ["time (UTC)", "by", "of", "what", "field", "old", "new"], rows, left=7))
    tell_more(page)


def _told(value: Any) -> str:
    return json_line(value) if isinstance(value, dict) else plain(value)


def poor_margins(session: Session, *, model: str | None = None, operation: str | None = None) -> list[Margin]:
    """The margins of this model or operation, or of all, that are too small after a change, or less than wanted."""
    from billing.catalog import current, margins

    return [
        margin
        for margin in margins.check(current.read(session))
        if (margin.problem or margin.warning)
        and model in (None, margin.model)
        and operation in (None, margin.operation)
    ]


def warn_of(poor: list[Margin]) -> None:
    """Say on stderr which prices lose money, earn too little, or are marked up by less than is wanted."""
    for margin in poor:
        told = f"{margin.operation} on {margin.model} {margin.problem or margin.warning} ({margin.worst})"
        click.echo(f"creditmill: {told}. [poor_margin]", err=True)
