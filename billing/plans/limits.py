"""Plan limits: what an account's plan allows in the current period, and the rows that count it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from sqlalchemy.orm import Session

from billing.catalog import current
from billing.periods import Period
from billing.plans import limit_queries, subscription_queries
from billing.plans.lifecycle import Status
from billing.plans.limit_queries import LimitKey
from billing.plans.subscription_queries import Used
from billing.plans.tables import Plan, PlanLimitUsage
from billing.sql import Part


@dataclass
class Allowance:
    """What one account may still use of one limit in the current period; `remaining` shrinks as a batch is decided.

    Both are None where the plan sets no limit: usage is counted all the same, because a limit may be set later.
    """

    limit_type: str
    period_start: date
    allowed: int | None
    remaining: int | None


@dataclass(frozen=True)
class Entitlements:
    """What some accounts may still use, by account and limit type; without a subscription, nothing is counted.

    `behind` are the accounts that are owed a renewal. What holds now is computed even for them, but for their credits.
    `unopened` are the rows of periods in which nothing was used yet.
    """

    allowances: dict[tuple[int, str], Allowance]
    behind: frozenset[int]
    unopened: Sequence[dict[str, Any]] = ()


@dataclass
class LimitChange:
    """What one batch adds to one limit of one period, in its units; a hold must keep the sum within `allowed`."""

    used: int = 0
    reserved: int = 0
    allowed: int | None = None
    # What of it was used by requests with a label, by the label.
    labels: dict[str, int] = field(default_factory=dict)


def entitlements(
    session: Session,
    account_ids: Collection[int],
    wanted: Collection[tuple[int, str]],
    *,
    now: datetime,
) -> Entitlements:
    """What is left of each wanted (account id, limit type), and which of these accounts are owed a renewal.

    A caller that is going to hold units holds the accounts' locks, and opens the rows first, with `open_rows`.
    """
    found: dict[tuple[int, str], Allowance] = {}
    rows, behind = [], set()
    for entitled in subscription_queries.entitlements(session, account_ids, now):
        account_id = entitled.subscribed.account.id
        if entitled.behind:
            behind.add(account_id)
        standing = entitled.subscribed.at(now)
        if standing.status is Status.CANCELLED:
            continue
        limited, period = entitled.subscribed.plan_of(standing).limits, standing.period
        for limit_type in sorted(kind for owner, kind in wanted if owner == account_id):
            used = entitled.used.get((limit_type, period.start))
            if used is None:
                rows.append(_row(account_id, limit_type, period))
            found[(account_id, limit_type)] = _allowance(limit_type, period, limited.get(limit_type), used)
    return Entitlements(found, frozenset(behind), rows)


def open_rows(session: Session, entitled: Entitlements) -> None:
    """Open the rows of periods in which nothing was used yet: a reset may come late.

    After the subscriptions' locks, if any are taken: a tick takes them before it opens rows.
    """
    limit_queries.open_rows(session, entitled.unopened)


def counted(changes: Mapping[LimitKey, LimitChange]) -> Part:
    """The part of a posting that counts these changes; it writes none of them when an allowance does not cover one.

    The caller holds the accounts' locks, which guard the rows of their limits too.
    """
    return limit_queries.counted(
        [
            {"account_id": account_id, "limit_type": limit_type, "period_start": start, **vars(change)}
            for (account_id, limit_type, start), change in changes.items()
            if change.used or change.reserved
        ]
    )


def of_account(
    session: Session, account_id: int, *, now: datetime
) -> list[tuple[str, int, Period, PlanLimitUsage | None]]:
    """Each limit of an account's plan: its type, what is allowed, the current period, and its row if it was opened."""
    found = []
    for _, plan, period in _in_force(session, [account_id], now):
        rows = limit_queries.find(session, [(account_id, limit_type, period.start) for limit_type in plan.limits])
        for limit_type, allowed in sorted(plan.limits.items()):
            if allowed is not None:
                found.append((limit_type, allowed, period, rows.get((account_id, limit_type, period.start))))
    return found


def open_periods(session: Session, begun: Iterable[tuple[int, Plan, Period]]) -> int:
    """Open the usage rows of these periods, each given with its account and plan; returns how many were new."""
    known = set(current.read(session).limit_types)
    return limit_queries.open_rows(
        session,
        [
            _row(account_id, limit_type, period)
            for account_id, plan, period in begun
            for limit_type in limited_types(plan, known)
        ],
    )


def limited_types(plan: Plan, known: Collection[str]) -> list[str]:
    """The limit types that the plan limits; a type that does not exist is left out."""
    return sorted(name for name, allowed in plan.limits.items() if allowed is not None and name in known)


def _in_force(session: Session, account_ids: Collection[int], now: datetime) -> Iterator[tuple[int, Plan, Period]]:
    """The current plan and period of each of these accounts, even when its renewals are late."""
    for subscribed in subscription_queries.of_accounts(session, account_ids):
        standing = subscribed.at(now)
        if standing.status is not Status.CANCELLED:
            yield subscribed.account.id, subscribed.plan_of(standing), standing.period


def _allowance(limit_type: str, period: Period, allowed: int | None, used: Used | None) -> Allowance:
    left = None
    if allowed is not None:
        left = allowed if used is None else max(0, allowed - used.used) - used.held
    return Allowance(limit_type, period.start, allowed, left)


def _row(account_id: int, limit_type: str, period: Period) -> dict[str, Any]:
    return {
        "account_id": account_id,
        "limit_type": limit_type,
        "period_start": period.start,
        "period_end": period.end,
    }
