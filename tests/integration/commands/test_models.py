"""The commands about models and prices: what they print, change and refuse, and with which exit code.

What they share with the commands about operations is here for both: how bad input is refused, and the history.
"""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from billing.catalog.usage import Usage
from tests.catalogue import a_settled_job, everything, sql
from tests.factories import an_account, rows
from tests.integration.commands.told import lines, one

TEXT = [
    "model_type=text", "provider=openai", "input_cost_per_1m=2", "output_cost_per_1m=8", "context_window=1047576",
    "max_output_tokens=32768",
]  # fmt: skip
SQUARE = ["dall-e-3", "--size", "1024x1024", "--quality", "standard"]
NOVEMBER = ["--since", "2026-11-01", "--until", "2026-12-01"]


def assert_one_sentence(told, code):
    assert told.startswith("creditmill: ")
    assert told.endswith(f". [{code}]\n")
    assert told.count("\n") == 1
    assert len(told) < 1_500


@pytest.fixture
def a_rate_that_differs(run):
    """gpt-4o at another rate than is published."""
    assert run("models", "set", "gpt-4o", "output_cost_per_1m=9")[0] == 0


# --- models list, show ---


def test_models_are_listed_with_their_prices(run):
    code, out, err = run("models", "list", "--json")

    assert (code, err) == (0, "")
    assert [(model["model_name"], model["is_default"]) for model in lines(out)] == [
        ("dall-e-3", True), ("runware:97@1", False), ("google:4@2", False),
        ("gpt-5.1", True), ("gpt-4o", False), ("gpt-4o-mini", False),
    ]  # fmt: skip
    assert lines(out)[3]["display_with_pricing"] == "GPT-5.1 - $1.25/$10 per 1M"
    code, out, err = run("models", "list")
    assert (code, err) == (0, "")
    assert all(model in out for model in ("dall-e-3", "runware:97@1", "google:4@2", "gpt-5.1", "gpt-4o-mini"))


def test_a_model_is_shown_with_its_image_prices(run):
    code, out, err = run("models", "show", "google:4@2", "--json")

    shown = one(out)
    assert (code, err) == (0, "")
    assert (shown["provider"], shown["cost_per_image"], shown["warning"]) == ("runware", "0.1500000000", None)
    assert shown["image_prices"] == [
        {"size": "*", "quality": "*", "cost_per_image_usd": "0.1500000000", "credits_per_image": 19}
    ]
    code, out, _ = run("models", "show", "dall-e-3")
    assert code == 0
    assert "1024x1792" in out
    assert "0.08" in out


def test_a_model_that_is_taken_away_soon_says_so(run):
    soon = (datetime.now(UTC) + timedelta(days=20)).date()
    run("models", "set", "gpt-4o", f"deprecation_date={soon}")

    assert f"takes gpt-4o away on {soon}" in one(run("models", "show", "gpt-4o", "--json")[1])["warning"]


# --- models add, set, price ---


def test_a_model_is_added_and_changed(run):
    code, out, err = run("models", "add", "gpt-4.1", *TEXT, "--json")
    assert (code, err) == (0, "")
    assert (one(out)["model_name"], one(out)["input_cost_per_1m"]) == ("gpt-4.1", "2.0000000000")

    code, out, err = run("models", "set", "gpt-4.1", "input_cost_per_1m=1.5", "display_name=GPT-4.1", "--json")
    assert (code, err) == (0, "")
    assert one(out)["display_with_pricing"] == "GPT-4.1 - $1.5/$8 per 1M"
    assert "GPT-4.1 - $1.5/$8 per 1M" in run("models", "set", "gpt-4.1", "sort_order=40")[1]


def test_an_image_price_is_set_shown_at_once_and_removed(run):
    code, out, err = run("models", "price", "google:4@2", "cost_per_image_usd=0.2", "credits_per_image=25", "--json")
    assert (code, err) == (0, "")
    assert (one(out)["cost_per_image"], one(out)["image_prices"][0]["credits_per_image"]) == ("0.2000000000", 25)
    assert one(out)["display_with_pricing"] == "Google Nano Banana - $0.2 per image"

    code, out, err = run("models", "price", "google:4@2", "--remove", "--json")
    assert (code, one(out)["image_prices"], one(out)["cost_per_image"]) == (0, [], None)
    assert one(out)["display_with_pricing"] == "Google Nano Banana - no price"
    assert "image_generation on google:4@2 has no price (1024x1024). [poor_margin]\n" in err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["models", "price", *SQUARE, "cost_per_image_usd=0.11"], "image_generation on dall-e-3 loses 0.01 USD (1024x"),
        (["models", "price", *SQUARE, "credits_per_image=1"],     "image_generation on dall-e-3 loses 0.02 USD (1024x"),
        (["models", "set", "gpt-5.1", "output_cost_per_1m=90"],   "clustering on gpt-5.1 earns less than the floor"),
    ],
)  # fmt: skip
def test_a_poor_margin_is_written_and_warned_about(run, arguments, problem):
    code, out, err = run(*arguments, "--json")

    assert code == 0
    assert one(out)["model_name"] in ("dall-e-3", "gpt-5.1")
    assert f"creditmill: {problem}" in err
    assert all(line.endswith(" [poor_margin]") for line in err.splitlines())
    assert rows("SELECT count(*) FROM change_history") == [(1,)]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["models", "show", "gpt-9"],                                        "unknown_model"),
        (["models", "show", "\udcff"],                                       "unknown_model"),
        (["models", "history", "gpt-9"],                                     "unknown_model"),
        (["models", "history", "\udcff"],                                    "unknown_model"),
        (["models", "add", "gpt-4o", *TEXT],                                 "model_exists"),
        (["models", "add", "a b", *TEXT],                                    "invalid_field"),
        (["models", "add", "new", "model_type=text", "provider=openai"],     "invalid_field"),
        (["models", "set", "gpt-9", "sort_order=1"],                         "unknown_model"),
        (["models", "set", "gpt-4o", "colour=red"],                          "unknown_field"),
        (["models", "set", "gpt-4o", "output_cost_per_1m=-1"],               "invalid_price"),
        (["models", "set", "gpt-4o", "output_cost_per_1m=0.0000025"],        "implausible_price"),
        (["models", "set", "gpt-4o", "output_cost_per_1m=1e9", "--force"],   "invalid_price"),
        (["models", "set", "gpt-4o", "limit_type=juggling"],                 "unknown_plan_limit"),
        (["models", "set", "gpt-4o", "display_name=\udcff"],                 "invalid_field"),
        (["models", "price", "gpt-4o", "credits_per_image=1"],               "not_billed_by_image"),
        (["models", "price", "dall-e-3", "credits_per_image=1"],             "invalid_price"),
        (["models", "price", "dall-e-3", "--size", "9999x9999", "credits_per_image=1"], "invalid_size"),
        (["models", "price", "dall-e-3", "--remove"],                        "price_not_configured"),
        (["models", "reprice", *NOVEMBER, "--model", "gpt-9"],               "unknown_model"),
        (["models", "reprice", *NOVEMBER, "--model", "\udcff"],              "unknown_model"),
        (["models", "reprice", *NOVEMBER, "output_cost_per_1m=9"],           "no_model"),
        (["models", "reprice", *NOVEMBER, "colour=red"],                     "unknown_field"),
        (["models", "reprice", "--since", "2026-11-02", "--until", "2026-11-01"], "invalid_span"),
        (["operations", "add", "clustering", "model_type=text"],             "operation_exists"),
        (["operations", "add", "new", "min_credits=1"],                      "invalid_field"),
        (["operations", "set", "juggling", "min_credits=1"],                 "unknown_operation"),
        (["operations", "set", "clustering", "price_per_credit_usd=1"],      "implausible_price"),
        (["operations", "set", "clustering", "tokens_per_credit=0"],         "invalid_field"),
        (["operations", "defaults", "credit_rounding_mode=sideways"],        "invalid_field"),
        (["operations", "history", "juggling"],                              "unknown_operation"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_and_exit_code_2_and_changes_nothing(run, arguments, code):
    before = everything()

    exit_code, out, err = run(*arguments)

    assert (exit_code, out) == (2, "")
    assert_one_sentence(err, code)
    assert everything() == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["models", "set", "gpt-4o"],
        ["models", "set", "gpt-4o", "output_cost_per_1m"],
        ["models", "set", "gpt-4o", "=9"],
        ["models", "set", "gpt-4o", "sort_order=1", "sort_order=2"],
        ["models", "price", "dall-e-3"],
        ["models", "price", "dall-e-3", "--remove", "credits_per_image=1"],
        ["models", "reprice"],
        ["models", "check", "--floor", "100"],
        ["operations", "add", "new"],
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(run, arguments):
    code, out, err = run(*arguments)

    assert (code, out) == (2, "")
    assert err.startswith("creditmill: ")
    assert err.count("\n") == 1
    assert rows("SELECT count(*) FROM change_history") == [(0,)]


# --- models check ---


def test_the_check_exits_with_0_when_every_price_earns_enough(run):
    assert run("models", "check") == (0, "35 prices checked, 0 earn too little.\n", "")
    assert run("models", "check", "--json") == (0, "", "")

    code, out, _ = run("models", "check", "--all", "--json")
    assert (code, len(lines(out)), {margin["problem"] for margin in lines(out)}) == (0, 35, {None})


def test_the_check_exits_with_1_and_names_what_loses(run):
    sql("UPDATE image_prices SET credits_per_image = 5 WHERE model_name = 'google:4@2'")

    code, out, _ = run("models", "check", "--json")
    assert code == 1
    assert (one(out)["model"], one(out)["margin_usd"], one(out)["problem"]) == (
        "google:4@2", "-0.0500000000", "loses 0.05 USD",
    )  # fmt: skip

    code, out, _ = run("models", "check")
    assert code == 1
    assert "35 prices checked, 1 earn too little." in out


def test_the_check_takes_a_floor(run):
    code, out, _ = run("models", "check", "--floor", 88, "--json")

    assert (code, len(lines(out))) == (1, 8)


def test_the_check_exits_with_1_where_the_provider_reports_another_cost(run):
    a_settled_job(an_account(), usage=Usage(input_tokens=100, output_tokens=400))
    sql("UPDATE provider_calls SET reported_cost_usd = 0.00825, finished_at = now()")

    code, out, _ = run("models", "check", "--json")
    assert code == 1
    assert one(out) == {
        "model": "gpt-5.1",
        "calls": 1,
        "ours_usd": "0.0041250000",
        "reported_usd": "0.00825",
        "percent": "100.0",
        "problem": "reported cost differs",
    }
    code, out, _ = run("models", "check")
    assert (code, "Costs that the provider reports as others" in out) == (1, True)


# --- models reprice ---


def test_past_usage_is_repriced_and_nothing_is_written(run):
    a_settled_job(an_account(), usage=Usage(input_tokens=100, output_tokens=400))
    before = everything()
    proposal = ["--operation", "clustering", "tokens_per_credit=80"]

    code, out, err = run("models", "reprice", *NOVEMBER, *proposal, "--json")

    assert (code, err) == (0, "")
    answer = one(out)
    (usage,) = answer["usage"]
    assert (usage["operation"], usage["model"], usage["jobs"]) == ("clustering", "gpt-5.1", 1)
    assert (usage["credits_before"], usage["credits_after"], usage["credits_difference"]) == (5, 7, 2)
    assert (answer["total"]["margin_difference_usd"], answer["total"]["unpriced"]) == ("0.0200000000", 0)
    code, out, err = run("models", "reprice", *NOVEMBER, *proposal)
    assert (code, err, "nothing was written" in out) == (0, "", True)
    assert everything() == before


def test_jobs_without_a_price_are_mentioned(run):
    a_settled_job(an_account(), "image_generation", usage=Usage(images=1))
    sql("DELETE FROM image_prices WHERE model_name = 'dall-e-3'")

    code, out, _ = run("models", "reprice", *NOVEMBER)

    assert code == 0
    assert out.endswith("1 jobs have no price any more and count as before.\n")


# --- models sync ---


def test_nothing_is_to_be_done_where_published_rates_agree(run):
    code, out, err = run("models", "sync", "--json")

    answer = one(out)
    assert (code, err, answer["changes"], answer["written"]) == (0, "", [], 0)
    assert answer["agreeing"] == ["gpt-5.1", "gpt-4o", "gpt-4o-mini"]
    assert run("models", "sync", "--yes")[0] == 0
    assert rows("SELECT count(*) FROM change_history") == [(0,)]


@pytest.mark.parametrize("arguments", [[], ["--json"], ["--force"]])
def test_without_a_terminal_nothing_is_taken_over_unless_it_is_said(run, a_rate_that_differs, arguments):
    before = everything()

    code, out, err = run("models", "sync", *arguments, stdin="y\n")

    assert (code, err, "gpt-4o" in out) == (1, "", True)
    assert everything() == before


@pytest.mark.parametrize("arguments", [["--yes"], ["--yes", "--json"]])
def test_with_yes_the_published_rates_are_taken_over(run, a_rate_that_differs, arguments):
    code, out, err = run("models", "sync", *arguments)

    assert (code, err) == (0, "")
    assert one(out)["written"] == 1 if "--json" in arguments else "1 rates were changed." in out
    assert rows("SELECT output_cost_per_1m::int FROM ai_model_config WHERE model_name = 'gpt-4o'") == [(10,)]


@pytest.mark.parametrize(("answer", "code", "rate"), [("y", 0, 10), ("n", 1, 9), ("", 1, 9)])
def test_on_a_terminal_it_is_asked(run, a_rate_that_differs, answer, code, rate):
    keyboard, terminal = os.openpty()
    os.write(keyboard, f"{answer}\n".encode())
    command = [sys.executable, "-m", "workers.cli", "models", "sync"]
    told = subprocess.run(command, stdin=terminal, capture_output=True, text=True, timeout=60, check=False)
    os.close(keyboard)
    os.close(terminal)

    assert (told.returncode, told.stderr) == (code, "")
    assert "Take over these 1 rates?" in told.stdout
    assert rows("SELECT output_cost_per_1m::int FROM ai_model_config WHERE model_name = 'gpt-4o'") == [(rate,)]


def test_an_implausible_rate_remains_until_it_is_forced(run):
    run("models", "set", "gpt-4o", "output_cost_per_1m=0.9", "cached_input_cost_per_1m=1", "--force")

    code, out, _ = run("models", "sync", "--yes", "--json")
    assert (code, one(out)["written"], len(one(out)["changes"])) == (1, 1, 2)
    assert run("models", "sync", "--yes", "--force")[0] == 0
    assert run("models", "sync")[0] == 0


# --- history ---


def change_of(told):
    (change,) = one(told)["changes"]
    return change


def test_the_history_names_who_changed_what(run):
    assert run("models", "history", "gpt-4o") == (0, "Nothing was changed yet.\n", "")
    run("models", "set", "gpt-4o", "output_cost_per_1m=9")
    run("models", "price", *SQUARE, "credits_per_image=6")
    run("operations", "set", "clustering", "min_credits=2")
    run("operations", "defaults", "min_margin_percent=10")

    asked = [("models", "gpt-4o"), ("models", "dall-e-3"), ("operations", "clustering"), ("operations", "defaults")]
    told = [change_of(run(group, "history", name, "--json")[1]) for group, name in asked]

    assert [(change["row"], change["field"], float(change["new"])) for change in told] == [
        ("gpt-4o",                      "output_cost_per_1m", 9),
        ("dall-e-3 1024x1024 standard", "credits_per_image",  6),
        ("clustering",                  "min_credits",        2),
        ("1",                           "min_margin_percent", 10),
    ]  # fmt: skip
    assert {change["actor"] for change in told} == {getpass.getuser()}
    code, out, err = run("models", "history", "gpt-4o")
    assert (code, err, getpass.getuser() in out) == (0, "", True)


def test_the_history_tells_usd_as_strings_like_every_other_answer(run):
    run("models", "set", "gpt-4o", "output_cost_per_1m=9.123456")

    change = change_of(run("models", "history", "gpt-4o", "--json")[1])

    assert [type(change["old"]), type(change["new"])] == [str, str]
    assert [Decimal(change["old"]), Decimal(change["new"])] == [10, Decimal("9.123456")]
