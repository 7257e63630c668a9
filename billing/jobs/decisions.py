"""Whether a request may start: the account must cover its estimate, and the plan its units."""

from __future__ import annotations

from dataclasses import dataclass

from billing.catalog.pricing import Price, estimate
from billing.catalog.usage import Work
from billing.errors import AccountFrozen, BillingError, InsufficientCredits, PlanLimitReached
from billing.plans.units import LimitUnit, estimate_units


@dataclass(frozen=True)
class Funds:
    """What an account has, in credits; `available` is what no open job and no earlier job of the batch holds."""

    account_id: int
    balance: int
    available: int
    frozen: bool


@dataclass(frozen=True)
class Limit:
    """A plan limit that a request consumes: in which unit, and how many are left of it (None: unlimited)."""

    limit_type: str
    unit: LimitUnit
    remaining: int | None


@dataclass(frozen=True)
class Reservation:
    """What one request is granted: its price, its estimate in credits, its units of a plan limit."""

    price: Price
    credits: int
    limit_units: int


def decide(
    funds: Funds, work: Work, price: Price, limit: Limit | None, *, words_per_100_tokens: int
) -> Reservation | BillingError:
    """Grant or refuse one request, from what is left for it. A refusal is a value: the others in a batch go on."""
    if funds.frozen:
        return AccountFrozen(funds.account_id)
    needed = estimate(work, price)
    if needed > funds.available:
        held = funds.balance - funds.available
        return InsufficientCredits(funds.account_id, needed=needed, available=funds.available, held=held)
    if limit is None:
        return Reservation(price=price, credits=needed, limit_units=0)
    units = estimate_units(limit.unit, work, words_per_100_tokens=words_per_100_tokens)
    if limit.remaining is not None and units > limit.remaining:
        left = max(0, limit.remaining)
        return PlanLimitReached(funds.account_id, limit.limit_type, needed=units, remaining=left)
    return Reservation(price=price, credits=needed, limit_units=units)
