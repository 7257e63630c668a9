"""How much of the credits that a period includes it grants: what its days were not granted by earlier periods.

A plan gives each day of a period an equal part of its credits: its daily rate. Where periods of one account overlap,
each day is granted the highest of their rates, once. So hopping between plans piles nothing up, and whoever moves from
a small plan to a large one gets what the large one includes beyond the small one's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from billing.periods import Period


@dataclass(frozen=True)
class Granted:
    """A period that granted credits, or may still grant them, and the credits that its plan included."""

    period: Period
    included: int

    @property
    def rate(self) -> Fraction:
        """Credits a day."""
        return Fraction(self.included, (self.period.end - self.period.start).days)


def share(included: int, period: Period, account: Iterable[Granted]) -> int:
    """The credits that a period grants, of those included, rounded down.

    `account` holds the granted periods of its account; those that began before this one count. One that begins on the
    same day is this one, begun anew.
    """
    rate = Granted(period, included).rate
    earlier = [each for each in account if each.period.start < period.start and each.period.end > period.start]
    cuts = sorted({period.start, period.end} | {each.period.end for each in earlier if each.period.end < period.end})
    parts = (
        max(rate - max((each.rate for each in earlier if each.period.end >= end), default=Fraction(0)), Fraction(0))
        * (end - start).days
        for start, end in pairwise(cuts)
    )
    return int(sum(parts, Fraction(0)))
