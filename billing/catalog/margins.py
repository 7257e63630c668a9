"""What each price earns: the margin of every operation on every model that it can use, at its worst.

A price that loses money, or earns less than the platform's floor, is a finding; so is a size that has no price. A price
that marks its cost up by less than the platform wants is a warning.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from billing.catalog import pricing
from billing.catalog.pricing import ANY, Price
from billing.catalog.rates import RATES_OF
from billing.catalog.snapshot import Catalog, Model, Operation
from billing.catalog.usage import OUTPUT_BUCKETS, USAGE_MAX, Usage, used_by
from billing.money import percent

WHOLE = 1_000_000
"""A number of tokens so large that neither the minimum nor rounding shows in the margin."""
UNBOUNDED = 2**62


@dataclass(frozen=True)
class Margin:
    """What one operation on one model earns, in USD, at the usage `worst`.

    `problem` is None when all is well, and `warning` when it also marks its cost up by as much as is wanted.
    """

    operation: str
    model: str
    worst: str
    credits: int
    revenue_usd: Decimal
    cost_usd: Decimal
    margin_usd: Decimal
    margin_percent: Decimal | None
    markup_percent: Decimal | None
    problem: str | None
    warning: str | None = None


def check(catalog: Catalog, *, floor_percent: int | None = None) -> list[Margin]:
    """The margin of each active operation on each active model of its type, at the usage where it is smallest.

    `floor_percent` is the least share of the revenue that has to remain; the platform's own floor unless given.
    """
    defaults = catalog.defaults
    bar = _Bar(defaults.min_margin_percent if floor_percent is None else floor_percent, defaults.wanted_markup_percent)
    found: list[Margin] = []
    for operation in catalog.operations.values():
        for model in catalog.active_models():
            if operation.is_active and model.model_type == operation.model_type:
                found += _margins(catalog, operation, model, bar)
    return found


@dataclass(frozen=True)
class _Bar:
    """What a price has to earn: the least margin, and the markup that is wanted, both in percent."""

    floor: int
    markup: int


def _margins(catalog: Catalog, operation: Operation, model: Model, bar: _Bar) -> list[Margin]:
    if not model.bills_images:
        return [_worst_of_tokens(operation, catalog.price_at(operation, model, None), bar)]
    images = [image for (name, _, _), image in sorted(catalog.image_prices.items()) if name == model.model_name]
    unpriced = [
        _unpriced(operation, model, size)
        for size in model.valid_sizes or (() if images else (ANY,))
        if not any(image.size in (size, ANY) for image in images)
    ]
    return [_of_image(operation, catalog.price_at(operation, model, image), bar) for image in images] + unpriced


def _of_image(operation: Operation, price: Price, bar: _Bar) -> Margin:
    assert price.image is not None
    # Many images, because the operation's minimum may hide the loss on a single one.
    worst = f"{price.image.size} {price.image.quality}"
    return _margin(operation, price, Usage(images=1_000), worst, bar, per=1_000)


def _worst_of_tokens(operation: Operation, price: Price, bar: _Bar) -> Margin:
    """The worse of two usages, both in the dearest bucket: as many tokens as the least charge buys, or very many."""
    dearest = max(used_by(price.kind, RATES_OF), key=lambda bucket: _cost_of_a_charged_token(bucket, price))
    images = 1 if price.kind == "image" else 0
    margins = [
        _margin(
            operation,
            price,
            Usage.from_json({dearest: tokens, "images": images}),
            f"{tokens:,} {dearest.replace('_', ' ')}",
            bar,
        )
        for tokens in (_most_for_the_least(price, dearest, images), WHOLE)
    ]
    return min(margins, key=lambda margin: UNBOUNDED * -1 if margin.margin_percent is None else margin.margin_percent)


def _cost_of_a_charged_token(bucket: str, price: Price) -> Fraction:
    """What a token of this bucket costs for each token that is charged for it."""
    assert price.rates is not None
    weight = Fraction(price.output_weight) if bucket in OUTPUT_BUCKETS else Fraction(1)
    return price.rates.of(bucket) / weight


def _most_for_the_least(price: Price, bucket: str, images: int) -> int:
    """The most tokens of this bucket that are charged no more than a single one."""

    def charged(tokens: int) -> int:
        usage = Usage.from_json({bucket: tokens, "images": images})
        return pricing.charge(usage, price, held=UNBOUNDED).credits

    low, high = 1, USAGE_MAX
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if charged(middle) == charged(1) else (low, middle - 1)
    return low


def _margin(operation: Operation, price: Price, usage: Usage, worst: str, bar: _Bar, *, per: int = 1) -> Margin:
    credits = pricing.charge(usage, price, held=UNBOUNDED).credits // per
    revenue, cost = pricing.revenue(credits, price), pricing.cost(usage, price) / per
    earned = revenue - cost
    markup = percent(earned, cost)
    problem = warning = None
    if cost > revenue:
        problem = f"loses {(cost - revenue).normalize():f} USD"
    elif earned * 100 < bar.floor * revenue or not revenue:
        problem = f"earns less than the floor of {bar.floor} %"
    elif earned * 100 < bar.markup * cost:
        warning = f"marks its cost up by {markup} %; {bar.markup} % is wanted"
    return Margin(
        operation=operation.operation_type,
        model=price.model_name,
        worst=worst,
        credits=credits,
        revenue_usd=revenue,
        cost_usd=cost,
        margin_usd=earned,
        margin_percent=percent(earned, revenue),
        markup_percent=markup,
        problem=problem,
        warning=warning,
    )


def _unpriced(operation: Operation, model: Model, size: str) -> Margin:
    nothing = Decimal(0)
    return Margin(
        operation.operation_type, model.model_name, size, 0, nothing, nothing, nothing, None, None, "has no price"
    )
