"""Published prices: the rates that the genai-prices package has for our models, compared with the catalogue's.

It proposes changes, and makes only those that it is told to make. What is not published, and what our model does not
use, stays as it is.
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

PUBLISHED: Mapping[str, tuple[str, ...]] = {
    "input_cost_per_1m": ("input_mtok",),
    "cached_input_cost_per_1m": ("cache_read_mtok",),
    "output_cost_per_1m": ("output_mtok",),
    "reasoning_cost_per_1m": ("output_reasoning_mtok",),
    "cache_write_cost_per_1m": ("cache_write_5m_mtok", "cache_write_mtok"),
    "cache_write_1h_cost_per_1m": ("cache_write_1h_mtok",),
    "image_input_cost_per_1m": ("input_image_mtok",),
    "image_output_cost_per_1m": ("output_image_mtok",),
    "audio_input_cost_per_1m": ("input_audio_mtok",),
    "audio_output_cost_per_1m": ("output_audio_mtok",),
}
"""Our rates, each with the names of the same rate in genai-prices; both are USD per 1,000,000 tokens."""
LONG = {
    "input_cost_per_1m": "long_context_input_cost_per_1m",
    "cached_input_cost_per_1m": "long_context_cached_input_cost_per_1m",
    "output_cost_per_1m": "long_context_output_cost_per_1m",
}
"""The rates that have a higher one for a long request, each with that one; other rates rise as these do."""
THRESHOLD = "long_context_above"
Rates = dict[str, Decimal | int]
"""Values by our fields: rates, and the input tokens above which a request is a long one."""


@dataclass(frozen=True)
class RateChange:
    """A rate whose published value differs from the catalogue's, in USD per 1,000,000 tokens.

    Or the input tokens above which the rates of long requests apply.
    """

    model: str
    field: str
    current: Decimal | int | None
    published: Decimal | int
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


def _published(model: AIModelConfig, now: datetime) -> Rates | str:
    """What is published for this model; or why nothing can be said."""
    # Its tables are megabytes, so only a comparison of prices loads them.
    from genai_prices.data_snapshot import get_snapshot

    if model.bills_images:
        return "is billed by the image"
    try:
        _, known = get_snapshot().find_provider_model(model.model_name, None, model.provider, None)
    except LookupError:
        return "is not published"
    return rates_of(model, vars(known.get_prices(now)))


def rates_of(model: AIModelConfig, prices: Mapping[str, Any]) -> Rates | str:
    """The published prices, by the names of genai-prices, as values of this model's fields; or why they are none."""
    plain: Rates = {}
    steps: dict[str, list[tuple[int, Decimal]]] = {}
    for field, names in PUBLISHED.items():
        found = next((prices[name] for name in names if prices.get(name) is not None), None)
        if found is None:
            continue
        # A price in steps has a base, and tiers that begin above so many input tokens.
        plain[field] = getattr(found, "base", found)
        steps[field] = [(tier.start, tier.price) for tier in getattr(found, "tiers", ())]
    if max((len(tiers) for tiers in steps.values()), default=0) > 1:
        return "has prices in more than two steps"
    long = {LONG[field]: tiers[0] for field, tiers in steps.items() if tiers and field in LONG}
    if len({above for above, _ in long.values()}) > 1:
        return "has prices whose steps begin at different lengths"
    rates = _used_by(model, plain)
    if not rates:
        return "is published without rates by the token"
    for field, (above, rate) in long.items():
        rates |= {THRESHOLD: above, field: rate}
    return rates


def _used_by(model: AIModelConfig, plain: Rates) -> Rates:
    """Those of these rates that the model uses, each in the field from which its tokens are paid."""
    rates = dict(plain)
    image_output = rates.get("image_output_cost_per_1m")
    if model.model_type == "image" and image_output is not None and model.image_output_cost_per_1m is None:
        # Its output is images, and they are paid at the plain rate: a rate of text does not belong there.
        rates["output_cost_per_1m"] = rates.pop("image_output_cost_per_1m")
    unused = {"audio_input_cost_per_1m", "audio_output_cost_per_1m"}
    if model.model_type != "image":
        unused |= {"image_input_cost_per_1m", "image_output_cost_per_1m"}
    return {field: rate for field, rate in rates.items() if field not in unused or getattr(model, field) is not None}


def _objection(model: AIModelConfig, field: str, published: Rates) -> str | None:
    """Why this value would be refused unless forced, all of the model's published rates taken together."""
    if field not in UNITS:
        return None
    try:
        price(field, published[field], UNITS[field], current=getattr(model, field))
        if field == "cached_input_cost_per_1m":
            check_cached_is_cheaper(published, model)
    except BillingError as error:
        return error.message
    return None
