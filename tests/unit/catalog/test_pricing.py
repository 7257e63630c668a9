"""What is charged and what it costs: examples as a ledger, and promises that hold for any usage and any price."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError, asdict, replace
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from billing.catalog import pricing
from billing.catalog.pricing import Charge, ImagePrice, Price, PricedBy
from billing.catalog.rates import TokenRates
from billing.catalog.usage import COUNTS, Usage, Work
from billing.money import Rounding
from tests.rounds import rounds

MANY = settings(deadline=None, max_examples=rounds(120))
HALF_STEP = Fraction(1, 2 * 10**10)
BUCKETS = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens")

RATES = TokenRates(input=Decimal(2), cached_input=Decimal("0.5"), output=Decimal(8), reasoning=Decimal(10))
TEXT = Price(
    model_name="gpt-test",
    kind="text",
    tokens_per_credit=100,
    min_credits=0,
    rounding=Rounding.UP,
    price_per_credit_usd=Decimal("0.01"),
    rates=RATES,
)
IMAGE = replace(
    TEXT,
    kind="image",
    rates=None,
    min_credits=1,
    image=ImagePrice("1024x1024", "standard", cost_usd=Decimal("0.04"), credits=5),
)
BY_COST = replace(TEXT, priced_by=PricedBy.COST, markup_percent=Decimal(150))
TOKEN_IMAGE = replace(TEXT, kind="image", min_credits=5, tokens_per_credit=50)

tokens = st.integers(min_value=0, max_value=2_000_000)
images = st.integers(min_value=0, max_value=20)
rates = st.decimals(min_value=0, max_value=1_000, places=6)
# Ten decimals are what a cost has: rates with four leave it exact, for a rate is per 1,000,000 tokens.
exact_rates = st.decimals(min_value=0, max_value=1_000, places=4)
usages = st.builds(Usage, tokens, tokens, tokens, tokens, images)


def prices(rate: st.SearchStrategy[Decimal] = rates) -> st.SearchStrategy[Price]:
    """Prices by the token, for text and for images, and by the image, with every rounding."""
    plain = {
        "model_name": st.just("gpt-test"),
        "tokens_per_credit": st.integers(min_value=1, max_value=10_000),
        "min_credits": st.integers(min_value=0, max_value=50),
        "rounding": st.sampled_from(Rounding),
        "price_per_credit_usd": st.decimals(min_value="0.0001", max_value=10, places=6),
        "priced_by": st.sampled_from(PricedBy),
        "output_weight": st.decimals(min_value="0.0001", max_value=1_000, places=4),
        "markup_percent": st.decimals(min_value=0, max_value=100_000, places=4),
        "row": st.sampled_from(["", "clustering on gpt-4o"]),
    }
    each = st.integers(min_value=1, max_value=500)
    image = st.builds(ImagePrice, st.just("1024x1024"), st.sampled_from(["standard", "hd"]), rate, each)
    tiers = st.dictionaries(st.sampled_from(["flex", "priority"]), st.decimals(min_value="0.1", max_value=3, places=2))
    tokens = st.builds(TokenRates, rate, rate, rate, rate, tiers=tiers.map(lambda each: tuple(sorted(each.items()))))
    by_token = st.builds(Price, **plain, kind=st.sampled_from(["text", "image", "embedding"]), rates=tokens)
    return by_token | st.builds(Price, **plain, kind=st.just("image"), image=image)


@st.composite
def work_and_usage(draw: st.DrawFn) -> tuple[Work, Usage]:
    """Work, and a usage within its limits."""
    work = draw(st.builds(Work, tokens, tokens, images))
    total_input = draw(st.integers(0, work.input_tokens))
    total_output = draw(st.integers(0, work.max_output_tokens))
    cached, reasoning = draw(st.integers(0, total_input)), draw(st.integers(0, total_output))
    delivered = draw(st.integers(0, work.images))
    return work, Usage(total_input - cached, cached, total_output - reasoning, reasoning, delivered)


# --- The charge ---


@pytest.mark.parametrize(
    ("rounding", "minimum", "input", "cached", "output", "reasoning", "charged", "rule"),
    [
        (Rounding.UP, 0, 100, 0, 400, 0, 5, "the specification's five credits"),
        (Rounding.UP, 0, 100, 0, 401, 0, 6, "a crumb more, rounded up"),
        (Rounding.DOWN, 0, 100, 0, 499, 0, 5, "almost one more, rounded down"),
        (Rounding.NEAREST, 0, 100, 0, 449, 0, 5, "less than half more"),
        (Rounding.NEAREST, 0, 100, 0, 450, 0, 6, "a half more goes up"),
        (Rounding.UP, 0, 60, 40, 300, 100, 5, "cached and reasoning tokens are tokens"),
        (Rounding.UP, 0, 0, 100, 0, 0, 1, "cached tokens alone"),
        (Rounding.UP, 0, 0, 0, 0, 100, 1, "reasoning tokens alone"),
        (Rounding.UP, 10, 100, 0, 400, 0, 10, "never under the minimum"),
        (Rounding.UP, 10, 100, 0, 2000, 0, 21, "the minimum is not added"),
        (Rounding.DOWN, 1, 1, 0, 0, 0, 1, "a token charges the minimum"),
        (Rounding.DOWN, 0, 99, 0, 0, 0, 0, "without a minimum, less than a credit is free"),
    ],
)
def test_text_is_charged_by_all_its_tokens(rounding, minimum, input, cached, output, reasoning, charged, rule):
    price = replace(TEXT, rounding=rounding, min_credits=minimum)

    assert Charge(charged, 0) == pricing.charge(Usage(input, cached, output, reasoning), price, held=1000), rule


@pytest.mark.parametrize(
    ("asked", "delivered", "each", "minimum", "held", "charged", "rule"),
    [
        (4, 4, 5, 1, 20, 20, "all that were asked for"),
        (4, 3, 5, 1, 20, 15, "three of four: three are paid"),
        (4, 1, 5, 1, 20, 5, "one of four"),
        (4, 0, 5, 1, 20, 0, "nothing delivered, nothing charged"),
        (4, 0, 5, 30, 30, 0, "not even the minimum"),
        (4, 1, 5, 12, 20, 12, "the minimum, as soon as anything was delivered"),
        (4, 3, 5, 12, 20, 15, "the minimum is not added"),
        (1, 1, 5, 8, 8, 8, "the minimum is reserved too"),
    ],
)
def test_images_are_charged_as_delivered(asked, delivered, each, minimum, held, charged, rule):
    price = replace(IMAGE, min_credits=minimum, image=replace(IMAGE.image, credits=each))

    assert held == pricing.estimate(Work(images=asked), price)
    assert Charge(charged, 0) == pricing.charge(Usage(images=delivered), price, held=held), rule


@pytest.mark.parametrize(
    ("images", "output", "charged", "rule"),
    [
        (1, 1056, 23, "an image of 1,056 tokens and its prompt, at 50 tokens a credit"),
        (2, 2112, 44, "two of them"),
        (1, 10, 5, "never under the minimum"),
        (0, 1056, 0, "nothing delivered, nothing charged, whatever it cost"),
    ],
)
def test_images_billed_by_the_token_are_charged_by_the_token(images, output, charged, rule):
    usage = Usage(input_tokens=60, output_tokens=output, images=images)

    assert Charge(charged, 0) == pricing.charge(usage, TOKEN_IMAGE, held=1000), rule
    assert pricing.cost(usage, TOKEN_IMAGE) == (60 * 2 + output * 8) / Decimal(1_000_000)


@pytest.mark.parametrize(
    ("tokens", "held", "charged", "overrun", "rule"),
    [
        (1000, 11, 10, 0, "less than was held"),
        (1000, 10, 10, 0, "all that was held"),
        (1000, 9, 9, 1, "one more than was held: the platform's loss"),
        (1000, 0, 0, 10, "nothing was held"),
    ],
)
def test_what_exceeds_the_reservation_is_the_platforms_loss(tokens, held, charged, overrun, rule):
    assert Charge(charged, overrun) == pricing.charge(Usage(output_tokens=tokens), TEXT, held=held), rule


@pytest.mark.parametrize(
    ("input", "output", "rounding", "minimum", "estimated", "rule"),
    [
        (100, 1000, Rounding.UP, 0, 11, "input and the most output"),
        (101, 1000, Rounding.UP, 0, 12, "rounded as the charge is"),
        (101, 1000, Rounding.DOWN, 0, 11, "down too"),
        (100, 1000, Rounding.UP, 50, 50, "never under the minimum"),
    ],
)
def test_text_is_reserved_for_its_input_and_its_longest_output(input, output, rounding, minimum, estimated, rule):
    price = replace(TEXT, rounding=rounding, min_credits=minimum)

    assert estimated == pricing.estimate(Work(input_tokens=input, max_output_tokens=output), price), rule


@pytest.mark.parametrize(
    ("model", "input", "output", "cost_usd", "charged", "by_tokens"),
    [
        ("gpt-5.1",     "1.25", "10",  "0.0225", 6, 110),
        ("gpt-4o-mini", "0.15", "0.6", "0.0021", 1, 110),
    ],
)  # fmt: skip
def test_by_cost_a_question_is_charged_what_its_model_costs(model, input, output, cost_usd, charged, by_tokens):
    rates = TokenRates(*(Decimal(rate) for rate in (input, input, output, output)))
    usage = Usage(input_tokens=10_000, output_tokens=1_000)
    price = replace(BY_COST, model_name=model, rates=rates)

    assert pricing.cost(usage, price) == Decimal(cost_usd)
    assert pricing.charge(usage, price, held=1000) == Charge(charged, 0)
    assert pricing.charge(usage, replace(price, priced_by=PricedBy.TOKENS), held=1000) == Charge(by_tokens, 0)


@pytest.mark.parametrize(
    ("cost_usd", "markup", "each_usd", "minimum", "rounding", "charged", "rule"),
    [
        ("0.04",  150,   "0.02", 0, Rounding.UP,      5, "the specification: $0.04 cost, $0.10 charged"),
        ("0.04",  0,     "0.02", 0, Rounding.UP,      2, "at cost"),
        ("0.04",  "0.1", "0.02", 0, Rounding.UP,      3, "a tenth of a percent more"),
        ("0.04",  24,    "0.02", 0, Rounding.NEAREST, 2, "2.48 credits"),
        ("0.04",  25,    "0.02", 0, Rounding.NEAREST, 3, "2.5 credits"),
        ("0.04",  49,    "0.02", 0, Rounding.DOWN,    2, "2.98 credits"),
        ("0.04",  150,   "0.02", 7, Rounding.UP,      7, "never under the minimum"),
    ],
)  # fmt: skip
def test_by_cost_the_customer_pays_the_cost_and_its_markup(
    cost_usd, markup, each_usd, minimum, rounding, charged, rule
):
    price = replace(
        IMAGE,
        priced_by=PricedBy.COST,
        markup_percent=Decimal(markup),
        price_per_credit_usd=Decimal(each_usd),
        min_credits=minimum,
        rounding=rounding,
        image=replace(IMAGE.image, cost_usd=Decimal(cost_usd), credits=99),
    )

    assert pricing.charge(Usage(images=1), price, held=1000) == Charge(charged, 0), rule
    assert pricing.estimate(Work(images=1), price) == charged
    assert pricing.charge(Usage(), price, held=1000) == Charge(0, 0), "nothing delivered, nothing charged"


def test_by_cost_calls_of_one_job_cost_what_each_of_them_cost():
    rates = replace(RATES, tiers=(("priority", Decimal(2)),))
    price = replace(BY_COST, rates=rates)
    calls = [Usage(output_tokens=1_000, service_tier="priority"), Usage(output_tokens=1_000)]
    each = [pricing.cost(call, price) for call in calls]

    assert each == [Decimal("0.016"), Decimal("0.008")]
    assert pricing.charge(Usage.total(calls), price, held=1000, cost_usd=sum(each)) == Charge(6, 0)


@pytest.mark.parametrize(
    ("weight", "input", "output", "charged"),
    [("1", 100, 100, 2), ("4", 100, 100, 5), ("0.5", 100, 100, 2), ("0.5", 100, 201, 3), ("4", 0, 26, 2)],
)
def test_by_tokens_an_output_token_may_weigh_more(weight, input, output, charged):
    price = replace(TEXT, output_weight=Decimal(weight))

    assert pricing.charge(Usage(input_tokens=input, reasoning_tokens=output), price, held=1000) == Charge(charged, 0)
    assert pricing.estimate(Work(input_tokens=input, max_output_tokens=output), price) == charged


def test_what_is_priced_by_cost_is_held_at_the_dearest_that_it_can_meet():
    rates = replace(RATES, cache_write=Decimal(4), cache_write_1h=Decimal(6), tiers=(("priority", Decimal(2)),))
    price = replace(BY_COST, rates=rates)
    worst = Usage(cache_write_1h_tokens=10_000, reasoning_tokens=1_000, service_tier="priority")

    assert pricing.cost(worst, price) == Decimal("0.14")
    assert pricing.estimate(Work(10_000, 1_000), price) == 35 == pricing.charge(worst, price, held=1000).credits
    assert pricing.estimate(Work(10_000, 1_000), replace(price, rates=replace(rates, tiers=()))) == 18


@MANY
@given(case=work_and_usage(), price=prices())
def test_a_usage_within_the_limits_never_exceeds_the_estimate(case, price):
    work, usage = case
    held = pricing.estimate(work, price)

    charge = pricing.charge(usage, price, held=held)

    assert charge.overrun == 0
    assert 0 <= charge.credits <= held


@MANY
@given(usage=usages, price=prices(), held=st.integers(min_value=0, max_value=10**6))
def test_a_charge_never_exceeds_what_is_held_and_loses_nothing(usage, price, held):
    due = _due(usage, price)

    charge = pricing.charge(usage, price, held=held)

    assert 0 <= charge.credits <= held
    assert charge.overrun >= 0
    assert charge.credits + charge.overrun == due
    assert charge.overrun == 0 or charge.credits == held


@MANY
@given(usage=usages, more=tokens, bucket=st.sampled_from([*BUCKETS, "images"]), price=prices())
def test_more_usage_never_charges_or_costs_less(usage, more, bucket, price):
    greater = replace(usage, **{bucket: getattr(usage, bucket) + more})
    held = 10**12

    assert pricing.charge(usage, price, held=held).credits <= pricing.charge(greater, price, held=held).credits
    assert pricing.cost(usage, price) <= pricing.cost(greater, price)


@MANY
@given(usage=usages, price=prices())
def test_nothing_used_charges_no_more_than_the_minimum(usage, price):
    nothing = pricing.charge(Usage(), price, held=10**12).credits

    assert nothing == (0 if price.kind == "image" else price.min_credits)


# --- The cost ---


@pytest.mark.parametrize(
    ("input", "cached", "output", "reasoning", "cost_usd", "rule"),
    [
        (1_000_000, 0, 0, 0, "2.0000000000", "the input rate"),
        (0, 1_000_000, 0, 0, "0.5000000000", "the cached rate"),
        (0, 0, 1_000_000, 0, "8.0000000000", "the output rate"),
        (0, 0, 0, 1_000_000, "10.0000000000", "the reasoning rate"),
        (60, 40, 300, 100, "0.0035400000", "each bucket at its own: 0.00012 + 0.00002 + 0.0024 + 0.001"),
        (1, 0, 0, 0, "0.0000020000", "one token"),
        (0, 0, 0, 0, "0.0000000000", "nothing"),
    ],
)
def test_each_bucket_costs_its_own_rate(input, cached, output, reasoning, cost_usd, rule):
    assert cost_usd == f"{pricing.cost(Usage(input, cached, output, reasoning), TEXT):f}", rule


@pytest.mark.parametrize(("delivered", "cost_usd"), [(0, "0.0000000000"), (1, "0.0400000000"), (3, "0.1200000000")])
def test_images_cost_what_was_delivered(delivered, cost_usd):
    assert cost_usd == f"{pricing.cost(Usage(images=delivered), IMAGE):f}"


def test_tokens_of_an_image_model_cost_nothing_beside_its_images():
    assert Decimal("0.04") == pricing.cost(Usage(input_tokens=1_000_000, images=1), IMAGE)


@MANY
@given(usage=usages, price=prices())
def test_a_cost_equals_the_naive_fraction(usage, price):
    cost = pricing.cost(usage, price)

    assert cost >= 0
    assert cost.as_tuple().exponent == -10
    assert abs(Fraction(cost) - _cost(usage, price)) <= HALF_STEP


@MANY
@given(one=usages, other=usages, price=prices(exact_rates))
def test_costs_add_up_exactly_where_ten_decimals_hold_them(one, other, price):
    assert pricing.cost(one, price) + pricing.cost(other, price) == pricing.cost(_sum(one, other), price)


@MANY
@given(one=usages, other=usages, price=prices())
def test_costs_add_up_within_a_rounding_each(one, other, price):
    apart = Fraction(pricing.cost(one, price)) + Fraction(pricing.cost(other, price))

    assert abs(apart - Fraction(pricing.cost(_sum(one, other), price))) <= 3 * HALF_STEP


@MANY
@given(case=work_and_usage(), price=prices())
def test_the_worst_cost_bounds_the_cost_where_special_tokens_are_not_dearer(case, price):
    work, usage = case
    if price.rates is not None:
        assume(price.rates.cached_input <= price.rates.input)
        assume(price.rates.reasoning <= price.rates.output)

    assert pricing.cost(usage, price) <= pricing.worst_cost(work, price)


def test_the_worst_cost_counts_reasoning_at_its_own_rate_where_that_is_dearer():
    assert pricing.cost(Usage(reasoning_tokens=1000), TEXT) <= pricing.worst_cost(Work(max_output_tokens=1000), TEXT)


# --- Revenue and margin ---


def test_five_credits_at_two_cents_against_four_cents_leave_a_margin_of_60_percent():
    price = replace(IMAGE, price_per_credit_usd=Decimal("0.02"))
    charge = pricing.charge(Usage(images=1), price, held=5)

    revenue, cost = pricing.revenue(charge.credits, price), pricing.cost(Usage(images=1), price)

    assert charge.credits == 5
    assert (str(revenue), str(cost)) == ("0.1000000000", "0.0400000000")
    assert (revenue - cost) / revenue == Decimal("0.6")


@MANY
@given(credits=st.integers(min_value=0, max_value=10**9), price=prices())
def test_revenue_is_credits_times_their_price(credits, price):
    assert abs(Fraction(pricing.revenue(credits, price)) - credits * Fraction(price.price_per_credit_usd)) <= HALF_STEP


# --- Snapshots and usages ---


@MANY
@given(price=prices())
def test_a_price_survives_its_journey_through_json(price):
    stored = json.dumps(price.to_json(), allow_nan=False)

    read = Price.from_json(json.loads(stored, parse_float=_no_floats))

    assert price == read
    assert type(read.rounding) is Rounding
    assert stored == json.dumps(read.to_json())


@pytest.mark.parametrize(("price", "kind"), [(TEXT, "text"), (IMAGE, "image")])
def test_a_price_that_was_stored_before_it_had_a_kind_is_still_read(price, kind):
    stored = {name: value for name, value in price.to_json().items() if name != "kind"}

    assert Price.from_json(stored) == price
    assert price.kind == kind


def test_a_price_is_stored_without_floats():
    assert IMAGE.to_json() == {
        "model_name": "gpt-test",
        "kind": "image",
        "tokens_per_credit": 100,
        "min_credits": 1,
        "rounding": "up",
        "price_per_credit_usd": "0.01",
        "rates": None,
        "image": {"size": "1024x1024", "quality": "standard", "cost_usd": "0.04", "credits": 5},
    }


def test_a_price_tells_its_rule_where_that_is_not_the_usual_one():
    price = replace(BY_COST, markup_percent=Decimal("150.5"), output_weight=Decimal(4), row="clustering on gpt-4o")

    assert {name: price.to_json()[name] for name in price.to_json().keys() - TEXT.to_json().keys()} == {
        "priced_by": "cost",
        "markup_percent": "150.5",
        "output_weight": "4",
        "row": "clustering on gpt-4o",
    }


def test_a_price_by_cost_has_a_markup():
    with pytest.raises(ValueError, match="has a markup"):
        replace(TEXT, priced_by=PricedBy.COST)


@pytest.mark.parametrize(("rates", "image"), [(None, None), (RATES, IMAGE.image)])
def test_a_price_bills_by_the_token_or_by_the_image(rates, image):
    with pytest.raises(ValueError, match="either token rates or an image price"):
        replace(TEXT, rates=rates, image=image)


@MANY
@given(usage=usages)
def test_a_usage_survives_its_journey_through_json(usage):
    assert usage == Usage.from_json(json.loads(json.dumps(usage.to_json())))


@MANY
@given(usage=usages)
def test_the_totals_of_a_usage_count_each_token_once(usage):
    assert usage.total_input_tokens + usage.total_output_tokens == usage.total_tokens
    assert usage.total_tokens == sum(getattr(usage, bucket) for bucket in BUCKETS)
    assert usage.total_input_tokens == usage.input_tokens + usage.cached_input_tokens


@pytest.mark.parametrize("bucket", COUNTS)
@pytest.mark.parametrize("value", [-1, -(2**70), True, False, 1.0, 0.5, math.nan, math.inf, "1", None, Decimal(1)])
def test_a_usage_refuses_what_is_not_a_whole_number(bucket, value):
    with pytest.raises(ValueError, match=f"{bucket} must be a whole number of 0 or more"):
        Usage(**{bucket: value})


def test_a_price_and_a_usage_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        TEXT.tokens_per_credit = 1
    with pytest.raises(FrozenInstanceError):
        Usage().images = 1


# --- References of another making ---


def _due(usage: Usage, price: Price) -> int:
    if price.kind == "image" and usage.images == 0:
        return 0
    if price.priced_by is PricedBy.COST:
        due = Fraction(pricing.cost(usage, price)) * (1 + Fraction(price.markup_percent) / 100)
        return max(price.min_credits, _rounded(due / Fraction(price.price_per_credit_usd), price))
    if price.image is not None:
        return max(price.min_credits, price.image.credits * usage.images)
    input, output = (sum(getattr(usage, bucket) for bucket in half) for half in (BUCKETS[:2], BUCKETS[2:]))
    return max(
        price.min_credits, _rounded((input + output * Fraction(price.output_weight)) / price.tokens_per_credit, price)
    )


def _rounded(credits: Fraction, price: Price) -> int:
    return {
        Rounding.UP: math.ceil(credits),
        Rounding.DOWN: math.floor(credits),
        Rounding.NEAREST: math.floor(credits + Fraction(1, 2)),
    }[price.rounding]


def _cost(usage: Usage, price: Price) -> Fraction:
    if price.image is not None:
        return Fraction(price.image.cost_usd) * usage.images
    return sum(
        Fraction(getattr(price.rates, bucket.removesuffix("_tokens"))) * getattr(usage, bucket) / 1_000_000
        for bucket in BUCKETS
    )


def _sum(one: Usage, other: Usage) -> Usage:
    left, right = asdict(one), asdict(other)
    return Usage(**{name: left[name] + right[name] for name in left})


def _no_floats(literal: str) -> float:
    raise AssertionError(f"{literal} was stored as a float")
