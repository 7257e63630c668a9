"""Billing periods on every calendar: each anchor of a year, leap years, and zones whose clocks do odd things.

The reference is written apart from the code under test: boundaries are found by walking over all days, and the first
instant of a day by walking over all minutes around it.
"""

from __future__ import annotations

from calendar import isleap
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from billing.periods import Interval, Period, period_containing, period_from, starts_at
from tests.rounds import rounds

ZONES = [
    "UTC",
    "Africa/Cairo",  # its clocks skip midnight
    "Africa/Casablanca",
    "America/Asuncion",
    "America/Havana",  # its clocks repeat midnight
    "America/New_York",
    "America/Nuuk",
    "America/Santiago",
    "America/Sao_Paulo",  # they did both, up to 2019
    "America/St_Johns",  # until 2011 they were put back over midnight, a minute into the day
    "Antarctica/Troll",
    "Asia/Beirut",
    "Asia/Gaza",
    "Asia/Kathmandu",
    "Asia/Tehran",
    "Australia/Lord_Howe",  # by half an hour
    "Europe/Berlin",
    "Europe/London",
    "Pacific/Apia",  # it left out 30 December 2011
    "Pacific/Chatham",
]
DAY = timedelta(days=1)
STEP = {Interval.MONTH: 1, Interval.YEAR: 12}
anchors = st.dates(min_value=date(2004, 1, 1), max_value=date(2032, 12, 31))
days = st.dates(min_value=date(2004, 1, 2), max_value=date(2036, 12, 30))
zones = st.sampled_from(ZONES)
intervals = st.sampled_from(list(Interval))
MANY = settings(deadline=None, max_examples=rounds(150))


@cache
def first_minute(day: date, zone: str) -> datetime:
    """The first minute, in UTC, whose local date is this day or a later one."""
    at = datetime.combine(day, time(), UTC) - timedelta(hours=28)
    while at.astimezone(ZoneInfo(zone)).date() < day:
        # An hour before it, go on by minutes.
        ahead = at + timedelta(hours=2)
        at = ahead if ahead.astimezone(ZoneInfo(zone)).date() < day else at + timedelta(minutes=1)
    return at


def boundaries(anchor: date, interval: Interval, up_to: date) -> list[date]:
    """Every boundary from the anchor on, by walking over all days."""
    found, months, day = [], 0, anchor
    while day <= up_to:
        wanted = (anchor.year * 12 + anchor.month - 1) + months
        last_of_month = (day + DAY).month != day.month
        if day.year * 12 + day.month - 1 == wanted and (
            day.day == anchor.day or (last_of_month and day.day < anchor.day)
        ):
            found.append(day)
            months += STEP[interval]
        day += DAY
    return found


@pytest.mark.parametrize("interval", Interval)
@pytest.mark.parametrize("year", [2024, 2026])
def test_every_anchor_of_a_year_has_the_boundaries_of_a_walk_over_all_days(year, interval):
    for number in range(366 if isleap(year) else 365):
        anchor = date(year, 1, 1) + number * DAY
        found = [anchor]
        for _ in range(40 if interval is Interval.MONTH else 5):
            period = period_from(anchor, found[-1], interval)
            assert period.start == found[-1]
            found.append(period.end)

        assert found == boundaries(anchor, interval, found[-1])
        assert found == sorted(set(found))


@pytest.mark.parametrize("zone", ZONES)
def test_a_day_begins_with_its_first_minute_in_every_zone(zone):
    # 2011 and 2018: Samoa left out a day, Newfoundland and Brazil changed their clocks at midnight.
    for year in (2010, 2011, 2018):
        for number in range(365):
            day = date(year, 1, 1) + number * DAY
            assert starts_at(day, ZoneInfo(zone)) == first_minute(day, zone), (zone, day)


@MANY
@given(anchor=anchors, day=days, seconds=st.integers(0, 86_399), zone=zones, interval=intervals)
@example(date(2010, 1, 7), date(2010, 11, 7), 9_045, "America/St_Johns", Interval.MONTH)
@example(date(2011, 1, 30), date(2011, 12, 30), 36_000, "Pacific/Apia", Interval.MONTH)
@example(date(2004, 2, 29), date(2032, 2, 29), 0, "Africa/Cairo", Interval.YEAR)
@example(date(2018, 11, 4), date(2018, 11, 4), 10_799, "America/Sao_Paulo", Interval.MONTH)
def test_each_instant_is_in_exactly_one_period(anchor, day, seconds, zone, interval):
    at = datetime.combine(day, time(), UTC) + timedelta(seconds=seconds)
    if at < first_minute(anchor, zone):
        return
    starts = boundaries(anchor, interval, day + timedelta(days=400))
    holding = [
        Period(start, end)
        for start, end in pairwise(starts)
        if first_minute(start, zone) <= at < first_minute(end, zone)
    ]

    assert [period_containing(anchor, at, ZoneInfo(zone), interval)] == holding


@MANY
@given(anchor=anchors, day=days, zone=zones, interval=intervals)
def test_periods_adjoin_at_an_instant(anchor, day, zone, interval):
    where = ZoneInfo(zone)
    at = datetime.combine(day, time(12), where)
    period = period_containing(anchor, at, where, interval)
    end = starts_at(period.end, where)

    assert starts_at(period.start, where) <= at < end
    assert period_containing(anchor, end - timedelta(microseconds=1), where, interval) == period
    assert period_containing(anchor, end, where, interval).start == period.end
    assert period_from(anchor, period.end, interval) == period_containing(anchor, end, where, interval)
