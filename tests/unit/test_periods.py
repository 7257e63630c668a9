"""Billing periods: months counted from an anchor, in the account's own time zone."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from dateutil.relativedelta import relativedelta
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.periods import Period, add_months, period_containing
from tests.rounds import rounds

MANY = settings(deadline=None, max_examples=rounds(200))
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Pacific/Kiritimati"]
anchors = st.dates(min_value=date(1990, 1, 1), max_value=date(2060, 12, 31))
late_anchors = anchors.filter(lambda day: day.day >= 28)
instants = st.integers(min_value=946_684_800, max_value=2_682_288_000).map(lambda s: datetime.fromtimestamp(s, UTC))
zones = st.sampled_from(ZONES).map(ZoneInfo)


@pytest.mark.parametrize(
    ("anchor", "months", "expected", "rule"),
    [
        ("2026-01-31", 0, "2026-01-31", "the anchor itself"),
        ("2026-01-31", 1, "2026-02-28", "the last day of a short month"),
        ("2026-01-31", 2, "2026-03-31", "and the 31st again after it"),
        ("2026-01-31", 3, "2026-04-30", "April has 30"),
        ("2028-01-31", 1, "2028-02-29", "a leap year"),
        ("2028-02-29", 12, "2029-02-28", "a leap day, a year on"),
        ("2028-02-29", 48, "2032-02-29", "and four years on"),
        ("2026-01-30", 1, "2026-02-28", "the 30th"),
        ("2026-01-29", 1, "2026-02-28", "the 29th"),
        ("2028-01-29", 1, "2028-02-29", "the 29th, in a leap year"),
        ("2099-12-31", 2, "2100-02-28", "2100 is no leap year"),
        ("2026-12-15", 1, "2027-01-15", "over the end of the year"),
        ("2026-01-15", -1, "2025-12-15", "backwards over it"),
        ("2026-03-31", -1, "2026-02-28", "backwards into a short month"),
        ("2026-12-31", 12, "2027-12-31", "December is a month like any other"),
        ("2026-06-30", -6, "2025-12-30", "not the 31st: the anchor is the 30th"),
    ],
)
def test_a_boundary_is_counted_from_the_anchor(anchor, months, expected, rule):
    assert date.fromisoformat(expected) == add_months(date.fromisoformat(anchor), months), rule


@pytest.mark.parametrize(
    ("anchor", "zone", "at", "start", "end", "rule"),
    [
        ("2026-11-01", "UTC", "2026-11-01T00:00Z", "2026-11-01", "2026-12-01", "the first instant is inside"),
        ("2026-11-01", "UTC", "2026-11-30T23:59:59Z", "2026-11-01", "2026-12-01", "the last one too"),
        ("2026-11-01", "UTC", "2026-12-01T00:00Z", "2026-12-01", "2027-01-01", "the end is outside"),
        ("2026-01-31", "UTC", "2026-02-27T12:00Z", "2026-01-31", "2026-02-28", "before a short month's end"),
        ("2026-01-31", "UTC", "2026-02-28T00:00Z", "2026-02-28", "2026-03-31", "it renews on the 28th"),
        ("2026-01-31", "UTC", "2026-03-30T12:00Z", "2026-02-28", "2026-03-31", "and on the 31st after it"),
        ("2028-01-30", "UTC", "2028-02-28T12:00Z", "2028-01-30", "2028-02-29", "a leap year gives a day more"),
        ("2028-02-29", "UTC", "2029-02-28T00:00Z", "2029-02-28", "2029-03-29", "a leap day's anchor"),
        ("2026-11-01", "Asia/Kathmandu", "2026-10-31T18:14Z", "2026-10-01", "2026-11-01", "23:59 in Kathmandu (+5:45)"),
        ("2026-11-01", "Asia/Kathmandu", "2026-10-31T18:15Z", "2026-11-01", "2026-12-01", "midnight there"),
        ("2026-11-01", "America/New_York", "2026-11-01T03:59Z", "2026-10-01", "2026-11-01", "23:59, in summer (-4)"),
        ("2026-11-01", "America/New_York", "2026-11-01T04:00Z", "2026-11-01", "2026-12-01", "midnight, in summer"),
        ("2026-11-01", "America/New_York", "2026-12-01T04:00Z", "2026-11-01", "2026-12-01", "23:00, in winter (-5)"),
        ("2026-11-01", "America/New_York", "2026-12-01T05:00Z", "2026-12-01", "2027-01-01", "midnight, in winter"),
        ("2026-03-29", "Europe/Berlin", "2026-03-28T22:59Z", "2026-02-28", "2026-03-29", "the eve of the lost hour"),
        ("2026-03-29", "Europe/Berlin", "2026-03-28T23:00Z", "2026-03-29", "2026-04-29", "the day of the lost hour"),
        ("2026-10-25", "Europe/Berlin", "2026-10-24T22:00Z", "2026-10-25", "2026-11-25", "the day of the extra hour"),
        ("2026-10-25", "Europe/Berlin", "2026-11-24T23:00Z", "2026-11-25", "2026-12-25", "and its next, in winter"),
        ("2026-11-15", "UTC", "2026-09-20T12:00Z", "2026-09-15", "2026-10-15", "an instant before the anchor"),
    ],
)
def test_an_instant_is_in_the_period_of_its_local_day(anchor, zone, at, start, end, rule):
    period = period_containing(date.fromisoformat(anchor), datetime.fromisoformat(at), ZoneInfo(zone))

    assert Period(date.fromisoformat(start), date.fromisoformat(end)) == period, rule


def test_the_zone_of_the_instant_does_not_matter():
    at, berlin = datetime(2026, 10, 31, 23, 30, tzinfo=UTC), ZoneInfo("Europe/Berlin")

    assert Period(date(2026, 11, 1), date(2026, 12, 1)) == period_containing(date(2026, 1, 1), at, berlin)
    assert Period(date(2026, 11, 1), date(2026, 12, 1)) == period_containing(
        date(2026, 1, 1), at.astimezone(ZoneInfo("America/New_York")), berlin
    )


@MANY
@given(anchor=anchors | late_anchors, months=st.integers(min_value=-600, max_value=600))
def test_boundaries_agree_with_dateutil(anchor, months):
    assert anchor + relativedelta(months=months) == add_months(anchor, months)


@MANY
@given(anchor=anchors | late_anchors, months=st.integers(min_value=-600, max_value=600))
def test_boundaries_strictly_increase(anchor, months):
    assert add_months(anchor, months) < add_months(anchor, months + 1)


@MANY
@given(anchor=anchors | late_anchors, at=instants, zone=zones)
def test_each_instant_is_in_exactly_one_period(anchor, at, zone):
    day = at.astimezone(zone).date()
    nearby = (day.year - anchor.year) * 12 + day.month - anchor.month
    months = range(nearby - 2, nearby + 3)
    candidates = [(anchor + relativedelta(months=n), anchor + relativedelta(months=n + 1)) for n in months]

    (expected,) = [(start, end) for start, end in candidates if start <= day < end]

    assert Period(*expected) == period_containing(anchor, at, zone)


@MANY
@given(anchor=anchors | late_anchors, at=instants, zone=zones)
def test_periods_adjoin(anchor, at, zone):
    period = period_containing(anchor, at, zone)
    midnight = datetime.combine(period.end, datetime.min.time(), zone)

    following = period_containing(anchor, midnight, zone)
    before = period_containing(anchor, midnight - timedelta(microseconds=1), zone)

    assert period.end == following.start
    assert 28 <= (following.end - following.start).days <= 31
    assert before == period


@pytest.mark.parametrize(
    ("day", "inside"), [("2026-10-31", False), ("2026-11-01", True), ("2026-11-30", True), ("2026-12-01", False)]
)
def test_a_period_holds_its_start_and_not_its_end(day, inside):
    assert inside is (date.fromisoformat(day) in Period(date(2026, 11, 1), date(2026, 12, 1)))
