"""What provider calls tell that an operator should know: usage that was mended, and costs that differ from ours."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from sqlalchemy.orm import Session

from billing.jobs import call_queries
from billing.jobs.mending import Note
from billing.money import percent

TOLERATED_PERCENT = 1
"""A difference of less than this share of the reported cost is rounding."""
LOOKED_BACK = timedelta(days=30)
"""How far back costs are compared."""
DAY = timedelta(days=1)


@dataclass(frozen=True)
class CostDifference:
    """The calls of one model whose cost its provider reports as another: their number, our cost and theirs in USD."""

    model: str
    calls: int
    ours_usd: Decimal
    reported_usd: Decimal

    @property
    def percent(self) -> Decimal | None:
        """By how much the reported cost is higher (or lower, below 0) than ours, in percent of ours."""
        return percent(self.reported_usd - self.ours_usd, self.ours_usd)


def mended(session: Session, *, now: datetime) -> dict[Note, int]:
    """How many calls of the last day had their usage mended by each rule, those with 0 among them."""
    found = call_queries.notes_since(session, now - DAY)
    counted = dict.fromkeys(Note, 0)
    for kept, calls in found.items():
        for code in kept.split():
            counted[Note(code)] += calls
    return counted


def cost_differences(session: Session, *, now: datetime) -> list[CostDifference]:
    """The models whose provider reports, over the last thirty days, another cost than ours, by name."""
    found = [CostDifference(*row) for row in call_queries.costs_that_differ(session, now - LOOKED_BACK)]
    return [each for each in found if _is_real(each)]


def _is_real(found: CostDifference) -> bool:
    return abs(found.reported_usd - found.ours_usd) * 100 >= max(found.reported_usd, found.ours_usd) * TOLERATED_PERCENT
