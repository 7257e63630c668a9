"""How much of a plan's allowance a request can use at most, and how much it did use."""

from __future__ import annotations

from enum import StrEnum

from billing.catalog.usage import Usage, Work
from billing.money import Rounding, divide


class LimitUnit(StrEnum):
    """What one unit of a plan limit counts."""

    REQUESTS = "requests"
    WORDS = "words"
    IMAGES = "images"


def estimate_units(unit: LimitUnit, work: Work, *, words_per_100_tokens: int) -> int:
    """The most units that this request can use; words are estimated from the tokens that they may take."""
    if unit is LimitUnit.IMAGES:
        return work.images
    if unit is LimitUnit.WORDS:
        return divide(work.max_output_tokens * words_per_100_tokens, 100, rounding=Rounding.UP)
    return 1


def used_units(unit: LimitUnit, usage: Usage, words: int, *, held: int) -> int:
    """The units that were used by an answer of so many words, never more than were held."""
    if unit is LimitUnit.IMAGES:
        return min(usage.images, held)
    if unit is LimitUnit.WORDS:
        return min(words, held)
    return min(1, held)
