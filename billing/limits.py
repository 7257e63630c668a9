"""Plan limits: what an account's plan allows in the current period, and the rows that count it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy.orm import Session

from billing.domain.periods import Period, period_containing
from billing.store import catalog as catalog_store
from billing.store import limits as store
from billing.store.books import LimitKey
from billing.store.tables import Account, PlanLimitUsage, Subscription


@dataclass
class Allowance:
    """What one account may still use of one limit in the current period; `remaining` shrinks as a batch is decided.

    Both are None where the plan sets no limit: what is used is counted all the same, for a limit may come.
    """

    limit_type: str
    period_start: date
    allowed: int | None
    remaining: int | None


Allowances = dict[tuple[int, str], Allowance]


def current_period(account: Account, subscription: Subscription, now: datetime) -> Period:
    """The subscription's period that holds this instant, whether or not its renewal has been run yet."""
    return period_containing(subscription.anchor_date, now, ZoneInfo(account.time_zone))


def allowances(
    session: Session, wanted: Collection[tuple[int, str]], *, now: datetime, opening: bool = True
) -> Allowances:
    """What is left of each wanted (account id, limit type); without a subscription, nothing is counted.

    Who means to hold units has locked the accounts. The period's row is opened on first use, so no reset ever has to
    come in time; without `opening`, nothing is written.
    """
    if not wanted:
        return {}
    limited: dict[LimitKey, int | None] = {}
    rows = []
    for account, subscription, plan in store.subscriptions(session, {account for account, _ in wanted}):
        period = current_period(account, subscription, now)
        for limit_type in sorted(limit_type for owner, limit_type in wanted if owner == account.id):
            limited[(account.id, limit_type, period.start)] = plan.limits.get(limit_type)
            rows.append(_row(account.id, limit_type, period))
    if opening:
        store.open_rows(session, rows)
    used = store.find(session, limited)
    return {
        (account, limit_type): Allowance(
            limit_type=limit_type,
            period_start=start,
            allowed=allowed,
            remaining=None if allowed is None else _left(allowed, used.get((account, limit_type, start))),
        )
        for (account, limit_type, start), allowed in limited.items()
    }


def current(
    session: Session, account_id: int, *, now: datetime
) -> list[tuple[str, int, Period, PlanLimitUsage | None]]:
    """Each limit of an account's plan: its type, what is allowed, the current period, and its row if it was opened."""
    found = []
    for account, subscription, plan in store.subscriptions(session, [account_id]):
        period = current_period(account, subscription, now)
        rows = store.find(session, [(account.id, limit_type, period.start) for limit_type in plan.limits])
        for limit_type, allowed in sorted(plan.limits.items()):
            if allowed is not None:
                found.append((limit_type, allowed, period, rows.get((account.id, limit_type, period.start))))
    return found


def open_current_periods(session: Session, *, now: datetime) -> int:
    """Open the current period's usage rows of every live subscription; returns how many were new."""
    rows = []
    known = set(catalog_store.limit_types(session))
    for account, subscription, plan in store.subscriptions(session, None):
        period = current_period(account, subscription, now)
        limited = {limit_type for limit_type, allowed in plan.limits.items() if allowed is not None}
        rows += [_row(account.id, limit_type, period) for limit_type in sorted(known & limited)]
    return store.open_rows(session, rows)


def _left(allowed: int, used: PlanLimitUsage | None) -> int:
    return allowed if used is None else used.remaining_allowance(allowed) - used.amount_reserved


def _row(account_id: int, limit_type: str, period: Period) -> dict[str, Any]:
    return {
        "account_id": account_id,
        "limit_type": limit_type,
        "period_start": period.start,
        "period_end": period.end,
    }
