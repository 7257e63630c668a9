"""Commands that list what grows: page by page, by the command that each page names, or by the cursor in its JSON."""

from __future__ import annotations

import shlex

import click
import pytest

from tests.catalogue import everything, sql
from tests.integration.commands.told import assert_one_sentence, one
from tests.integration.lists import LISTS
from workers import cli

SETS = {
    "models history gpt-4o": "models set gpt-4o sort_order={}",
    "operations history clustering": "operations set clustering min_credits={}",
    "operations history defaults": "operations defaults min_margin_percent={}",
    "settings history": "settings set openai.max_tokens {}00",
    "plans history starter": "plans set starter included_credits={}",
}
"""Histories, and what each is the history of."""
PAGED = {
    "accounts list": ("accounts", "accounts"),
    "accounts ledger 1": ("transactions", "ledger"),
    "users list --account 1": ("users", "users of an account"),
    "webhooks messages --account 1": ("messages", "webhook messages of an account"),
    "keys list --account 1": ("keys", "keys of an account"),
    "jobs list": ("jobs", "jobs"),
    "jobs list --account 1 --state rejected": ("jobs", "jobs"),
    "jobs unknown": ("calls", "unknown calls"),
    "jobs dead": ("messages", "messages"),
    "plans periods 1": ("periods", "periods"),
    **dict.fromkeys(SETS, ("changes", None)),
}
"""Every command that lists what grows: the noun of its rows, and what it lists."""


@pytest.fixture(params=PAGED)
def command(request, run):
    """Such a command, which has something to list."""
    _, name = PAGED[request.param]
    if name is not None:
        LISTS[name].begin()
        LISTS[name].add(1, 18)
    for number in range(5, 10):
        if name is None:
            assert run(*SETS[request.param].format(number).split())[0] == 0
    return request.param


def test_the_command_that_a_page_names_goes_on_up_to_the_end_of_the_list(run, command):
    noun, _ = PAGED[command]
    whole = one(run(*command.split(), "--json")[1])
    words, read, pages = [*command.split(), "--limit", "2"], [], 0

    while words:
        code, out, more = run(*words)
        told = run(*words, "--json")
        read += one(told[1])[noun]
        pages += 1
        assert (code, told[0], told[2]) == (0, 0, "")
        assert (f"More: creditmill {command} --limit 2 --after {one(told[1])['next']}\n" if more else "") == more
        assert "More" not in out
        words = shlex.split(more)[2:]

    assert read == whole[noun]
    assert whole["next"] is None
    assert len(read) > pages > 1


def test_a_list_at_its_end_names_no_other_page(run, command):
    code, _, more = run(*command.split())

    assert (code, more) == (0, "")


@pytest.mark.parametrize("cursor", ["", "nonsense", "\udcff", "9" * 10_000, "WyJhbnl0aGluZyIsNV0"])
def test_what_is_no_cursor_of_the_list_is_one_sentence_and_changes_nothing(run, command, cursor):
    before = everything()

    code, out, err = run(*command.split(), "--after", cursor)

    assert (code, out) == (2, "")
    assert_one_sentence(err, "invalid_cursor")
    assert everything() == before


def test_the_command_that_goes_on_can_be_copied_whatever_a_name_is(run):
    name = "a'b c;$(touch x)"
    sql("INSERT INTO plans (slug, name) VALUES (:slug, 'Plan')", slug=name)
    sql("UPDATE plans SET included_credits = 5 WHERE slug = :slug", slug=name)

    more = run("plans", "history", name, "--limit", 1)[2]

    assert shlex.split(more)[:6] == ["More:", "creditmill", "plans", "history", name, "--limit"]


def test_whatever_is_limited_can_be_gone_on_with():
    def below(command, words):
        names = {option for parameter in command.params for option in parameter.opts}
        if "--limit" in names:
            yield words, "--after" in names
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                yield from below(command.get_command(context, name), f"{words} {name}".strip())

    found = dict(below(cli.creditmill, ""))

    assert set(found.values()) == {True}
    assert {" ".join(command.split()[:2]) for command in PAGED} == set(found)
