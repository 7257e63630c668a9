"""How much of a plan's allowance a request can use at most, and how much it did use."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from billing.domain.money import Rounding, divide
from billing.domain.pricing import Usage, Work

WORDS_PER_100_TOKENS = 75
"""English prose has about 0.75 words a token (OpenAI's help pages on tokens); used to hold words before they exist."""


class LimitUnit(StrEnum):
    """What one unit of a plan limit counts."""

    REQUESTS = "requests"
    WORDS = "words"
    IMAGES = "images"


@dataclass(frozen=True)
class LimitHold:
    """Units of one plan limit that a job holds, in the period in which it was reserved."""

    limit_type: str
    unit: LimitUnit
    amount: int


def estimate_units(unit: LimitUnit, work: Work) -> int:
    """The most units that this request can use."""
    if unit is LimitUnit.IMAGES:
        return work.images
    if unit is LimitUnit.WORDS:
        return divide(work.max_output_tokens * WORDS_PER_100_TOKENS, 100, rounding=Rounding.UP)
    return 1


def used_units(unit: LimitUnit, usage: Usage, text: str | None, *, held: int) -> int:
    """The units that were used, never more than were held."""
    if unit is LimitUnit.IMAGES:
        return min(usage.images, held)
    if unit is LimitUnit.WORDS:
        return min(len((text or "").split()), held)
    return min(1, held)
