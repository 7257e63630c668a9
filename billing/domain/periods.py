"""Billing periods, counted from an anchor date in the account's own time zone.

The n-th boundary is always computed from the anchor, never from the boundary before it, so that an account anchored on
the 31st renews on the last day of a short month and on the 31st again after it.
"""

from __future__ import annotations

from calendar import monthrange
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo


@dataclass(frozen=True)
class Period:
    """A billing period as dates, `start` inside and `end` outside it: [start, end)."""

    start: date
    end: date

    def __contains__(self, day: date) -> bool:
        return self.start <= day < self.end


def add_months(anchor: date, months: int) -> date:
    """The anchor's day that many months later, or the last day of a month that is too short for it."""
    years, month = divmod(anchor.year * 12 + anchor.month - 1 + months, 12)
    return date(years, month + 1, min(anchor.day, monthrange(years, month + 1)[1]))


def period_containing(anchor: date, at: datetime, zone: ZoneInfo) -> Period:
    """The monthly period that holds this instant, for an account anchored on `anchor` that lives in `zone`."""
    day = at.astimezone(zone).date()
    months = (day.year - anchor.year) * 12 + day.month - anchor.month
    if add_months(anchor, months) > day:
        months -= 1
    return Period(add_months(anchor, months), add_months(anchor, months + 1))


def days_between(first: date, last: date) -> list[date]:
    """Every day from `first` to `last`, both included."""
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]
