"""Quotes: what a request would reserve and probably be charged, what a usage costs and earns. Nothing is written."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from billing.catalog import choosing, pricing
from billing.catalog.fields import Name, OperationName
from billing.catalog.pricing import Price
from billing.catalog.snapshot import Catalog, Moment
from billing.catalog.usage import USAGE_MAX, Usage
from billing.errors import BillingError, InvalidRequest
from billing.jobs import submitting, usage_queries
from billing.jobs.decisions import Funds, Limit, decide
from billing.jobs.examining import Examined, examine
from billing.jobs.requests import Quality, Size, Submission, validated
from billing.ledger import accounts
from billing.ledger.tables import Account
from billing.money import Rounding, divide
from billing.plans import limits
from billing.plans.units import LimitUnit, estimate_units

HISTORY = 200
"""How many of the latest jobs of an operation on a model its typical charge is taken from."""
UNBOUNDED = 2**62

Count = Annotated[int, Field(ge=0, le=USAGE_MAX)]


@dataclass(frozen=True)
class Typical:
    """What a request is probably charged, in credits, and what that is based on."""

    credits: int
    basis: str


@dataclass(frozen=True)
class LimitNeed:
    """The plan limit that a request uses, in its units; `allowed` and `remaining` are None without such a limit."""

    limit_type: str
    unit: str
    needed: int
    allowed: int | None
    remaining: int | None


@dataclass(frozen=True)
class Quote:
    """What a request would do to an account, in credits. `refusal` is None when it would be accepted now."""

    model: str
    credits: int
    typical: Typical
    limit: LimitNeed | None
    balance: int
    reserved: int
    available: int
    refusal: BillingError | None
    warning: str | None

    def facts(self) -> dict[str, Any]:
        """The quote as plain data, the refusal's own figures included."""
        told = {
            "model": self.model,
            "credits": self.credits,
            "typical_credits": self.typical.credits,
            "typical_basis": self.typical.basis,
            "limit": self.limit and asdict(self.limit),
            "balance": self.balance,
            "reserved": self.reserved,
            "available": self.available,
            "accepted": self.refusal is None,
            "affordable": self.credits <= self.available,
        }
        if self.warning:
            told["warning"] = self.warning
        if self.refusal is not None:
            told |= {"error": self.refusal.code, "message": self.refusal.message, **self.refusal.facts()}
        return told


@dataclass(frozen=True)
class UsageQuote:
    """What a usage is charged in credits, and its cost, revenue and margin in USD."""

    credits: int
    cost_usd: Decimal
    revenue_usd: Decimal
    margin_usd: Decimal


class _Used(BaseModel):
    """What was used, as plain data."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)
    input_tokens: Count = 0
    cached_input_tokens: Count = 0
    output_tokens: Count = 0
    reasoning_tokens: Count = 0
    images: Count = 0

    def usage(self) -> Usage:
        """The same as a Usage."""
        return Usage(**self.model_dump(include=set(Usage.__dataclass_fields__)))


class _Priced(_Used):
    """A usage with what it is priced by: its operation, its model, for images their size and quality."""

    operation: OperationName
    model: Name | None = None
    size: Size | None = None
    quality: Quality | None = None


def quote(session: Session, submission: Submission, *, at: Moment) -> Quote:
    """What this request would reserve and probably be charged; raises a BillingError when it cannot be done at all.

    `at` holds what the account has set itself, as `billing.settings.own` reads it.
    """
    submitting.check_payers(session, [submission])
    settings = at.settings_of(submission.account_id, submission.user_id)
    examined = examine(at.catalog, submission, settings, today=at.today)
    account = accounts.get(session, submission.account_id)
    need, limit = _limit(session, examined, account, at=at)
    words = at.catalog.defaults.words_per_100_tokens
    funds = Funds(account.id, account.balance, account.available, account.frozen_reason is not None)
    outcome = decide(funds, examined.work, examined.price, limit, words_per_100_tokens=words)
    return Quote(
        model=examined.model.model_name,
        credits=examined.credits_estimated,
        typical=_typical(session, examined, at.catalog),
        limit=need,
        balance=account.balance,
        reserved=account.reserved,
        available=account.available,
        refusal=outcome if isinstance(outcome, BillingError) else None,
        warning=examined.warning,
    )


def quote_usage(data: dict[str, Any], *, at: Moment) -> UsageQuote:
    """What a usage is charged and costs at today's prices; raises a BillingError when unreadable or without a price."""
    priced = validated(_Priced, data, "invalid_usage")
    operation = at.catalog.operation_named(priced.operation)
    model = at.catalog.model_for(operation, priced.model, today=at.today)
    if operation.model_type == "image" and "images" not in priced.model_fields_set:
        raise InvalidRequest(f"{model.model_name} makes images: say how many images.", code="invalid_usage")
    if operation.model_type != "image" and priced.images:
        raise InvalidRequest(f"{model.model_name} makes no images.", code="invalid_usage")
    size, quality = priced.size, priced.quality
    if model.bills_images:
        usual_size, usual_quality = (
            choose(model, at.catalog.settings) for choose in (choosing.image_size, choosing.image_quality)
        )
        size, quality = size or (usual_size and usual_size.value), quality or (usual_quality and usual_quality.value)
    price = at.catalog.price_of(operation, model, size=size or "", quality=quality or "")
    return quote_at(priced.usage(), price)


def read_usage(data: dict[str, Any]) -> Usage:
    """A usage given as plain data; raises InvalidRequest when it cannot be read."""
    return validated(_Used, data, "invalid_usage").usage()


def quote_at(usage: Usage, price: Price) -> UsageQuote:
    """What a usage is charged and costs at this price; no reservation caps the charge here."""
    credits = pricing.charge(usage, price, held=UNBOUNDED).credits
    cost, revenue = pricing.cost(usage, price), pricing.revenue(credits, price)
    return UsageQuote(credits=credits, cost_usd=cost, revenue_usd=revenue, margin_usd=revenue - cost)


def _limit(
    session: Session, examined: Examined, account: Account, *, at: Moment
) -> tuple[LimitNeed | None, Limit | None]:
    limit_type = examined.limit_type
    if limit_type is None:
        return None, None
    unit = LimitUnit(examined.operation.limit_unit)
    words = at.catalog.defaults.words_per_100_tokens
    needed = estimate_units(unit, examined.work, words_per_100_tokens=words)
    entitled = limits.entitlements(session, [account.id], {(account.id, limit_type)}, now=at.now)
    allowance = entitled.allowances.get((account.id, limit_type))
    if allowance is None:
        return LimitNeed(limit_type, unit, needed, None, None), None
    return (
        LimitNeed(
            limit_type,
            unit,
            needed,
            allowance.allowed,
            None if allowance.remaining is None else max(0, allowance.remaining),
        ),
        Limit(limit_type, unit, allowance.remaining),
    )


def _typical(session: Session, examined: Examined, catalog: Catalog) -> Typical:
    """The charge at the median output of the latest jobs; before there are any, at the platform's usual share."""
    work, price = examined.work, examined.price
    basis = "the images asked for" if work.images else "its input"
    output = work.max_output_tokens
    if examined.model.model_type == "text":
        median, jobs = usage_queries.median_output(
            session, examined.operation.operation_type, examined.model.model_name, latest=HISTORY
        )
        percent = catalog.defaults.typical_output_percent
        basis = (
            f"the median of the last {jobs:,} {'job' if jobs == 1 else 'jobs'}"
            if jobs
            else f"{percent} % of the longest answer"
        )
        # A median above the longest answer does no harm: a charge never exceeds its reservation.
        output = divide(output * percent, 100, rounding=Rounding.UP) if median is None else median
    usage = Usage(input_tokens=work.input_tokens, output_tokens=output, images=work.images)
    return Typical(pricing.charge(usage, price, held=examined.credits_estimated).credits, basis)
