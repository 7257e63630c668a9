"""What counts as a word, in any script."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.plans.words import count_words
from tests.unit.test_architecture import ROOT

PAGE = ROOT / "docs/how-to/limit-plans.md"


@pytest.mark.parametrize(
    ("text", "words", "rule"),
    [
        ("ภาษาไทยเป็นภาษาที่ไม่มีการเว้นวรรคระหว่างคำ", 11, "Thai has no spaces"),
        ("日本語の文章には単語の間に空白がありません。", 13, "nor has Japanese"),
        ("中文文章没有空格,但是有很多词语。", 8, "nor has Chinese"),
        ("ខ្ញុំស្រលាញ់ភាសាខ្មែរ", 3, "nor has Khmer"),
        ("ພາສາລາວ", 2, "nor has Lao"),
        ("It's a well-known fact: 3.14 isn't 22/7.", 9, "an apostrophe or a point joins, a hyphen or a slash parts"),
        ("한국어 문장은 띄어 씁니다", 4, "Korean has spaces"),
        ("مرحبا بالعالم", 2, "from right to left"),
        ("two dogs", 2, "spaces part"),
        ("  two\n\tdogs  ", 2, "however many there are"),
        ("e\u0301te\u0301", 1, "a combining accent belongs to its letter"),
        ("", 0, "nothing"),
        ("... --- 👍🏽 \u0301 \x00", 0, "punctuation, pictures and marks alone are no words"),
        ("one\x00two", 2, "a control character parts"),
        ("\ud800 half \udfff", 1, "half a surrogate pair is no word"),
    ],
)
def test_a_word_is_what_holds_a_letter_or_a_digit_between_boundaries(text, words, rule):
    assert count_words(text) == words, rule


@settings(deadline=None)
@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_any_text_has_at_most_as_many_words_as_letters(text):
    assert 0 <= count_words(text) <= sum(letter.isalnum() for letter in text)


def test_the_words_of_texts_on_lines_of_their_own_add_up():
    thai, english = "ภาษาไทยเป็นภาษา", "A long text. " * 1_000
    assert count_words(f"{thai}\n{english}") == count_words(thai) + 3_000


def test_the_examples_of_the_documentation_are_true():
    rows = re.findall(r"^\|[^|]*\|[^|]*\| ([^|]+) \| (\d+) \|$", PAGE.read_text(), re.MULTILINE)
    assert len(rows) > 5
    assert [(text, count_words(text)) for text, _ in rows] == [(text, int(words)) for text, words in rows]
