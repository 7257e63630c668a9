"""The search for planted secrets finds them in every form."""

from __future__ import annotations

import base64
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.acceptance.disguises import found_in

SECRET = "planted/k+ey=0123456789abcdef~"


@pytest.mark.parametrize(
    "written",
    [
        SECRET,
        f"Bearer {SECRET}\n",
        SECRET[::-1],
        SECRET.encode().hex(),
        SECRET.encode().hex().upper(),
        quote(SECRET, safe=""),
        quote_plus(SECRET),
        f"https://host/?key={quote(SECRET, safe='')}&x=1",
        "".join(f"%{byte:02X}" for byte in SECRET.encode()),
    ],
)
def test_each_form_is_found(written):
    assert found_in(f"before {written} behind", SECRET) != []


@given(st.binary(max_size=12), st.binary(max_size=12), st.sampled_from([base64.b64encode, base64.urlsafe_b64encode]))
def test_base64_is_found_whatever_stands_around_the_secret(before, behind, encode):
    assert found_in(encode(before + SECRET.encode() + behind).decode(), SECRET) != []


@given(st.text(max_size=200))
def test_nothing_is_found_where_it_is_not(text):
    assert found_in(text, SECRET) == []
