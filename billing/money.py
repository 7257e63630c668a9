"""Amounts: credits are whole numbers, USD is Decimal, and every rounding is spelled out. No floats."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal
from enum import StrEnum
from fractions import Fraction

USD_STEP = Decimal("0.0000000001")
CREDITS_MAX = 2**53
"""The largest amount of credits: it fits BIGINT with room to add, and any JSON reader keeps it exact."""


class Rounding(StrEnum):
    """How a fraction of a credit becomes whole credits (specification: BillingConfiguration.credit_rounding_mode)."""

    UP = "up"
    DOWN = "down"
    NEAREST = "nearest"


def divide(numerator: int, denominator: int, *, rounding: Rounding) -> int:
    """Whole-number division of non-negative numbers; `nearest` rounds a half up."""
    if numerator < 0 or denominator <= 0:
        raise ValueError(f"cannot divide {numerator} by {denominator}: amounts are never negative")
    return round_credits(Fraction(numerator, denominator), rounding)


def round_credits(exact: Fraction, rounding: Rounding) -> int:
    """An exact, non-negative amount of credits as whole credits."""
    floor = exact.numerator // exact.denominator
    if rounding is Rounding.DOWN or exact == floor:
        return floor
    if rounding is Rounding.UP:
        return floor + 1
    return (2 * exact.numerator + exact.denominator) // (2 * exact.denominator)


def usd(exact: Fraction) -> Decimal:
    """An exact amount of USD with ten decimals, rounded half to even."""
    return (Decimal(exact.numerator) / Decimal(exact.denominator)).quantize(USD_STEP, rounding=ROUND_HALF_EVEN)


def percent(part: Decimal, whole: Decimal) -> Decimal | None:
    """A part as a share of the whole, in percent with one decimal, rounded half to even; None when the whole is 0."""
    return (part * 100 / whole).quantize(Decimal(1).scaleb(-1), rounding=ROUND_HALF_EVEN) if whole else None
