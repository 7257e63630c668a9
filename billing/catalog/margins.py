"""What each price earns: the margin of every operation on every model that it can use, at its worst.

A price that loses money, or earns less than the platform's floor, is a finding; so is a size that has no price.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from billing.catalog import pricing
from billing.catalog.pricing import ANY, ImagePrice, Price
from billing.catalog.rates import RATES_OF
from billing.catalog.snapshot import Catalog, Model, Operation
from billing.catalog.usage import USAGE_MAX, Usage, used_by

WHOLE = 1_000_000
"""A number of tokens so large that neither the minimum nor rounding shows in the margin."""
UNBOUNDED = 2**62


@dataclass(frozen=True)
class Margin:
    """What one operation on one model earns, in USD, at the usage `worst`; `problem` is None when all is well."""

    operation: str
    model: str
    worst: str
    credits: int
    revenue_usd: Decimal
    cost_usd: Decimal
    margin_usd: Decimal
    margin_percent: Decimal | None
    problem: str | None


def check(catalog: Catalog, *, floor_percent: int | None = None) -> list[Margin]:
    """The margin of each active operation on each active model of its type, at the usage where it is smallest.

    `floor_percent` is the least share of the revenue that has to remain; the platform's own floor unless given.
    """
    floor = catalog.defaults.min_margin_percent if floor_percent is None else floor_percent
    found: list[Margin] = []
    for operation in catalog.operations.values():
        for model in catalog.active_models():
            if operation.is_active and model.model_type == operation.model_type:
                found += _margins(catalog, operation, model, floor)
    return found


def _margins(catalog: Catalog, operation: Operation, model: Model, floor: int) -> list[Margin]:
    if not model.bills_images:
        return [_worst_of_tokens(operation, catalog.price_at(operation, model, None), model, floor)]
    images = [image for (name, _, _), image in sorted(catalog.image_prices.items()) if name == model.model_name]
    unpriced = [
        _unpriced(operation, model, size)
        for size in model.valid_sizes or (() if images else (ANY,))
        if not any(image.size in (size, ANY) for image in images)
    ]
    return [_of_image(catalog, operation, model, image, floor) for image in images] + unpriced


def _of_image(catalog: Catalog, operation: Operation, model: Model, image: ImagePrice, floor: int) -> Margin:
    # Many images, because the operation's minimum may hide the loss on a single one.
    usage = Usage(images=1_000)
    return _margin(
        operation, catalog.price_at(operation, model, image), usage, f"{image.size} {image.quality}", floor, per=1_000
    )


def _worst_of_tokens(operation: Operation, price: Price, model: Model, floor: int) -> Margin:
    """The worse of two usages, both in the dearest bucket: as many tokens as the least charge buys, or very many."""
    assert price.rates is not None
    rates = price.rates
    dearest = max(used_by(price.kind, RATES_OF), key=rates.of)
    images = 1 if price.kind == "image" else 0
    margins = [
        _margin(
            operation,
            price,
            Usage.from_json({dearest: tokens, "images": images}),
            f"{tokens:,} {dearest.replace('_', ' ')}",
            floor,
        )
        for tokens in (_most_for_the_least(price, images), WHOLE)
    ]
    return min(margins, key=lambda margin: UNBOUNDED * -1 if margin.margin_percent is None else margin.margin_percent)


def _most_for_the_least(price: Price, images: int) -> int:
    """The most tokens that are charged no more than a single one."""

    def charged(tokens: int) -> int:
        return pricing.charge(Usage(output_tokens=tokens, images=images), price, held=UNBOUNDED).credits

    low, high = 1, min((charged(1) + 2) * price.tokens_per_credit, USAGE_MAX)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if charged(middle) == charged(1) else (low, middle - 1)
    return low


def _margin(operation: Operation, price: Price, usage: Usage, worst: str, floor: int, *, per: int = 1) -> Margin:
    credits = pricing.charge(usage, price, held=UNBOUNDED).credits // per
    revenue, cost = pricing.revenue(credits, price), pricing.cost(usage, price) / per
    share = (revenue - cost) / revenue * 100 if revenue else None
    problem = None
    if cost > revenue:
        problem = f"loses {(cost - revenue).normalize():f} USD"
    elif share is None or share < floor:
        problem = f"earns less than the floor of {floor} %"
    return Margin(
        operation=operation.operation_type,
        model=price.model_name,
        worst=worst,
        credits=credits,
        revenue_usd=revenue,
        cost_usd=cost,
        margin_usd=revenue - cost,
        margin_percent=None if share is None else round(share, 1),
        problem=problem,
    )


def _unpriced(operation: Operation, model: Model, size: str) -> Margin:
    nothing = Decimal(0)
    return Margin(operation.operation_type, model.model_name, size, 0, nothing, nothing, nothing, None, "has no price")
