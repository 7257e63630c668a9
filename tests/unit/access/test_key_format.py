"""What API keys look like, and which texts are none."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.access import key_format
from billing.access.scopes import expanded, unknown
from config.logging import scrub


@pytest.mark.parametrize("kind", key_format.KINDS)
def test_a_key_says_what_it_is_and_checks_itself(kind):
    key = key_format.new_key(kind)

    assert re.fullmatch(rf"cm_{kind}_[0-9A-Za-z]{{38}}", key)
    assert key_format.kind_of(key) == kind
    assert key_format.new_key(kind) != key
    assert re.fullmatch("[0-9a-f]{64}", key_format.digest(key))
    assert key_format.shown(key) == (key[:12], key[-4:])


@given(st.integers(0, 45), st.sampled_from(string.printable + "é"))
def test_one_wrong_letter_is_noticed(place, letter):
    key = key_format.new_key(key_format.LIVE)
    wrong = key[:place] + letter + key[place + 1 :]

    assert (key_format.kind_of(wrong) == key_format.LIVE) is (wrong == key)


@given(st.text())
def test_what_is_no_key_is_none(text):
    assert key_format.kind_of(text) is None


@pytest.mark.parametrize("text", ["", "cm_live_", "cm_prod_" + "a" * 38, "cm_live_" + "a" * 38, "a" * 10_000])
def test_what_looks_like_a_key_is_none(text):
    assert key_format.kind_of(text) is None


def test_the_check_is_what_it_was_for_the_keys_that_are_out_there():
    assert key_format.kind_of("cm_live_" + "0" * 32 + key_format._check("cm_live_" + "0" * 32)) == "live"
    assert key_format._check("cm_live_" + "0" * 32) == "00ZJKb"


def test_a_key_is_scrubbed_from_whatever_is_logged():
    key = key_format.new_key(key_format.LIVE)

    assert key[10:30] not in scrub(f"GET /jobs with {key} failed")


def test_scopes_are_named_once_and_in_order():
    assert expanded(["jobs:read", "jobs:write", "jobs:read"]) == ("jobs:write", "jobs:read")
    assert expanded(["admin:*"]) == ("admin:read", "admin:write")
    assert unknown(["admin:*", "jobs:read"], of_platform=False) == ["admin:*"]
    assert unknown(["admin:*", "jobs:read"], of_platform=True) == ["jobs:read"]
