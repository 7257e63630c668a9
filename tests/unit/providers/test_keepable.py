"""What PostgreSQL can keep: text and JSON are cleaned for it, and of a provider's words only codes are kept."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings

from tasks.providers.base import clean_json, clean_text, safe_code
from tests.unit.providers.any_json import json_values
from tests.unit.providers.openai_wire import PROMPT, SPOKEN


@pytest.mark.parametrize(
    ("given_text", "kept", "rule"),
    [
        ("plain é 😀", "plain é 😀", "as it is"),
        ("", "", "nothing"),
        ("a\x00b", "a\ufffdb", "a NUL"),
        ("a\ud800b", "a?b", "half of a pair"),
        ("\udc00\ud800", "??", "a pair the wrong way round"),
        ("\t\n\x01\x7f", "\t\n\x01\x7f", "other control characters"),
        (r"\u0000", r"\u0000", "a literal escape"),
    ],
)
def test_text_is_made_keepable(given_text, kept, rule):
    assert kept == clean_text(given_text), rule


def test_json_is_made_keepable_all_the_way_down():
    assert clean_json({"a\x00": ["b\ud800", {"c\udfff": ("d\x00",)}], 1: None, "n": 1.5, "t": True}) == {
        "a\ufffd": ["b?", {"c?": ("d\x00",)}],
        "1": None,
        "n": 1.5,
        "t": True,
    }


@settings(deadline=None)
@given(value=json_values)
def test_anything_cleaned_can_be_kept(value):
    cleaned = clean_json(value)

    written = json.dumps(cleaned, ensure_ascii=False)
    assert r"\u0000" not in written.replace(r"\\", "")
    written.encode()
    assert cleaned == clean_json(cleaned)


@pytest.mark.parametrize(
    "code", ["a", "insufficient_quota", "req_0a-B.9", "x" * 64, "429", "01234567-89ab-cdef-0123-456789abcdef"]
)
def test_a_code_is_kept(code):
    assert code == safe_code(code)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x" * 65,
        "two words",
        PROMPT,
        SPOKEN,
        "a:b",
        "a/b",
        "a\nb",
        "\n",
        "é",
        "a,b",
        '"a"',
        None,
        5,
        True,
        ["a"],
        {},
    ],
)
def test_anything_else_is_not(value):
    assert safe_code(value) is None


def test_a_code_with_a_line_break_at_its_end_is_not_kept():
    assert safe_code("code\n") is None
