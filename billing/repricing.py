"""What past usage would have been charged and cost at other prices: today's, or proposed ones. Nothing is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy.orm import Session

from billing import catalog, catalog_changes
from billing.catalog_fields import (
    DefaultsFields,
    Fields,
    ImagePriceFields,
    ModelFields,
    OperationFields,
    QualityOrAny,
    SizeOrAny,
    one_of,
    read,
)
from billing.domain import pricing
from billing.domain.errors import InvalidRequest
from billing.domain.pricing import ImagePrice, Price, Usage, Work
from billing.store import catalog as store
from billing.store import usage as usage_store
from billing.store.catalog_tables import ANY, AIModelConfig, BillingConfiguration, CreditCostConfig, ImagePriceRow
from billing.store.tables import CreditUsageLog, GenerationJob

SHAPES: tuple[type[Fields], ...] = (ModelFields, ImagePriceFields, OperationFields, DefaultsFields)


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

    Raises a BillingError for a proposal that could not be made. Run it in a read-only transaction.
    """
    prices = _Proposed(session, proposal, force=force)
    found: dict[tuple[str, str], Repriced] = {}
    settled = usage_store.settled(
        session, since=since, until=until, operation_type=proposal.operation, model_name=proposal.model
    )
    for log, job in settled:
        key = (log.operation_type, log.model_used)
        found.setdefault(key, Repriced(*key)).add(_repriced(log, job, prices.price_for(job)))
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
    usage = Usage(log.tokens_input, log.tokens_input_cached, log.tokens_output, log.tokens_reasoning, log.images)
    charge = pricing.charge(usage, price, held=pricing.estimate(Work(**job.work), price))
    before.credits_after = charge.credits
    before.revenue_after_usd = pricing.revenue(charge.credits, price)
    # What the attempts that failed cost stays; only the usage that was delivered is priced anew.
    was = pricing.cost(usage, Price.from_json(job.price or {}))
    before.cost_after_usd = log.cost_usd - was + pricing.cost(usage, price)
    return before


class _Proposed:
    """The catalogue with the proposal laid over it; its rows belong to no session, so that none can be written."""

    def __init__(self, session: Session, proposal: Proposal, *, force: bool) -> None:
        self.session = session
        self.proposal = proposal
        self.given = {shape: _of(shape, proposal.fields) for shape in SHAPES}
        self._refuse_strays()
        self.defaults: BillingConfiguration = store.defaults(session)
        self.models = {model.model_name: model for model in store.models(session)}
        self.operations = {operation.operation_type: operation for operation in store.operations(session)}
        self.image = self._image_row()
        session.expunge_all()
        self._lay(ModelFields, self.models.get(proposal.model or ""), force)
        self._lay(OperationFields, self.operations.get(proposal.operation or ""), force)
        self._lay(DefaultsFields, self.defaults, force)
        self._lay(ImagePriceFields, self.image, force)
        self.found: dict[tuple[str, str, str, str], Price | None] = {}

    def price_for(self, job: GenerationJob) -> Price | None:
        """The price of a job's usage; None when the catalogue has none for it any more."""
        size, quality = job.params.get("size", ""), job.params.get("quality", "")
        key = (job.operation_type, job.model_name, size, quality)
        if key not in self.found:
            operation, model = self.operations[job.operation_type], self.models[job.model_name]
            self.found[key] = self._price(operation, model, size, quality)
        return self.found[key]

    def _price(self, operation: CreditCostConfig, model: AIModelConfig, size: str, quality: str) -> Price | None:
        image = None
        if model.bills_images:
            row = store.image_price(self.session, model.model_name, size, quality)
            if self._overrules(row, model.model_name, size, quality):
                row = self.image
            if row is None:
                return None
            image = ImagePrice(size, quality, cost_usd=row.cost_per_image_usd, credits=row.credits_per_image)
        return catalog.price_from(operation, model, self.defaults, image)

    def _overrules(self, row: ImagePriceRow | None, model: str, size: str, quality: str) -> bool:
        mine = self.image
        if (
            mine is None
            or mine.model_name != model
            or mine.size not in (size, ANY)
            or mine.quality not in (quality, ANY)
        ):
            return False
        return row is None or store.specificity(mine, size, quality) >= store.specificity(row, size, quality)

    def _image_row(self) -> ImagePriceRow | None:
        if not self.given[ImagePriceFields]:
            return None
        proposal = self.proposal
        model = catalog_changes.model_named(self.session, proposal.model or "")
        one_of(SizeOrAny, "size", proposal.size)
        one_of(QualityOrAny, "quality", proposal.quality)
        row = store.exact_image_price(self.session, model.model_name, proposal.size, proposal.quality)
        if row is None and len(self.given[ImagePriceFields]) < len(ImagePriceFields.model_fields):
            raise InvalidRequest(
                "A new image price needs cost_per_image_usd and credits_per_image.", code="invalid_price"
            )
        return row or ImagePriceRow(model_name=model.model_name, size=proposal.size, quality=proposal.quality)

    def _lay(self, shape: type[Fields], row: Any, force: bool) -> None:
        if self.given[shape]:
            for name, value in read(shape, self.given[shape], row, force=force).items():
                setattr(row, name, value)

    def _refuse_strays(self) -> None:
        known = [name for shape in SHAPES for name in shape.model_fields]
        strays = [name for name in self.proposal.fields if name not in known]
        if strays:
            raise InvalidRequest(
                f"There is no field {strays[0][:40]!r}. Known: {', '.join(known)}.", code="unknown_field"
            )
        if self.given[ModelFields] or self.given[ImagePriceFields] or self.proposal.model is not None:
            catalog_changes.model_named(self.session, self._named("model"))
        if self.given[OperationFields] or self.proposal.operation is not None:
            catalog_changes.operation_named(self.session, self._named("operation"))

    def _named(self, what: str) -> str:
        name: str | None = getattr(self.proposal, what)
        if name is None:
            raise InvalidRequest(f"Say which {what} these fields belong to: --{what}.", code=f"no_{what}")
        return name


def _of(shape: type[Fields], fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name in shape.model_fields}
