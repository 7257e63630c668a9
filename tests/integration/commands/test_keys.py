"""The commands about API keys."""

from __future__ import annotations

import pytest

from tests.factories import an_account, rows
from tests.integration.commands.told import assert_one_sentence, one


def test_a_key_is_made_shown_once_and_listed(run):
    account_id = an_account()

    code, out, err = run("keys", "create", "--account", account_id, "--name", "website", "--credit-cap", 5000)
    listed = run("keys", "list", "--account", account_id)

    assert (code, listed[0]) == (0, 0)
    key = out.strip()
    assert key.startswith("cm_live_")
    assert "shown only now" in err
    assert "website" in listed[1]
    assert "0 of 5,000" in listed[1]
    assert key not in listed[1]
    assert f"{key[:12]}...{key[-4:]}" in listed[1]


def test_a_key_is_rotated_and_revoked(run):
    made = one(run("keys", "create", "--platform", "--scopes", "admin:read", "--expires-in-days", 30, "--json")[1])

    rotated = one(run("keys", "rotate", made["id"], "--overlap-hours", 0, "--json")[1])
    revoked = [run("keys", "revoke", rotated["id"]) for _ in range(2)]

    assert rotated["scopes"] == made["scopes"] == ["admin:read"]
    assert rotated["key"] != made["key"]
    assert [each[1] for each in revoked] == [
        f"Key {rotated['id']} is revoked.\n",
        f"Key {rotated['id']} was revoked before.\n",
    ]
    assert [each["state"] for each in one(run("keys", "list", "--json")[1])["keys"]] == ["revoked", "expired"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("create",), "invalid_command"),
        (("create", "--account", "1", "--platform"), "invalid_command"),
        (("create", "--account", "99"), "unknown_account"),
        (("create", "--platform", "--scopes", "jobs:read"), "unknown_scope"),
        (("create", "--platform", "--expires-in-days", "0"), "invalid_argument"),
        (("rotate", "99"), "unknown_key"),
        (("rotate", "99", "--overlap-hours", "-1"), "invalid_argument"),
        (("revoke", "99"), "unknown_key"),
    ],
)
def test_bad_input_is_one_sentence_and_makes_no_key(run, words, code):
    exit_code, out, err = run("keys", *words)

    assert (exit_code, out) == (2, "")
    assert_one_sentence(err, code)
    assert rows("SELECT count(*) FROM api_keys") == [(0,)]
