"""What click finds wrong with a command line, as a code and one sentence like every other error."""

from __future__ import annotations

import re

import click

CODES: tuple[tuple[type[click.ClickException], str], ...] = (
    (click.NoSuchOption, "unknown_option"),
    (click.MissingParameter, "missing_argument"),
    (click.BadParameter, "invalid_argument"),
    (click.BadOptionUsage, "invalid_argument"),
    (click.FileError, "file_unusable"),
    (click.UsageError, "invalid_command"),
    (click.ClickException, "command_failed"),
)
"""The code of each kind of mistake, the narrowest kind first."""
LONGEST = 300
"""Of what click says, which may quote an argument, in letters."""


def code_of(error: click.ClickException) -> str:
    """The code of a mistake."""
    return next(code for kind, code in CODES if isinstance(error, kind))


def sentence_of(error: click.ClickException) -> str:
    """The one sentence about a mistake; where the command line itself is wrong, it names the help."""
    said = " ".join(error.format_message().split())[:LONGEST]
    if isinstance(error, click.NoSuchOption) and re.match(r"-[0-9.]", error.option_name):
        said = f"What begins with {error.option_name} is taken for an option: amounts are positive."
    if not said.endswith((".", "!", "?", ")")):
        said += "."
    context = error.ctx if isinstance(error, click.UsageError) else None
    return said if context is None else f"{said} See `{context.command_path} --help`."
