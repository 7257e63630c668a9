"""Published prices: the rates that the genai-prices package has for our models, compared with the catalogue's.

It proposes changes, and makes only those that it is told to make. The catalogue cannot hold prices that depend on the
length of a request; these are only pointed out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from importlib.metadata import version
from typing import Any

from sqlalchemy.orm import Session

from billing.catalog import catalog_queries, changing
from billing.catalog.fields import UNITS, check_cached_is_cheaper
from billing.catalog.price_rules import price
from billing.catalog.tables import AIModelConfig
from billing.errors import BillingError

PUBLISHED = {
    "input_cost_per_1m": "input_mtok",
    "cached_input_cost_per_1m": "cache_read_mtok",
    "output_cost_per_1m": "output_mtok",
}
"""Our rates, each with the name of the same rate in genai-prices; both are USD per 1,000,000 tokens."""


@dataclass(frozen=True)
class RateChange:
    """A rate whose published value differs from the catalogue's, in USD per 1,000,000 tokens."""

    model: str
    field: str
    current: Decimal | None
    published: Decimal
    # Why the change is refused unless forced; None when it is not refused.
    objection: str | None = None


@dataclass(frozen=True)
class Comparison:
    """What the published prices say: the changes they suggest, the models that agree, and those left out, with why."""

    source: str
    changes: Sequence[RateChange]
    agreeing: Sequence[str]
    left_out: dict[str, str]


def compare(session: Session, *, now: datetime) -> Comparison:
    """Compare every model that bills by tokens with what is published for it."""
    changes: list[RateChange] = []
    agreeing: list[str] = []
    left_out: dict[str, str] = {}
    for model in catalog_queries.models(session):
        published = _published(model, now)
        if isinstance(published, str):
            left_out[model.model_name] = published
            continue
        found = [
            RateChange(model.model_name, field, getattr(model, field), rate, _objection(model, field, published))
            for field, rate in published.items()
            if getattr(model, field) != rate
        ]
        changes += found
        if not found:
            agreeing.append(model.model_name)
    return Comparison(f"genai-prices {version('genai-prices')}", changes, agreeing, left_out)


def apply(session: Session, changes: Sequence[RateChange], *, force: bool = False) -> None:
    """Write these changes; raises ImplausiblePrice for one that would have to be forced, and then writes none."""
    with session.begin_nested():
        _apply(session, changes, force=force)


def _apply(session: Session, changes: Sequence[RateChange], *, force: bool) -> None:
    by_model: dict[str, dict[str, Any]] = {}
    for change in changes:
        by_model.setdefault(change.model, {})[change.field] = change.published
    for model, fields in by_model.items():
        changing.set_model(session, model, fields, force=force)


def _published(model: AIModelConfig, now: datetime) -> dict[str, Decimal] | str:
    # Its tables are megabytes, so only a comparison of prices loads them.
    from genai_prices.data_snapshot import get_snapshot
    from genai_prices.types import TieredPrices

    if model.bills_images:
        return "is billed by the image"
    try:
        _, known = get_snapshot().find_provider_model(model.model_name, None, model.provider, None)
    except LookupError:
        return "is not published"
    prices = known.get_prices(now)
    rates = {ours: getattr(prices, theirs, None) for ours, theirs in PUBLISHED.items()}
    if any(isinstance(rate, TieredPrices) for rate in rates.values()):
        return "has prices that depend on the length of the request"
    return {ours: rate for ours, rate in rates.items() if rate is not None} or "is published without rates by the token"


def _objection(model: AIModelConfig, field: str, published: Mapping[str, Decimal]) -> str | None:
    """Why this rate would be refused unless forced, all of the model's published rates taken together."""
    try:
        price(field, published[field], UNITS[field], current=getattr(model, field))
        if field == "cached_input_cost_per_1m":
            check_cached_is_cheaper(published, model)
    except BillingError as error:
        return error.message
    return None
