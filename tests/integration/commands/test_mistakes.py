"""Mistakes on the command line, of every command: one sentence on stderr with a code, and exit code 2."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from tests.factories import an_account, rows
from tests.integration.commands.told import assert_one_sentence
from workers.cli import COMMANDS, creditmill


def commands() -> Iterator[tuple[str, ...]]:
    """The words of every command, groups of commands too."""
    context = click.Context(creditmill)
    for name in COMMANDS:
        found = creditmill.get_command(context, name)
        yield (name,)
        if isinstance(found, click.Group):
            yield from ((name, each) for each in found.commands)


def command_of(words: tuple[str, ...]) -> click.Command:
    found: click.Command | None = creditmill
    for word in words:
        assert isinstance(found, click.Group)
        found = found.get_command(click.Context(found), word)
    assert found is not None
    return found


EVERY = list(commands())
TAKING = [words for words in EVERY if any(p.required for p in command_of(words).params)]
GROUPS = [words for words in EVERY if isinstance(command_of(words), click.Group)]


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_an_option_that_a_command_does_not_have_is_one_sentence(run, words):
    code, out, err = run(*words, "--surprise")

    assert (code, out) == (2, "")
    assert_one_sentence(err, "unknown_option")
    assert f"See `creditmill {' '.join(words)} --help`." in err


@pytest.mark.parametrize("words", TAKING, ids=" ".join)
def test_a_missing_argument_is_one_sentence(run, words):
    code, out, err = run(*words)

    assert (code, out) == (2, "")
    assert_one_sentence(err, "missing_argument")


@pytest.mark.parametrize("words", GROUPS, ids=" ".join)
def test_a_command_that_a_group_does_not_have_is_one_sentence(run, words):
    code, out, err = run(*words, "surprise")

    assert (code, out) == (2, "")
    assert_one_sentence(err, "invalid_command")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["accounts", "top-up", "1", "-50"],              "unknown_option",   "amounts are positive"),
        (["accounts", "top-up", "one", "50"],             "invalid_argument", "'one' is not a valid integer"),
        (["revenue", "report", "--from", "tomorrow"],     "invalid_argument", "'tomorrow' does not match"),
        (["revenue", "report", "--json", "--csv"],        "invalid_command",  "Choose one of"),
        (["jobs", "list", "--state", "lost"],             "invalid_argument", "'lost' is not one of"),
        (["submit", "/nowhere.jsonl", "--account", "1"],  "invalid_argument", "No such file"),
        (["submit", "--account"],                         "invalid_argument", "--account"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_and_changes_nothing(run, arguments, code, said):
    an_account(7)

    exit_code, out, err = run(*arguments)

    assert (exit_code, out) == (2, "")
    assert_one_sentence(err, code)
    assert said in err
    assert rows("SELECT balance FROM accounts") == [(7,)]
