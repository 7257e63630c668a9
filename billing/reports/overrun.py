"""Overrun: the credits that jobs used beyond what was held for them, which the platform loses."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from billing.reports import revenue_queries

LOOKED_BACK = timedelta(days=30)
TOLERATED_PERCENT = 1
"""Less than this share of the credits charged is no reason to act."""


@dataclass(frozen=True)
class Overrun:
    """The overrun of one model, and the credits that were charged for it."""

    model: str
    credits_overrun: int
    credits: int

    @property
    def is_much(self) -> bool:
        """Whether an operator should do something about it."""
        return self.credits_overrun * 100 >= self.credits * TOLERATED_PERCENT


def by_model(session: Session, *, now: datetime) -> list[Overrun]:
    """The overrun of the last thirty days, of each model that has any, by name."""
    sums = revenue_queries.sums(session, (now - LOOKED_BACK).date(), now.date(), by=["model_name"])
    return [
        Overrun(row["model_name"], int(row["credits_overrun"]), int(row["credits"]))
        for row in sums
        if row["credits_overrun"]
    ]
