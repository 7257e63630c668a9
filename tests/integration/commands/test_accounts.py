"""`creditmill accounts`: accounts are created, shown, topped up, frozen; and what is refused in one sentence."""

from __future__ import annotations

import pytest

from tests.factories import an_account, the_account
from tests.integration.commands.told import assert_one_sentence, lines


def test_an_account_is_created_shown_and_topped_up(run):
    code, out, _ = run("accounts", "create", "Corner Bakery", "--credits", 500, "--json")
    assert code == 0
    account_id = lines(out)[0]["id"]

    told = [run("accounts", "top-up", account_id, 250, "--idempotency-key", "k")[:2] for _ in range(2)]
    assert told[0] == (0, f"Account {account_id} got 250 credits; its balance is 750.\n")
    assert (told[1][0], told[1][1].split(":")[0]) == (0, "Nothing was changed")

    shown = lines(run("accounts", "show", account_id, "--json")[1])[0]
    assert (shown["balance"], shown["reserved"], shown["available"]) == (750, 0, 750)
    assert "750 credits" in run("accounts", "show", account_id)[1]
    assert "Corner Bakery" in run("accounts", "list")[1]


@pytest.mark.parametrize("name", ["a [/b]", "[bold red]free[/]", ":boom:"])
def test_a_name_is_shown_as_it_is(run, name):
    account_id = an_account(0, name=name)

    for arguments in (["accounts", "list"], ["accounts", "show", account_id]):
        code, out, _ = run(*arguments)
        assert (code, name in out) == (0, True)


@pytest.mark.parametrize("option", ["--description", "--idempotency-key"])
@pytest.mark.parametrize("given", ["\x1b[2Jgone", "two\nlines", "x" * 256])
def test_a_top_up_cannot_be_described_by_what_a_terminal_obeys(run, option, given):
    account_id = an_account(0)

    code, _, err = run("accounts", "top-up", account_id, 250, option, given)

    assert code == 2
    assert_one_sentence(err, "invalid_text")
    assert the_account(account_id).balance == 0


def test_a_conflicting_top_up_is_refused(run):
    account_id = an_account(0)
    run("accounts", "top-up", account_id, 250, "--idempotency-key", "k")

    code, _, err = run("accounts", "top-up", account_id, 251, "--idempotency-key", "k")

    assert code == 2
    assert_one_sentence(err, "idempotency_conflict")
    assert the_account(account_id).balance == 250


def test_an_account_is_frozen_for_a_reason_and_unfrozen(run):
    account_id = an_account(1000)

    told = [run("accounts", "freeze", account_id, "--reason", reason)[1] for reason in ("chargeback", "again")]
    assert told == [f"Account {account_id} is frozen.\n", f"Account {account_id} was already frozen.\n"]
    assert "frozen: chargeback" in run("accounts", "show", account_id)[1]
    code, _, err = run("accounts", "freeze", account_id, "--reason", " ")
    assert code == 2
    assert_one_sentence(err, "invalid_text")

    told = [run("accounts", "unfreeze", account_id)[1] for _ in range(2)]
    assert told == [f"Account {account_id} starts jobs again.\n", f"Account {account_id} was not frozen.\n"]
    assert the_account(account_id).frozen_reason is None
