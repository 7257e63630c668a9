"""Counting tokens before a call, offline, so that an estimate is an upper bound.

The vocabularies ship in the tokenizer's wheel and load on first use. A model without a known tokenizer is counted by
its bytes: none of these vocabularies has a token shorter than a byte, so that count is an upper bound too.
"""

from __future__ import annotations

from collections.abc import Sequence

FRAMING_PER_MESSAGE = 8
"""Chat formats wrap each message in 3 to 7 tokens (OpenAI's cookbook, counting tokens); 8 covers them."""
FRAMING_PER_REQUEST = 16
USUAL_TOKENIZER = "o200k_base"
TOKENIZERS = frozenset({"o200k_base", "o200k_harmony", "cl100k_base"})


def count_input(texts: Sequence[str], tokenizer: str | None) -> int:
    """An upper bound of the input tokens of a request made of these texts, framing included."""
    framing = FRAMING_PER_REQUEST + FRAMING_PER_MESSAGE * len(texts)
    if tokenizer not in TOKENIZERS:
        return framing + sum(len(text.encode()) for text in texts)
    import toktok

    return framing + sum(toktok.batch_count(list(texts), tokenizer, threads=1))


def count_text(texts: Sequence[str], tokenizer: str | None) -> int:
    """The tokens of these texts alone, without any framing.

    For a model without a known tokenizer it is a guess by OpenAI's: what a provider counts lies near it, and the bytes,
    which bound it, lie far above.
    """
    import toktok

    return sum(toktok.batch_count(list(texts), tokenizer if tokenizer in TOKENIZERS else USUAL_TOKENIZER, threads=1))
