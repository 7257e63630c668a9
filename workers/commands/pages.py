"""How commands show long lists: the options that choose a page, a page as JSON, and the command for the next one."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from workers.commands.output import print_json

if TYPE_CHECKING:
    from billing.paging import Page


def in_pages(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command `--limit` and `--after`."""
    after = click.option("--after", metavar="CURSOR", help="Go on behind an earlier page: the cursor that it told.")
    limit = click.option(
        "--limit", default=20, show_default=True, type=click.IntRange(1, 10_000), help="How many on a page."
    )
    return limit(after(command))


def print_page(noun: str, page: Page[Any]) -> None:
    """Print a page as one JSON object: its rows under this noun, and the cursor of the next page, null at the end."""
    print_json({noun: [vars(row) for row in page.rows], "next": page.next})


def tell_more(page: Page[Any]) -> None:
    """Say on stderr, where the list goes on, by which command."""
    if page.next is not None:
        click.echo(f"More: {_again(click.get_current_context(), page.next)}", err=True)


def _again(context: click.Context, cursor: str) -> str:
    """The command that was given, with this cursor."""
    words = [context.command_path]
    for parameter in context.command.params:
        name = parameter.name or ""
        if name != "after" and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            given = str(context.params[name])
            words += [given] if isinstance(parameter, click.Argument) else [parameter.opts[0], given]
    return " ".join([words[0], *map(shlex.quote, words[1:]), "--after", cursor])
