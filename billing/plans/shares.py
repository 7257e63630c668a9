"""How much of the credits that a period includes it grants: those of its days that no earlier period has paid for.

An account that hops between plans would else be granted several plans' credits for the same days.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from billing.periods import Period


def share(included: int, period: Period, earlier: Iterable[Period]) -> int:
    """The credits, of those included, for the days of a period that none of the earlier ones covers, rounded down."""
    return included * uncovered_days(period, earlier) // (period.end - period.start).days


def uncovered_days(period: Period, earlier: Iterable[Period]) -> int:
    """How many days of a period none of the earlier ones has; they may overlap each other."""
    days, covered_to = timedelta(0), period.start
    for each in sorted(earlier, key=lambda each: each.start):
        if each.start >= period.end:
            break
        days += max(each.start - covered_to, timedelta(0))
        covered_to = max(covered_to, each.end)
    return (days + max(period.end - covered_to, timedelta(0))).days
