"""`creditmill operations`: what operations cost in credits, and the platform's defaults, listed and changed."""

from __future__ import annotations

from tests.factories import rows
from tests.integration.commands.told import lines, one


def test_an_operation_that_loses_money_is_warned_about(run):
    code, out, err = run("operations", "set", "clustering", "tokens_per_credit=2000", "--force", "--json")

    assert (code, one(out)["tokens_per_credit"]) == (0, 2000)
    assert "creditmill: clustering on gpt-5.1 loses 0.01 USD (2,000 output tokens). [poor_margin]\n" in err


def test_operations_are_listed_added_and_changed(run):
    code, out, err = run("operations", "list", "--json")
    assert (code, err, len(lines(out))) == (0, "", 10)
    assert "site_structure_generation" in run("operations", "list")[1]

    code, out, err = run("operations", "add", "translation", "model_type=text", "tokens_per_credit=90", "--json")
    assert (code, err, one(out)["tokens_per_credit"], one(out)["min_credits"]) == (0, "", 90, 1)

    code, out, err = run("operations", "set", "translation", "tokens_per_credit=80", "--json")
    assert (code, err) == (0, "")
    assert (one(out)["tokens_per_credit"], one(out)["previous_tokens_per_credit"]) == (80, 90)


def test_an_operation_is_charged_otherwise_on_one_model(run):
    code, out, err = run(
        "operations", "price", "clustering", "gpt-4o", "priced_by=cost", "markup_percent=100", "--json"
    )
    (own,) = one(out)["on_models"]
    assert (code, own["model_name"], own["priced_by"], own["markup_percent"]) == (0, "gpt-4o", "cost", "100.0000000000")
    assert "creditmill: clustering on gpt-4o marks its cost up by 100.0 %; 150 % is wanted" in err

    listed = run("operations", "list")[1]
    assert "on gpt-4o" in listed
    assert "cost + 100 %" in listed

    code, out, err = run("models", "check", "--json")
    assert (code, [margin["warning"] for margin in lines(out)]) == (
        0,
        ["marks its cost up by 100.0 %; 150 % is wanted"],
    )
    assert "0 earn too little, 1 are marked up by less than is wanted." in run("models", "check")[1]

    code, out, err = run("operations", "price", "clustering", "gpt-4o", "--remove", "--json")
    assert (code, one(out)["on_models"], err) == (0, [], "")
    assert run("operations", "price", "clustering", "gpt-4o")[0] == 2
    assert run("operations", "price", "clustering", "gpt-4o", "--remove")[0] == 2


def test_the_defaults_are_shown_and_changed(run):
    code, out, err = run("operations", "defaults", "--json")
    assert (code, err, one(out)["credit_rounding_mode"]) == (0, "", "up")
    assert rows("SELECT count(*) FROM change_history") == [(0,)]

    code, out, err = run("operations", "defaults", "credit_rounding_mode=nearest", "--json")
    assert (code, err, one(out)["credit_rounding_mode"]) == (0, "", "nearest")
