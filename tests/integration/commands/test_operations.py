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


def test_the_defaults_are_shown_and_changed(run):
    code, out, err = run("operations", "defaults", "--json")
    assert (code, err, one(out)["credit_rounding_mode"]) == (0, "", "up")
    assert rows("SELECT count(*) FROM change_history") == [(0,)]

    code, out, err = run("operations", "defaults", "credit_rounding_mode=nearest", "--json")
    assert (code, err, one(out)["credit_rounding_mode"]) == (0, "", "nearest")
