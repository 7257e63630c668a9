"""Billing periods, counted from an anchor date in the account's own time zone.

The n-th boundary is always computed from the anchor, never from the boundary before it, so that an account anchored on
the 31st renews on the last day of a short month and on the 31st again after it.
"""

from __future__ import annotations

from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from enum import StrEnum
from zoneinfo import ZoneInfo

FORECAST_MONTHS_MAX = 1_200
"""The most months ahead for which anything is computed."""


class Interval(StrEnum):
    """How long a billing period is."""

    MONTH = "month"
    YEAR = "year"

    @property
    def months(self) -> int:
        """Its length in calendar months."""
        return 12 if self is Interval.YEAR else 1


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


def starts_at(day: date, zone: ZoneInfo) -> datetime:
    """The first instant, in UTC, at which this day or a later one has begun in the zone.

    That is midnight. Where the clocks are put back over midnight, it is the first of the two; where they skip midnight,
    it is the skip, which in every zone since 1960 has begun at midnight itself.
    """
    return datetime.combine(day, time(), zone).astimezone(UTC)


def period_from(anchor: date, start: date, interval: Interval) -> Period:
    """The period that begins at `start`, which is a boundary of this anchor."""
    return Period(start, add_months(anchor, _months_between(anchor, start) + interval.months))


def period_containing(anchor: date, at: datetime, zone: ZoneInfo, interval: Interval = Interval.MONTH) -> Period:
    """The period that holds this instant, for an account anchored on `anchor` that lives in `zone`."""
    step = interval.months
    nearby = _months_between(anchor, at.astimezone(zone).date()) // step * step
    # Where the clocks are put back over midnight, a day begins before the previous day has ended.
    start = next(day for n in (1, 0, -1) if starts_at(day := add_months(anchor, nearby + n * step), zone) <= at)
    return period_from(anchor, start, interval)


def _months_between(anchor: date, day: date) -> int:
    return (day.year - anchor.year) * 12 + day.month - anchor.month
