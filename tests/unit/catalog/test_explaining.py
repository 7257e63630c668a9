"""The sentence of a receipt: how a charge follows from a usage."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from billing.catalog.explaining import arithmetic
from billing.catalog.pricing import ImagePrice, Price, PricedBy, charge, cost
from billing.catalog.rates import TokenRates
from billing.catalog.usage import Usage
from billing.money import Rounding

TEXT = Price(
    model_name="gpt",
    kind="text",
    rounding=Rounding.UP,
    price_per_credit_usd=Decimal("0.01"),
    rates=TokenRates(input=Decimal("1.25"), cached_input=Decimal("1.25"), output=Decimal(10), reasoning=Decimal(10)),
    image=None,
    row="clustering",
    priced_by=PricedBy.TOKENS,
    tokens_per_credit=100,
    min_credits=1,
    output_weight=Decimal(1),
    markup_percent=None,
)
IMAGE = replace(TEXT, kind="image", rates=None, image=ImagePrice("1x1", "hd", cost_usd=Decimal("0.04"), credits=40))
COST = replace(TEXT, priced_by=PricedBy.COST, markup_percent=Decimal(150))
USED = Usage(input_tokens=183, output_tokens=1000)


@pytest.mark.parametrize(
    ("usage", "price", "held", "told"),
    [
        (USED, TEXT, 91, "1,183 tokens at 100 a credit, rounded up: 12 credits; 91 held, 79 released."),
        (USED, replace(TEXT, rounding=Rounding.DOWN), 12,
         "1,183 tokens at 100 a credit, rounded down: 11 credits; 12 held, 1 released."),
        (USED, replace(TEXT, output_weight=Decimal("2.50")), 91,
         "183 input tokens and 1,000 output tokens, of which each counts as 2.5, at 100 a credit, "
         "rounded up: 27 credits; 91 held, 64 released."),
        (USED, replace(TEXT, min_credits=20), 91,
         "1,183 tokens at 100 a credit, rounded up: 20 credits, the least for one request; 91 held, 71 released."),
        (USED, TEXT, 10,
         "1,183 tokens at 100 a credit, rounded up: 12 credits, of which 10 are charged, as no more was held; "
         "10 held, 0 released."),
        (Usage(images=3), IMAGE, 160, "3 images at 40 credits each: 120 credits; 160 held, 40 released."),
        (Usage(images=1), IMAGE, 160, "1 image at 40 credits each: 40 credits; 160 held, 120 released."),
        (USED, COST, 91, "Cost of $0.01022875 with a markup of 150 %, at $0.01 a credit, rounded up: 3 credits; "
                         "91 held, 88 released."),
    ],
)  # fmt: skip
def test_the_sentence_says_how_the_charge_follows(usage, price, held, told):
    cost_usd = cost(usage, price)
    found = charge(usage, price, held=held, cost_usd=cost_usd)

    assert arithmetic(usage, price, found, cost_usd=cost_usd, held=held, of_costs=True) == told


def test_a_customer_is_not_told_what_it_cost_us():
    found = charge(USED, COST, held=91)

    told = arithmetic(USED, COST, found, cost_usd=cost(USED, COST), held=91, of_costs=False)

    assert told == "Priced by what the provider did, rounded up: 3 credits; 91 held, 88 released."
