"""What past usage would have been charged and cost at other prices: today's, or proposed ones.

A proposal is made as a change would be, by the same rules, in a savepoint that is undone as soon as its prices are
read: nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy.orm import Session

from billing.catalog import changing, current, pricing
from billing.catalog.fields import DefaultsFields, Fields, ImagePriceFields, ModelFields, OperationFields, RuleFields
from billing.catalog.pricing import ANY, Price
from billing.catalog.usage import INPUT_BUCKETS, OUTPUT_BUCKETS, SPECIAL_BUCKETS, Usage, Work
from billing.errors import InvalidRequest
from billing.jobs.tables import CreditUsageLog, GenerationJob
from billing.reports import repricing_queries
from billing.reports.repricing_queries import PricedBy, Span


@dataclass(frozen=True)
class Proposal:
    """Prices to try out: changed fields of a model, its image price, an operation, the platform's defaults."""

    model: str | None = None
    operation: str | None = None
    size: str = ANY
    quality: str = ANY
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Repriced:
    """The usage of one operation on one model, before and after: credits, and USD."""

    operation: str
    model: str
    jobs: int = 0
    credits_before: int = 0
    credits_after: int = 0
    revenue_before_usd: Decimal = Decimal(0)
    revenue_after_usd: Decimal = Decimal(0)
    cost_before_usd: Decimal = Decimal(0)
    cost_after_usd: Decimal = Decimal(0)
    # Jobs whose usage has no price any more; they count as before.
    unpriced: int = 0

    @property
    def margin_before_usd(self) -> Decimal:
        """Revenue less cost, as it was."""
        return self.revenue_before_usd - self.cost_before_usd

    @property
    def margin_after_usd(self) -> Decimal:
        """Revenue less cost, as it would have been."""
        return self.revenue_after_usd - self.cost_after_usd

    def add(self, other: Repriced) -> None:
        """Count another's figures too."""
        for name, value in vars(other).items():
            if not isinstance(value, str):
                setattr(self, name, getattr(self, name) + value)

    def facts(self) -> dict[str, Any]:
        """All figures, the margins and the difference among them."""
        return {
            **vars(self),
            "margin_before_usd": self.margin_before_usd,
            "margin_after_usd": self.margin_after_usd,
            "credits_difference": self.credits_after - self.credits_before,
            "margin_difference_usd": self.margin_after_usd - self.margin_before_usd,
        }


def reprice(
    session: Session, *, since: datetime, until: datetime, proposal: Proposal, force: bool = False
) -> list[Repriced]:
    """Recompute the charge and cost of every job settled in this span, by operation and model.

    Raises a BillingError for a proposal that could not be made.
    """
    if proposal.model is not None:
        changing.model_named(session, proposal.model)
    if proposal.operation is not None:
        changing.operation_named(session, proposal.operation)
    span = Span(since, until, proposal.operation, proposal.model)
    prices = _proposed_prices(session, proposal, repricing_queries.priced_by(session, span), force=force)
    found: dict[tuple[str, str], Repriced] = {}
    for log, job in repricing_queries.settled(session, span):
        key = (log.operation_type, log.model_used)
        found.setdefault(key, Repriced(*key)).add(_repriced(log, job, prices[repricing_queries.priced_by_of(job)]))
    return [found[key] for key in sorted(found)]


def total(repriced: list[Repriced]) -> Repriced:
    """All of it together."""
    whole = Repriced("all", "all")
    for each in repriced:
        whole.add(each)
    return whole


def _repriced(log: CreditUsageLog, job: GenerationJob, price: Price | None) -> Repriced:
    before = Repriced(
        log.operation_type,
        log.model_used,
        jobs=1,
        credits_before=log.credits_used,
        revenue_before_usd=log.revenue_usd,
        cost_before_usd=log.cost_usd,
    )
    if price is None:
        before.unpriced = 1
        before.credits_after = before.credits_before
        before.revenue_after_usd, before.cost_after_usd = before.revenue_before_usd, before.cost_before_usd
        return before
    usage = _usage(log)
    charge = pricing.charge(usage, price, held=pricing.estimate(Work(**job.work), price))
    before.credits_after = charge.credits
    before.revenue_after_usd = pricing.revenue(charge.credits, price)
    # The cost of failed attempts stays; only the delivered usage is priced anew.
    was = pricing.cost(usage, Price.from_json(job.price or {}))
    before.cost_after_usd = log.cost_usd - was + pricing.cost(usage, price)
    return before


def _usage(log: CreditUsageLog) -> Usage:
    """The usage that was logged, its special buckets among it: the log counts them as plain input or output, too."""
    special = {name: int(log.details.get(name, 0)) for name in SPECIAL_BUCKETS}
    return Usage(
        input_tokens=log.tokens_input - sum(n for name, n in special.items() if name in INPUT_BUCKETS),
        cached_input_tokens=log.tokens_input_cached,
        output_tokens=log.tokens_output - sum(n for name, n in special.items() if name in OUTPUT_BUCKETS),
        reasoning_tokens=log.tokens_reasoning,
        images=log.images,
        **special,
        service_tier=log.details.get("service_tier", ""),
    )


def _proposed_prices(
    session: Session, proposal: Proposal, wanted: Iterable[PricedBy], *, force: bool
) -> dict[PricedBy, Price | None]:
    """The price of each (operation, model, size, quality) as if the proposal were made; None where there is none."""
    with session.begin_nested() as savepoint:
        _propose(session, proposal, force=force)
        catalog = current.read(session)
        prices = {each: catalog.price_of_past(*each) for each in wanted}
        savepoint.rollback()
    session.expire_all()
    return prices


def _propose(session: Session, proposal: Proposal, *, force: bool) -> None:
    """Make the proposal's changes, each field where it belongs."""
    for shape, fields in _sorted_out(proposal).items():
        if shape is RuleFields:
            operation, model = _named(proposal, "operation"), _named(proposal, "model")
            changing.set_override(session, operation, model, fields, force=force)
        elif shape is OperationFields:
            changing.set_operation(session, _named(proposal, "operation"), fields, force=force)
        elif shape is ModelFields:
            changing.set_model(session, _named(proposal, "model"), fields, force=force)
        elif shape is ImagePriceFields:
            model = _named(proposal, "model")
            changing.set_image_price(session, model, proposal.size, proposal.quality, fields, force=force)
        else:
            changing.set_defaults(session, fields, force=force)


def _sorted_out(proposal: Proposal) -> dict[type[Fields], dict[str, Any]]:
    """The proposed fields by their table; a field that operations and models share belongs to the one that is named."""
    shapes: list[type[Fields]] = [ModelFields, OperationFields, ImagePriceFields, DefaultsFields]
    if proposal.operation is not None:
        shapes[:2] = [OperationFields, ModelFields]
    if proposal.operation is not None and proposal.model is not None:
        # The usage that is shown is that of the operation on the model.
        shapes.insert(0, RuleFields)
    found: dict[type[Fields], dict[str, Any]] = {}
    for name, value in proposal.fields.items():
        shape = next((shape for shape in shapes if name in shape.model_fields), None)
        if shape is None:
            known = dict.fromkeys(field for shape in shapes for field in shape.model_fields)
            raise InvalidRequest(f"There is no field {name[:40]!r}. Known: {', '.join(known)}.", code="unknown_field")
        found.setdefault(shape, {})[name] = value
    return found


def _named(proposal: Proposal, what: str) -> str:
    name: str | None = getattr(proposal, what)
    if name is None:
        raise InvalidRequest(f"Say which {what} these fields belong to: --{what}.", code=f"no_{what}")
    return name
