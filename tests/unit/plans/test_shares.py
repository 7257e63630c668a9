"""Included credits are for days that no earlier period of the account has paid for."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.periods import Period
from billing.plans.shares import share, uncovered_days

FIRST = date(2026, 11, 1)


def days(start: int, end: int) -> Period:
    return Period(FIRST + timedelta(days=start), FIRST + timedelta(days=end))


@pytest.mark.parametrize(
    ("earlier", "credits", "rule"),
    [
        ([],                                   1000, "nothing before: all"),
        ([days(-30, 0)],                       1000, "what ended as it began covers none of it"),
        ([days(-1, 364)],                      0,    "wholly covered: nothing"),
        ([days(-10, 20)],                      333,  "10 of 30 days, rounded down"),
        ([days(-10, 20), days(-5, 25)],        166,  "a day that two cover is covered once"),
        ([days(-10, 1), days(29, 40)],         933,  "covered at both ends"),
        ([days(30, 60)],                       1000, "what begins as it ends covers none of it"),
    ],
)  # fmt: skip
def test_a_period_grants_its_share_for_the_days_that_no_earlier_one_covers(earlier, credits, rule):
    assert share(1000, days(0, 30), earlier) == credits, rule


spans = st.tuples(st.integers(-40, 40), st.integers(1, 60)).map(lambda given: days(given[0], given[0] + given[1]))


@settings(deadline=None)
@given(period=spans, earlier=st.lists(spans, max_size=6), included=st.integers(0, 10**9))
def test_uncovered_days_are_those_that_lie_in_no_earlier_period(period, earlier, included):
    every = [period.start + timedelta(days=n) for n in range((period.end - period.start).days)]
    free = sum(not any(day in each for each in earlier) for day in every)

    assert uncovered_days(period, earlier) == free
    assert share(included, period, earlier) == included * free // len(every)
