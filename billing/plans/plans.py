"""Plans: what each includes and limits, and what is left of an account's limits in its current period."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import Field
from sqlalchemy.orm import Session

from billing.catalog import changing, current
from billing.catalog.fields import Fields, Name, Shown, is_cleared, is_text, one_of, read
from billing.errors import InvalidRequest, UnknownThing
from billing.ledger import accounts
from billing.money import CREDITS_MAX
from billing.periods import Interval, starts_at
from billing.plans import limit_queries, limits, subscription_queries
from billing.plans.lifecycle import Status
from billing.plans.tables import Plan, PlanLimitUsage

UNITS_MAX = 2**53


class PlanFields(Fields):
    """What can be changed of a plan, beside its limits."""

    name: Shown | None = None
    # USD a period; money that customers pay has two decimals.
    price: Annotated[Decimal, Field(ge=0, max_digits=10, decimal_places=2)] | None = None
    included_credits: Annotated[int, Field(ge=0, le=CREDITS_MAX)] | None = None
    billing_interval: Interval | None = None
    is_active: bool | None = None


@dataclass(frozen=True)
class Renewal:
    """The plan of an account, its current period, and the instant at which the next one begins; None if none does."""

    plan: str
    period_start: date
    period_end: date
    renews_at: datetime | None


@dataclass(frozen=True)
class LimitView:
    """What an account has used of one limit of its plan in the current period, and may still use, in its units."""

    limit_type: str
    allowed: int
    used: int
    reserved: int
    remaining: int
    percentage_used: int
    period_start: date
    period_end: date
    # What requests with a label have used of it.
    by_label: Mapping[str, int]


@dataclass(frozen=True)
class PlanView:
    """A plan as it is shown: its price in USD a period, the credits that it includes, its limits in units a period."""

    slug: str
    name: str
    price: Decimal
    included_credits: int
    billing_interval: str
    is_active: bool
    limits: Mapping[str, int]


def view(plan: Plan) -> PlanView:
    """The plan as it is shown."""
    return PlanView(
        slug=plan.slug,
        name=plan.name,
        price=plan.price,
        included_credits=plan.included_credits,
        billing_interval=plan.billing_interval,
        is_active=plan.is_active,
        limits=plan.limits,
    )


def all_plans(session: Session) -> list[PlanView]:
    """Every plan, by its price."""
    return [view(plan) for plan in limit_queries.plans(session)]


def named(session: Session, slug: str) -> Plan:
    """The plan; raises UnknownThing when there is none of that name."""
    found = limit_queries.plan(session, slug) if is_text(slug) else None
    if found is None:
        raise UnknownThing("plan", slug, choices=tuple(plan.slug for plan in limit_queries.plans(session)))
    return found


def set_plan(session: Session, slug: str, fields: Mapping[str, Any]) -> Plan:
    """Add or change a plan: its own fields, and its limits by their type in units a period (`none`: unlimited).

    Raises InvalidRequest or UnknownThing, and then changes nothing.
    """
    one_of(Name, "the plan's name", slug)
    changing.lock(session)
    types = current.read(session).limit_types
    limited = {name: value for name, value in fields.items() if name in types}
    own = {name: value for name, value in fields.items() if name not in types}
    plan = limit_queries.plan(session, slug) or Plan(slug=slug, name=slug, limits={})
    allowed = {**plan.limits, **{name: _units(name, value) for name, value in limited.items()}}
    # A new value, because SQLAlchemy does not see a change inside of JSON.
    changes = {"limits": {name: units for name, units in allowed.items() if units is not None}}
    strays = [name for name in own if name not in PlanFields.model_fields]
    if strays:
        known = ", ".join([*PlanFields.model_fields, *types])
        raise InvalidRequest(f"There is no field {strays[0][:40]!r}. Known: {known}.", code="unknown_field")
    if own or not limited:
        changes |= read(PlanFields, own, None, force=False)
    empty = [name for name, value in changes.items() if value is None]
    if empty:
        raise InvalidRequest(f"{empty[0]} cannot be empty.", code="invalid_field")
    for name, value in changes.items():
        setattr(plan, name, value)
    session.add(plan)
    session.flush()
    session.refresh(plan)
    return plan


def usage(session: Session, account_id: int, *, now: datetime) -> list[LimitView]:
    """What the account has used of every limit of its plan; empty without a plan, or when nothing is limited."""
    accounts.get(session, account_id)
    return [
        _limit_view(limit_type, allowed, period.start, period.end, used)
        for limit_type, allowed, period, used in limits.of_account(session, account_id, now=now)
    ]


def renewal(session: Session, account_id: int, *, now: datetime) -> Renewal | None:
    """The plan that an account has now, and when it renews; None without a plan."""
    for subscribed in subscription_queries.of_accounts(session, [account_id]):
        standing = subscribed.at(now)
        if standing.status is not Status.CANCELLED:
            period = standing.period
            ends = starts_at(period.end, subscribed.zone)
            plan = subscribed.plan_of(standing).slug
            return Renewal(plan, period.start, period.end, None if standing.cancel_at_period_end else ends)
    return None


def _limit_view(limit_type: str, allowed: int, start: date, end: date, used: PlanLimitUsage | None) -> LimitView:
    row = used or PlanLimitUsage(amount_used=0, amount_reserved=0)
    return LimitView(
        limit_type=limit_type,
        allowed=allowed,
        used=row.amount_used,
        reserved=row.amount_reserved,
        remaining=max(0, row.remaining_allowance(allowed) - row.amount_reserved),
        percentage_used=row.percentage_used(allowed),
        period_start=start,
        period_end=end,
        by_label=(row.details or {}).get("by_label", {}),
    )


def _units(limit_type: str, given: Any) -> int | None:
    if is_cleared(given):
        return None
    text = str(given).strip()
    if not text.isascii() or not text.isdecimal() or len(text) > 16 or int(text) > UNITS_MAX:
        raise InvalidRequest(
            f"{limit_type} must be a whole number of 0 or more, or `none` for unlimited.", code="invalid_field"
        )
    return int(text)
