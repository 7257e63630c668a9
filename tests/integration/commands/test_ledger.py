"""The commands by which people change credits and read the statement of them, and those about users."""

from __future__ import annotations

import csv
import io

import pytest

from tests.catalogue import everything
from tests.factories import an_account, the_account
from tests.integration.commands.told import assert_one_sentence, lines, one

pytestmark = pytest.mark.usefixtures("db")


def test_goodwill_and_corrections_say_what_they_did_once(run):
    account_id = an_account(100)
    decided = ("--by", "anna")

    told = [
        run("accounts", "grant", account_id, 20, "--reason", "slow", *decided, "--idempotency-key", "g")[:2]
        for _ in range(2)
    ]
    taken = run("accounts", "adjust", account_id, -50, "--reason", "twice", *decided)
    put = run("accounts", "adjust", account_id, 5, "--reason", "back", *decided, "--json")

    assert told[0] == (0, f"Account {account_id} was given 20 credits; its balance is 120.\n")
    assert told[1][1].startswith(f"Nothing was changed: account {account_id} was given these 20 credits")
    assert taken[:2] == (0, f"Account {account_id} gave back 50 credits; its balance is 70.\n")
    assert {name: lines(put[1])[0][name] for name in ("credits", "balance_after", "reason", "actor")} == {
        "credits": 5, "balance_after": 75, "reason": "adjusted", "actor": "anna"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["top-up", "1", "900000000000"],                              "implausible_amount"),
        (["grant", "1", "2000000", "--reason", "x", "--by", "y"],      "implausible_amount"),
        (["adjust", "1", "-101", "--reason", "x", "--by", "y"],        "not_available"),
        (["adjust", "1", "-5", "--by", "y"],                           "missing_argument"),
        (["adjust", "1", "-5", "--reason", "x"],                       "missing_argument"),
        (["adjust", "1", "-5", "--reason", "x", "--by", " "],          "invalid_text"),
        (["adjust", "99", "-5", "--reason", "x", "--by", "y"],         "unknown_account"),
        (["create", "Bakery", "--credits", "900000000000"],            "implausible_amount"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_and_changes_nothing(run, arguments, code):
    an_account(100)
    before = everything()

    exit_code, out, err = run("accounts", *arguments)

    assert (exit_code, out) == (2, "")
    assert_one_sentence(err, code)
    assert everything() == before


def test_an_unusual_amount_is_accepted_with_force(run):
    assert run("accounts", "create", "Bakery", "--credits", "900000000000", "--force")[0] == 0
    assert the_account(1).balance == 900_000_000_000


def test_a_statement_is_a_table_csv_or_json(run):
    account_id = an_account(100)
    run("accounts", "grant", account_id, 20, "--reason", "=1+1", "--by", "anna")

    table = run("accounts", "ledger", account_id)[1]
    found = list(csv.DictReader(io.StringIO(run("accounts", "ledger", account_id, "--csv")[1])))
    whole = one(run("accounts", "ledger", account_id, "--json")[1])

    assert "goodwill" in table
    assert [(row["reason"], row["credits"], row["balance_after"], row["actor"]) for row in found] == [
        ("goodwill", "20", "120", "anna"), ("sold", "100", "100", "creditmill")
    ]  # fmt: skip
    assert found[0]["description"] == "'=1+1"
    assert [row["type"] for row in whole["transactions"]] == ["adjustment", "purchase"]
    assert whole["next"] is None
    assert run("accounts", "ledger", account_id, "--csv", "--json")[0] == 2
    assert run("accounts", "ledger", 99)[0] == 2


def test_users_are_made_and_listed(run):
    account_id = an_account()

    made = run("users", "create", account_id, "--email", "ada@example.com", "--name", "Ada", "--json")
    again = run("users", "create", account_id, "--email", "ada@example.com")

    assert (made[0], lines(made[1])[0]["email"]) == (0, "ada@example.com")
    assert again[0] == 2
    assert_one_sentence(again[2], "user_exists")
    assert "Ada" in run("users", "list")[1]
    assert one(run("users", "list", "--account", account_id, "--json")[1])["users"][0]["account_id"] == account_id


def test_credits_put_in_are_reported_by_reason(run):
    account_id = an_account(100)
    run("accounts", "grant", account_id, 20, "--reason", "slow", "--by", "anna")

    found = lines(run("revenue", "credits", "--from", "2020-01-01", "--to", "2100-01-01", "--json")[1])
    table = run("revenue", "credits", "--account", account_id)

    assert {each["reason"]: each["credits"] for each in found} == {
        "sold": 100, "plan": 0, "goodwill": 20, "adjusted": 0
    }  # fmt: skip
    assert (table[0], "goodwill" in table[1]) == (0, True)
