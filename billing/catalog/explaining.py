"""Why a usage is so many credits, in a sentence that a customer can check. Pure."""

from __future__ import annotations

from decimal import Decimal

from billing.catalog.pricing import Charge, Price, PricedBy
from billing.catalog.usage import Usage

ROUNDED = {"up": "rounded up", "down": "rounded down", "nearest": "rounded to the nearest"}


def arithmetic(usage: Usage, price: Price, charge: Charge, *, cost_usd: Decimal, held: int, of_costs: bool) -> str:
    """How the charge follows from the usage, and what became of the `held` credits; with our costs or without."""
    due = charge.credits + charge.overrun
    told = f"{_used(usage, price, cost_usd, of_costs=of_costs)}: {_credits(due)}"
    if due == price.min_credits and due:
        told += ", the least for one request" if _is_minimum(usage, price, cost_usd) else ""
    if charge.overrun:
        told += f", of which {charge.credits:,} are charged, as no more was held"
    return f"{told}; {held:,} held, {held - charge.credits:,} released."


def _used(usage: Usage, price: Price, cost_usd: Decimal, *, of_costs: bool) -> str:
    rounded = ROUNDED[price.rounding]
    if price.priced_by is PricedBy.COST:
        if not of_costs:
            return f"Priced by what the provider did, {rounded}"
        assert price.markup_percent is not None
        return (
            f"Cost of ${_short(cost_usd)} with a markup of {_short(price.markup_percent)} %, at "
            f"${_short(price.price_per_credit_usd)} a credit, {rounded}"
        )
    if price.image is not None:
        images = f"{usage.images:,} {'image' if usage.images == 1 else 'images'}"
        return f"{images} at {_credits(price.image.credits)} each"
    tokens = f"at {price.tokens_per_credit:,} a credit, {rounded}"
    if price.output_weight == 1:
        return f"{usage.total_input_tokens + usage.total_output_tokens:,} tokens {tokens}"
    return (
        f"{usage.total_input_tokens:,} input tokens and {usage.total_output_tokens:,} output tokens, of which each "
        f"counts as {_short(price.output_weight)}, {tokens}"
    )


def _is_minimum(usage: Usage, price: Price, cost_usd: Decimal) -> bool:
    if price.priced_by is PricedBy.COST:
        assert price.markup_percent is not None
        return cost_usd * (100 + price.markup_percent) / 100 < price.min_credits * price.price_per_credit_usd
    if price.image is not None:
        return usage.images * price.image.credits < price.min_credits
    weighed = usage.total_input_tokens + usage.total_output_tokens * price.output_weight
    return weighed < price.min_credits * price.tokens_per_credit


def _credits(count: int) -> str:
    return f"{count:,} {'credit' if count == 1 else 'credits'}"


def _short(amount: Decimal) -> str:
    return f"{amount.normalize():f}"
