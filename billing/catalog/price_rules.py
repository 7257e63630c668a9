"""What a price may be: its unit, its bounds, and what is so unlikely that an operator must confirm it.

A rate typed per token, or per 1,000, instead of per 1,000,000 is the mistake that these rules are made for: it would
bill a millionth, or a thousandth, of what a provider is owed, and nothing else would notice.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from billing.errors import BillingError

LEAST = Decimal("0.0001")
DIGITS, DECIMALS = 10, 6
ABSURD = 20
"""A number beyond 10 to this power, or below its inverse, is no price: it is not even shown."""
CHANGE_MAX = 10
"""A price that becomes this many times larger or smaller is more likely a slip than a decision."""


class InvalidPrice(BillingError):
    """The value cannot be a price."""

    code = "invalid_price"


class ImplausiblePrice(BillingError):
    """The price is possible, and so unlikely that it has to be confirmed."""

    code = "implausible_price"


@dataclass(frozen=True)
class Unit:
    """What a price is for, the USD amounts between which it is plausible, and the units that it is mistaken for.

    `usual` is near most prices of this unit: of two units that could have been meant, it tells which is likelier.
    """

    name: str
    low: Decimal
    high: Decimal
    usual: Decimal
    mistaken: tuple[tuple[str, int], ...] = ()


# The bounds lie well beyond the cheapest and dearest prices of genai-prices in November 2026: $0.005 for cached input,
# $600 for output; $0.0006 and $0.12 for an image.
PER_1M = Unit(
    "USD per 1,000,000 tokens",
    Decimal("0.004"),
    Decimal(1_000),
    Decimal(2),
    (("per 1,000 tokens", 1_000), ("per token", 1_000_000)),
)
PER_IMAGE = Unit("USD per image", Decimal("0.0005"), Decimal(10), Decimal("0.04"))
PER_CREDIT = Unit("USD per credit", Decimal("0.0005"), Decimal(10), Decimal("0.01"))


def price(field: str, given: object, unit: Unit, *, current: Decimal | None = None, force: bool = False) -> Decimal:
    """Read a price; raises InvalidPrice for an impossible one, or ImplausiblePrice, unless forced, for an unlikely one.

    `current` is the price that it replaces.
    """
    amount = _decimal(field, given, unit)
    told = f"{field} is {_shown(amount)} {unit.name}"
    impossible = _impossible(told, amount)
    doubt = None if force else _doubt(told, amount, unit, current)
    if doubt is not None:
        raise ImplausiblePrice(doubt if impossible else f"{doubt} If it is right all the same, use --force.")
    if impossible is not None:
        raise InvalidPrice(impossible)
    return amount


def _decimal(field: str, given: object, unit: Unit) -> Decimal:
    typed = str(given).strip()
    try:
        # Decimal itself would read 1_0 as 10, and the digits of every script.
        amount = Decimal(typed if typed.isascii() and "_" not in typed else "")
    except InvalidOperation:
        raise InvalidPrice(f"{field} must be a number of {unit.name}, such as 1.25.") from None
    if not amount.is_finite():
        # A NaN is shown without its payload, which may have a thousand digits.
        shown = ("sNaN" if amount.is_snan() else "NaN") if amount.is_nan() else str(amount)
        raise InvalidPrice(f"{field} must be a number of {unit.name}, such as 1.25; it is {shown}.")
    if amount <= 0:
        raise InvalidPrice(f"{field} must be more than 0 {unit.name}.")
    if abs(amount.adjusted()) > ABSURD:
        raise InvalidPrice(f"{field} must be a number of {unit.name}, such as 1.25; no price is so large or small.")
    return amount


def _impossible(told: str, amount: Decimal) -> str | None:
    # As a Fraction, because arithmetic of Decimals, normalize() included, rounds to 28 digits.
    if (Fraction(amount) * 10**DECIMALS).denominator > 1 or amount >= 10 ** (DIGITS - DECIMALS):
        return f"{told}: a price has at most {DIGITS} digits, {DECIMALS} of them decimals."
    if amount < LEAST:
        return f"{told}; the least is {LEAST}."
    return None


def _doubt(told: str, amount: Decimal, unit: Unit, current: Decimal | None) -> str | None:
    if not unit.low <= amount <= unit.high:
        return f"{told}, which is implausible: expected {unit.low} to {unit.high:,}.{_mistake(amount, unit)}"
    if current is not None and not current / CHANGE_MAX < amount < current * CHANGE_MAX:
        return f"{told} and was {_shown(current)}: a change of {CHANGE_MAX} times or more."
    return None


def _mistake(amount: Decimal, unit: Unit) -> str:
    meant = [(name, amount * factor) for name, factor in unit.mistaken if unit.low <= amount * factor <= unit.high]
    if not meant:
        return ""
    name, likely = min(meant, key=lambda each: max(each[1] / unit.usual, unit.usual / each[1]))
    return f" Was it meant {name}? Then it is {_shown(likely)} {unit.name}."


def _shown(amount: Decimal) -> str:
    return format(amount.normalize(), "f")
