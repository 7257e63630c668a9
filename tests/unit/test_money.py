"""Rounding credits and USD: tables read like a ledger, and random amounts against references of other making."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Context, Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.money import USD_STEP, Rounding, divide, round_credits, usd
from tests.rounds import rounds

MANY = settings(deadline=None, max_examples=rounds(300))
AMOUNTS = st.integers(min_value=0, max_value=10**15)
DIVISORS = st.integers(min_value=1, max_value=10**6)
EXACT = Context(prec=400)
DECIMAL_MODES = {Rounding.UP: ROUND_CEILING, Rounding.DOWN: ROUND_FLOOR, Rounding.NEAREST: ROUND_HALF_UP}


@pytest.mark.parametrize(
    ("tokens", "per_credit", "up", "down", "nearest", "rule"),
    [
        (0, 100, 0, 0, 0, "nothing is nothing"),
        (1, 100, 1, 0, 0, "a crumb"),
        (49, 100, 1, 0, 0, "just under a half"),
        (50, 100, 1, 0, 1, "a half goes up"),
        (51, 100, 1, 0, 1, "just over a half"),
        (99, 100, 1, 0, 1, "just under one"),
        (100, 100, 1, 1, 1, "exactly one"),
        (101, 100, 2, 1, 1, "just over one"),
        (149, 100, 2, 1, 1, "just under one and a half"),
        (150, 100, 2, 1, 2, "one and a half goes up"),
        (250, 100, 3, 2, 3, "two and a half goes up, not to even"),
        (1, 3, 1, 0, 0, "a third"),
        (2, 3, 1, 0, 1, "two thirds"),
        (7, 1, 7, 7, 7, "one token a credit"),
        (2**62, 1, 2**62, 2**62, 2**62, "no float is on the way"),
        (2**62 + 1, 2, 2**61 + 1, 2**61, 2**61 + 1, "not even for a half of a large number"),
    ],
)
def test_division_rounds_as_it_is_told(tokens, per_credit, up, down, nearest, rule):
    assert (up, down, nearest) == (
        divide(tokens, per_credit, rounding=Rounding.UP),
        divide(tokens, per_credit, rounding=Rounding.DOWN),
        divide(tokens, per_credit, rounding=Rounding.NEAREST),
    ), rule


@MANY
@given(numerator=AMOUNTS, denominator=DIVISORS, rounding=st.sampled_from(Rounding))
def test_division_agrees_with_decimal_arithmetic(numerator, denominator, rounding):
    # 400 digits are more than any tie here needs: a quotient of these numbers is a tie or differs from one by 1e-7.
    quotient = EXACT.divide(Decimal(numerator), Decimal(denominator))
    expected = int(quotient.to_integral_value(rounding=DECIMAL_MODES[rounding]))

    assert expected == divide(numerator, denominator, rounding=rounding)
    assert expected == round_credits(Fraction(numerator, denominator), rounding)


@MANY
@given(numerator=AMOUNTS, denominator=DIVISORS)
def test_the_modes_differ_by_one_credit_at_most(numerator, denominator):
    up, down, nearest = (divide(numerator, denominator, rounding=mode) for mode in Rounding)

    assert down * denominator <= numerator <= up * denominator
    assert up - down == (0 if numerator % denominator == 0 else 1)
    assert nearest in (up, down)
    assert abs(2 * (nearest * denominator - numerator)) <= denominator


@pytest.mark.parametrize(("numerator", "denominator"), [(-1, 100), (-100, 100), (1, 0), (0, 0), (1, -100), (-1, -100)])
@pytest.mark.parametrize("rounding", Rounding)
def test_negative_amounts_and_divisors_are_refused(numerator, denominator, rounding):
    with pytest.raises(ValueError, match="amounts are never negative"):
        divide(numerator, denominator, rounding=rounding)


@pytest.mark.parametrize(
    ("exact", "expected", "rule"),
    [
        (Fraction(0), "0.0000000000", "zero has ten decimals too"),
        (Fraction(1), "1.0000000000", "a dollar"),
        (Fraction(1, 3), "0.3333333333", "a third"),
        (Fraction(2, 3), "0.6666666667", "two thirds"),
        (Fraction(1, 10), "0.1000000000", "what a float cannot hold"),
        (Fraction(3, 10), "0.3000000000", "what 0.1 + 0.2 is not, in floats"),
        (Fraction(1, 10**10), "0.0000000001", "the smallest amount"),
        (Fraction(1, 2 * 10**10), "0.0000000000", "half of it: to even, down"),
        (Fraction(3, 2 * 10**10), "0.0000000002", "one and a half of it: to even, up"),
        (Fraction(5, 2 * 10**10), "0.0000000002", "two and a half of it: to even, down"),
        (Fraction(49, 10**12), "0.0000000000", "less than half of it"),
        (Fraction(51, 10**12), "0.0000000001", "more than half of it"),
        (Fraction(9_999_999_999), "9999999999.0000000000", "the largest that the columns hold"),
    ],
)
def test_usd_is_exact_to_ten_decimals(exact, expected, rule):
    assert expected == f"{usd(exact):f}", rule


@MANY
@given(exact=st.fractions(min_value=0, max_value=10**9, max_denominator=10**12))
def test_usd_is_never_further_off_than_half_a_step(exact):
    amount = usd(exact)

    assert amount.as_tuple().exponent == -10
    assert abs(Fraction(amount) - exact) <= Fraction(USD_STEP) / 2


@MANY
@given(steps=st.integers(min_value=0, max_value=10**20))
def test_usd_with_ten_decimals_or_fewer_is_kept_as_it_is(steps):
    assert Fraction(steps, 10**10) == Fraction(usd(Fraction(steps, 10**10)))
