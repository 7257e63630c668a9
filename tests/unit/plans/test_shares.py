"""Each day is granted once, at the highest daily rate of the plans that an account has had on it."""

from __future__ import annotations

from datetime import date, timedelta
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.periods import Period
from billing.plans.shares import Granted, share

FIRST = date(2026, 11, 1)


def days(start: int, end: int) -> Period:
    return Period(FIRST + timedelta(days=start), FIRST + timedelta(days=end))


def had(start: int, end: int, daily: int) -> Granted:
    return Granted(days(start, end), daily * (end - start))


@pytest.mark.parametrize(
    ("earlier", "credits", "rule"),
    [
        ([],                                       1000, "nothing before: all"),
        ([had(-30, 0, 90)],                        1000, "what ended as it began has had none of its days"),
        ([had(-1, 364, 90)],                       0,    "a larger plan has had all its days: nothing"),
        ([had(-10, 20, 90)],                       333,  "10 of 30 days are left, rounded down"),
        ([had(-10, 20, 90), had(-5, 25, 90)],      166,  "a day that two have had was granted once"),
        ([had(-1, 364, 10)],                       700,  "a smaller plan has had them: 23.3 of 33.3 a day"),
        ([had(-10, 15, 10)],                       850,  "a smaller one has had half of them"),
        ([had(-9, 20, 10), had(-5, 10, 20)],       700,  "of several, the largest on each day counts"),
        ([had(0, 30, 90)],                         1000, "what began on the same day is this one, begun anew"),
        ([had(5, 10, 90)],                         1000, "what began later does not count"),
    ],
)  # fmt: skip
def test_a_period_grants_what_its_days_were_not_granted_before(earlier, credits, rule):
    assert share(1000, days(0, 30), earlier) == credits, rule


spans = st.tuples(st.integers(-40, 40), st.integers(1, 60)).map(lambda given: days(given[0], given[0] + given[1]))
periods = st.builds(Granted, spans, st.integers(0, 10**9))


def every_day(period: Period) -> list[date]:
    return [period.start + timedelta(days=n) for n in range((period.end - period.start).days)]


@settings(deadline=None)
@given(asked=periods, account=st.lists(periods, max_size=6))
def test_a_share_is_the_sum_over_its_days(asked, account):
    earlier = [each for each in account if each.period.start < asked.period.start]
    left = [
        asked.rate - max((each.rate for each in earlier if day in each.period), default=0)
        for day in every_day(asked.period)
    ]

    assert share(asked.included, asked.period, account) == int(
        sum((max(each, Fraction(0)) for each in left), Fraction(0))
    )


@settings(deadline=None)
@given(wanted=st.lists(periods, min_size=1, max_size=8, unique_by=lambda each: each.period.start))
def test_no_order_of_plans_grants_a_day_more_than_the_largest_of_them(wanted):
    begun, total = [], 0
    for each in sorted(wanted, key=lambda each: each.period.start):
        credits = share(each.included, each.period, begun)
        total += credits
        if credits:
            begun.append(each)

    best = {
        day: max(each.rate for each in wanted if day in each.period) for one in wanted for day in every_day(one.period)
    }
    assert total <= sum(best.values())
