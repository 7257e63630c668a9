"""The settings commands: what they print, what they change, and what they refuse in one sentence."""

from __future__ import annotations

import json

import pytest

from tests.catalogue import everything
from tests.factories import a_user, an_account, rows
from tests.integration.commands.told import one

pytestmark = pytest.mark.usefixtures("db")
KEY = "sk-live-Zq9pLm3xT7vB1nK5"


def test_each_setting_is_shown_with_the_tier_that_set_it(run):
    account_id = an_account()
    user_id = a_user(account_id)
    run("settings", "set", "openai.temperature", "0.5", "--account", account_id)
    run("settings", "set", "image_style", "noir", "--user", user_id)

    code, out, _ = run("settings", "show", "--user", user_id, "--json")
    found = json.loads(out)

    assert code == 0
    assert found["openai.temperature"]["value"] == 0.5
    assert [found[name]["tier"] for name in ("openai.temperature", "image_style", "image_quality")] == [
        "account", "user", "platform"
    ]  # fmt: skip
    assert found["image_style"]["since"].endswith("Z") or "+00:00" in found["image_style"]["since"]
    code, out, _ = run("settings", "show", "--account", account_id)
    assert code == 0
    assert "photorealistic" in out


def test_setting_and_unsetting_say_what_holds(run):
    account_id = an_account()

    code, out, _ = run("settings", "set", "openai.max_tokens", "4096", "--account", account_id)
    assert (code, out) == (0, "openai.max_tokens is 4,096, set by the account.\n")
    code, out, _ = run("settings", "unset", "openai.max_tokens", "--account", account_id)
    assert (code, out) == (0, "openai.max_tokens was removed. 8,192 holds, set by the platform.\n")
    code, out, _ = run("settings", "unset", "openai.max_tokens", "--account", account_id, "--json")
    assert json.loads(out)["removed"] is False
    code, out, _ = run("settings", "set", "openai.model", "gpt-4o")
    assert (code, out) == (0, "openai.model is gpt-4o, set by the platform.\n")


@pytest.mark.parametrize("from_stdin", [True, False])
def test_an_integration_is_set_from_json_and_what_looks_like_a_key_is_stripped(run, from_stdin):
    account_id = an_account()
    body = json.dumps({"temperature": 0.5, "apiKey": KEY})

    code, out, err = run(
        "settings", "set", "openai", "-" if from_stdin else body, "--account", account_id, "--json", stdin=body
    )

    assert code == 0
    assert json.loads(out)["openai.temperature"]["tier"] == "account"
    assert "1 part looks like an API key" in err
    assert "[keys_stripped]" in err
    assert KEY not in out + err + str(everything())


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["openai.tempertaure", "1"], "unknown_setting"),
        (["openai.temperature", "warm"], "invalid_value"),
        (["openai.temperature", ""], "empty_value"),
        (["openai.model", "gpt-nobody"], "no_such_model"),
        (["openai_api_key", KEY], "key_refused"),
        (["openai.model", KEY], "key_refused"),
        (["image_style", "noir", "--account", "99"], "unknown_account"),
        (["image_style", "noir", "--user", "99"], "unknown_user"),
        (["openai", "{}", "--account", "1"], "empty_value"),
        (["openai", '{"a": 1}', "--account", "1"], "unknown_setting"),
    ],
)
def test_bad_input_is_one_sentence_with_a_code_and_changes_nothing(run, arguments, code):
    an_account()
    before = everything()

    exit_code, out, err = run("settings", "set", *arguments)

    assert (exit_code, out) == (2, "")
    assert f"[{code}]" in err
    assert err.count("\n") == 1
    assert KEY not in err
    assert everything() == before


@pytest.mark.parametrize("body", ["{", "[" * 100_000, "x" * 10_000_000, '{"model": "' + "x" * 20_000_000 + '"}'])
def test_what_is_no_json_or_too_much_is_refused(run, body):
    code, out, err = run("settings", "set", "openai", "-", "--account", an_account(), stdin=body)

    assert (code, out) == (2, "")
    assert len(err) < 500
    assert rows("SELECT count(*) FROM integration_settings") == [(0,)]


def test_the_platforms_settings_cannot_be_removed(run):
    code, _, err = run("settings", "unset", "image_style")

    assert code == 2
    assert "always has a value on the platform" in err


def test_the_history_names_who_changed_what(run):
    account_id = an_account()
    user_id = a_user(account_id)
    run("settings", "set", "openai.temperature", "0.5", "--account", account_id)
    run("settings", "set", "openai.temperature", "0.6", "--account", account_id)
    run("settings", "unset", "openai.temperature", "--account", account_id)
    run("settings", "set", "image_style", "noir", "--user", user_id)

    _, out, _ = run("settings", "history", "--account", account_id, "--json")
    found = one(out)["changes"]
    _, of_user, _ = run("settings", "history", "--user", user_id)

    told = [(each["field"], each["old"], each["new"]) for each in found]
    assert told == [
        ("openai.temperature", "0.6", None),
        ("openai.temperature", "0.5", "0.6"),
        ("openai.temperature", None, "0.5"),
    ]
    assert "noir" in of_user
    assert all(each["actor"] for each in found)
