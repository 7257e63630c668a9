"""What a job is charged, computed from the price that is stored with it and the usage of each call that delivered.

Settling charges by it, the audit and the receipt compute it again: there is no other way from usage to credits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from billing.catalog import pricing
from billing.catalog.pricing import Charge, Price
from billing.catalog.usage import Usage


@dataclass(frozen=True)
class Computed:
    """What all calls that delivered used together and cost in USD, at which price, and the charge that follows."""

    usage: Usage
    cost_usd: Decimal
    price: Price
    charge: Charge


def compute(price: Mapping[str, Any], usages: Sequence[Mapping[str, Any]], *, held: int) -> Computed:
    """The charge of a job that holds `held` credits, from its stored price and the stored usages of its calls."""
    at, calls = Price.from_json(dict(price)), [Usage.from_json(dict(each)) for each in usages]
    usage = Usage.total(calls)
    cost_usd = sum((pricing.cost(each, at) for each in calls), Decimal(0))
    return Computed(usage, cost_usd, at, pricing.charge(usage, at, held=held, cost_usd=cost_usd))
