"""Counting tokens before a call: never fewer than the provider will count, and quickly."""

from __future__ import annotations

import time

import pytest
import toktok
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.catalog.tokens import count_input
from tests.rounds import rounds

MANY = settings(deadline=None, max_examples=rounds(300))
TOKENIZERS = ["cl100k_base", "o200k_base", "o200k_harmony"]
PER_MESSAGE, PER_REQUEST = 3, 3
"""What OpenAI's cookbook adds for a chat: 3 tokens a message, and 3 that open the answer."""

texts = st.lists(st.text(max_size=200) | st.sampled_from(["<|endoftext|>", "<|im_start|>", "a" * 500, "🦙" * 50]))


def counted_by(tokenizer: str, given_texts: list[str]) -> int:
    return sum(toktok.batch_count(given_texts, tokenizer)) + PER_MESSAGE * len(given_texts) + PER_REQUEST


@pytest.fixture(scope="module", autouse=True)
def _vocabularies() -> None:
    """Loaded once: the times below are of counting."""
    for tokenizer in TOKENIZERS:
        toktok.batch_count(["a"], tokenizer)


@MANY
@given(given_texts=texts, tokenizer=st.sampled_from(TOKENIZERS))
def test_a_count_is_an_upper_bound_of_the_tokenizers_own(given_texts, tokenizer):
    assert counted_by(tokenizer, given_texts) <= count_input(given_texts, tokenizer)


@MANY
@given(given_texts=texts, tokenizer=st.sampled_from(TOKENIZERS))
def test_without_a_tokenizer_the_bytes_are_an_upper_bound(given_texts, tokenizer):
    assert counted_by(tokenizer, given_texts) <= count_input(given_texts, None)


@MANY
@given(given_texts=texts, more=st.text(min_size=1), tokenizer=st.sampled_from([*TOKENIZERS, None]))
def test_another_message_counts_for_at_least_its_framing(given_texts, more, tokenizer):
    assert count_input([*given_texts, more], tokenizer) > count_input(given_texts, tokenizer) + PER_MESSAGE


@pytest.mark.parametrize(
    ("given_texts", "tokenizer", "expected", "rule"),
    [
        ([], "o200k_base", 16, "a request's framing"),
        ([""], "o200k_base", 24, "and a message's"),
        (["hello world"], "o200k_base", 26, "two tokens"),
        (["hello world", "hello world"], "o200k_base", 36, "each message has its own"),
        (["hello world"], None, 35, "eleven bytes"),
        (["é€😀"], None, 33, "bytes, not letters: 2 + 3 + 4"),
    ],
)
def test_a_count_is_tokens_and_framing(given_texts, tokenizer, expected, rule):
    assert expected == count_input(given_texts, tokenizer), rule


@pytest.mark.parametrize("tokenizer", [*TOKENIZERS, None])
@pytest.mark.parametrize("letter", ["a", " ", "\n", "é"])
def test_a_megabyte_of_one_letter_is_counted_quickly(tokenizer, letter):
    megabyte = letter * (1_000_000 // len(letter.encode()))
    started = time.monotonic()

    counted = count_input([megabyte], tokenizer)

    assert time.monotonic() - started < 2
    assert 1_000 < counted <= 1_000_024
