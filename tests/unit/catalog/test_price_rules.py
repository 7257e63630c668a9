"""What a price may be: good and bad ones as a ledger, and a promise that holds for whatever is typed."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from billing.catalog import price_rules
from billing.catalog.price_rules import PER_1M, PER_CREDIT, PER_IMAGE, ImplausiblePrice, InvalidPrice
from billing.errors import BillingError
from tests.rounds import rounds

MANY = settings(deadline=None, max_examples=rounds(400))
FIELDS = {PER_1M: "input_cost_per_1m", PER_IMAGE: "cost_per_image_usd", PER_CREDIT: "price_per_credit_usd"}
units = st.sampled_from(list(FIELDS))

# What somebody could type: anything at all, and what resembles a number.
typed = (
    st.text(st.characters())
    | st.from_regex(r"\s?[+-]?[0-9_]{0,40}(\.[0-9]{0,40})?([eE][+-]?[0-9]{1,25})?\s?", fullmatch=True)
    | st.decimals().map(str)
    | st.floats().map(str)
    | st.sampled_from(["NaN", "-nan", "sNaN", "nan123", "Infinity", "-inf", "1,5", "1.5 USD", "0x10", "½", "٣"])
)


def price(given, unit=PER_1M, *, current=None, force=False):
    return price_rules.price(FIELDS[unit], given, unit, current=current and Decimal(current), force=force)


def answer(given, unit, *, current, force):
    """The price, or the refusal."""
    try:
        return price(given, unit, current=current, force=force)
    except BillingError as error:
        return error


def refusal(given, unit=PER_1M, *, current=None, force=False):
    error = answer(given, unit, current=current, force=force)
    assert isinstance(error, BillingError), f"{given!r} was read as {error}"
    assert_clear(error, unit)
    return error


def assert_clear(error, unit):
    """One line that ends with a full stop, names the field and its unit, and is short enough to be read."""
    assert str(error) == error.message
    assert error.message.isprintable()
    assert error.message.endswith(".")
    assert error.message.startswith(FIELDS[unit] + " ")
    assert unit.name in error.message
    assert len(error.message) < 300


@pytest.mark.parametrize(
    ("given", "unit", "amount", "rule"),
    [
        ("1.25",      PER_1M,     "1.25",     "as it is typed"),
        (" 1.25 ",    PER_1M,     "1.25",     "with space around it"),
        ("+2",        PER_1M,     "2",        "with a sign"),
        ("2.5e0",     PER_1M,     "2.5",      "with an exponent"),
        ("1.2500000", PER_1M,     "1.25",     "zeros at the end are no decimals"),
        ("0.123456",  PER_1M,     "0.123456", "six decimals"),
        ("123.654321", PER_1M,    "123.654321", "nine digits"),
        ("0.004",     PER_1M,     "0.004",    "the least that is plausible for tokens"),
        ("1000",      PER_1M,     "1000",     "the most that is plausible for tokens"),
        ("0.0005",    PER_IMAGE,  "0.0005",   "the least that is plausible for an image"),
        ("10",        PER_IMAGE,  "10",       "the most that is plausible for an image"),
        ("0.0005",    PER_CREDIT, "0.0005",   "the least that is plausible for a credit"),
        ("10",        PER_CREDIT, "10",       "the most that is plausible for a credit"),
        (5,           PER_1M,     "5",        "a number"),
        (Decimal("0.15"), PER_1M, "0.15",     "an exact number"),
    ],
)  # fmt: skip
def test_a_good_price_is_read_exactly(given, unit, amount, rule):
    assert price(given, unit) == Decimal(amount), rule
    assert price(given, unit, force=True) == Decimal(amount), rule


@pytest.mark.parametrize(
    ("given", "said", "rule"),
    [
        ("-1",            "must be more than 0 USD",         "negative"),
        ("-0.0001",       "must be more than 0 USD",         "a little negative"),
        ("-Infinity",     "it is -Infinity.",                "less than anything"),
        ("0",             "must be more than 0 USD",         "zero"),
        ("-0",            "must be more than 0 USD",         "negative zero"),
        ("0.000000",      "must be more than 0 USD",         "zero in many digits"),
        ("0e999999",      "must be more than 0 USD",         "zero with an exponent"),
        ("NaN",           "it is NaN.",                      "not a number"),
        ("sNaN",          "it is sNaN.",                     "not a number, and signalling"),
        ("Infinity",      "it is Infinity.",                 "more than anything"),
        ("inf",           "it is Infinity.",                 "more than anything, in short"),
        ("",              "must be a number of USD",         "nothing"),
        ("free",          "must be a number of USD",         "a word"),
        ("1,25",          "must be a number of USD",         "a comma"),
        ("$2",            "must be a number of USD",         "a currency"),
        ("2.5 USD",       "must be a number of USD",         "a unit"),
        ("1\n2",          "must be a number of USD",         "two lines"),
        ("\udcff",        "must be a number of USD",         "no text at all"),
        (None,            "must be a number of USD",         "None"),
        (True,            "must be a number of USD",         "a truth"),
        ("1e21",          "no price is so large or small.",  "an absurd exponent"),
        ("1e-21",         "no price is so large or small.",  "an absurdly small exponent"),
        ("1e999999",      "no price is so large or small.",  "an exponent that would fill the memory"),
        ("1e-999999",     "no price is so large or small.",  "an exponent that would fill it behind the point"),
        ("9" * 5000,      "no price is so large or small.",  "five thousand digits"),
        ("1e" + "9" * 30, "must be a number of USD",         "an exponent that no number has"),
        ("NaN" + "1" * 5000, "must be a number of USD",      "not a number, at length"),
        ("1.2345678",     "1.2345678 USD per 1,000,000 tokens: a price has at most 10 digits", "seven decimals"),
        ("1." + "0" * 40 + "1", "a price has at most 10 digits", "more decimals than are looked at by default"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("force", [False, True])
def test_what_can_be_no_price_is_refused_even_with_force(given, said, rule, force):
    error = refusal(given, force=force)

    assert (type(error), error.code) == (InvalidPrice, "invalid_price"), rule
    assert said in error.message, rule
    assert "--force" not in error.message, rule


@pytest.mark.parametrize(
    ("given", "unit", "said", "rule"),
    [
        ("12345678901", PER_1M,     "expected 0.004 to 1,000.",     "eleven digits"),
        ("10000",       PER_1M,     "expected 0.004 to 1,000.",     "five digits before the point"),
        ("0.00009",     PER_IMAGE,  "expected 0.0005 to 10.",       "under the least"),
        ("0.0000025",   PER_1M,     "it is 2.5 USD per 1,000,000 tokens.", "per token, in too many decimals"),
        ("0.00003",     PER_CREDIT, "expected 0.0005 to 10.",       "under the least, for a credit"),
    ],
)  # fmt: skip
def test_a_price_that_is_implausible_and_impossible_is_explained_and_never_forced(given, unit, said, rule):
    error = refusal(given, unit)

    assert error.code == "implausible_price", rule
    assert said in error.message, rule
    assert "--force" not in error.message, "it would not help"
    assert refusal(given, unit, force=True).code == "invalid_price", rule


@pytest.mark.parametrize(
    ("given", "meant", "amount", "rule"),
    [
        ("0.0000025", "per token",        "2.5",   "per token, and in the decimals that a price has"),
        ("0.00000015", "per token",       "0.15",  "the rate of a cheap model"),
        ("0.00001",   "per token",        "10",    "the rate of a dear model, whose thousandth is a rate too"),
        ("1e-5",      "per token",        "10",    "in other digits"),
        ("0.0025",    "per 1,000 tokens", "2.5",   "per 1,000"),
        ("0.00015",   "per 1,000 tokens", "0.15",  "the rate of a cheap model, per 1,000"),
        ("0.003999",  "per 1,000 tokens", "3.999", "just too small"),
    ],
)  # fmt: skip
def test_a_rate_in_the_wrong_unit_is_shown_in_the_right_one(given, meant, amount, rule):
    told = refusal(given).message

    assert f"{meant}? " in told, rule
    assert f" {amount} USD per 1,000,000 tokens" in told, rule


@pytest.mark.parametrize(
    ("given", "unit"), [("1000.01", PER_1M), ("10.01", PER_IMAGE), ("0.0004", PER_IMAGE), ("0.0004", PER_CREDIT)]
)
def test_where_no_other_unit_fits_none_is_suggested(given, unit):
    assert "meant" not in refusal(given, unit).message


@pytest.mark.parametrize(
    ("given", "unit", "current", "rule"),
    [
        ("0.0039",  PER_1M,     None,   "under what is plausible"),
        ("0.0025",  PER_1M,     None,   "per 1,000 tokens, and a price all the same"),
        ("1000.01", PER_1M,     None,   "over what is plausible"),
        ("9999.99", PER_1M,     None,   "the dearest"),
        ("0.0001",  PER_IMAGE,  None,   "the least of all"),
        ("10.01",   PER_IMAGE,  None,   "a dear image"),
        ("0.0004",  PER_CREDIT, None,   "a cheap credit"),
        ("12.5",    PER_1M,     "1.25", "ten times as much"),
        ("0.125",   PER_1M,     "1.25", "a tenth"),
        ("100",     PER_1M,     "1.25", "eighty times as much"),
        ("0.4",     PER_IMAGE,  "0.04", "ten times as much, for an image"),
    ],
)  # fmt: skip
def test_what_hardly_is_a_price_has_to_be_forced(given, unit, current, rule):
    error = refusal(given, unit, current=current)

    assert (type(error), error.code) == (ImplausiblePrice, "implausible_price"), rule
    assert error.message.endswith(" If it is right all the same, use --force."), rule
    assert price(given, unit, current=current, force=True) == Decimal(given), rule


@pytest.mark.parametrize(
    ("given", "current", "rule"),
    [
        ("12.499999", "1.25", "almost ten times"),
        ("0.125001",  "1.25", "almost a tenth"),
        ("1.25",      "1.25", "the same"),
        ("1.25",      None,   "the first"),
    ],
)  # fmt: skip
def test_an_ordinary_change_is_no_slip(given, current, rule):
    assert price(given, current=current) == Decimal(given), rule


def test_a_large_change_names_both_prices():
    assert refusal("12.5", current="1.2500000000").message == (
        "input_cost_per_1m is 12.5 USD per 1,000,000 tokens and was 1.25: a change of 10 times or more. "
        "If it is right all the same, use --force."
    )


@MANY
@given(given=typed, unit=units, current=st.none() | st.decimals("0.0001", "9999", places=6), force=st.booleans())
@example(given="1." + "0" * 40 + "1", unit=PER_1M, current=None, force=False)
@example(given="0.004" + "0" * 40 + "1", unit=PER_1M, current=None, force=True)
@example(given="9999.9999999", unit=PER_1M, current=None, force=True)
def test_whatever_is_typed_is_an_exact_price_within_the_rules_or_one_clear_refusal(given, unit, current, force):
    amount = answer(given, unit, current=current, force=force)
    if isinstance(amount, BillingError):
        assert_clear(amount, unit)
        assert type(amount) in ((InvalidPrice,) if force else (InvalidPrice, ImplausiblePrice))
        return

    exact = Fraction(amount)
    assert amount == Decimal(re.sub(r"\s", "", given))
    assert Fraction("0.0001") <= exact < 10_000
    assert (exact * 10**6).denominator == 1
    if not force:
        assert unit.low <= amount <= unit.high
        assert current is None or Fraction(current) / 10 < exact < Fraction(current) * 10


@MANY
@given(micros=st.integers(100, 10**10 - 1), unit=units)
def test_every_price_that_there_can_be_is_accepted_as_it_is_when_forced(micros, unit):
    assert Fraction(price(f"{Decimal(micros).scaleb(-6):f}", unit, force=True)) == Fraction(micros, 10**6)
