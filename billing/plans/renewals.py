"""What is done when a subscription's period begins: the period moves on, its credits are granted, its limits opened.

Each is done once, however often and by however many it is asked for, and each in the order of time. What moves is
computed by `billing.plans.lifecycle`; what was granted or opened is marked on the period's own row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from sqlalchemy import ColumnElement
from sqlalchemy.orm import Session

from billing.errors import InvalidRequest
from billing.ledger import posting
from billing.ledger.posting import Change
from billing.money import CREDITS_MAX
from billing.periods import Period, starts_at
from billing.plans import limits, subscription_queries
from billing.plans.lifecycle import Standing, Status, turns
from billing.plans.shares import Granted, share
from billing.plans.subscribed import Subscribed
from billing.plans.subscription_queries import TO_GRANT, TO_OPEN
from billing.plans.tables import Plan, Subscription, SubscriptionPeriod
from config.database import each_apart

BATCH = 50
"""How many accounts one transaction renews: jobs of any of them wait for it."""


@dataclass
class Worked:
    """What was done: how many periods were granted or opened, and which accounts could not be worked on, and why."""

    periods: int = 0
    blocked: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Owed:
    """A period that began and whose credits were not granted yet; its end is the first day that is not part of it."""

    starts_at: datetime
    period_end: date
    plan: Plan
    credits: int


def renew(session: Session, now: datetime, worked: Worked) -> bool:
    """Move subscriptions into the periods that have begun by now, and grant the credits that they include.

    Works on one batch of those that have waited longest and adds what it did to `worked`. Returns False when there was
    nothing left to do.
    """

    def one(account_ids: Sequence[int], until: datetime) -> None:
        posting.lock(session, account_ids)
        move_on(session, subscription_queries.lock(session, account_ids), until)
        worked.periods += grant(session, account_ids, until)

    return _work(session, TO_GRANT, now, worked, one)


def reset_limits(session: Session, now: datetime, worked: Worked) -> bool:
    """Open the plan-limit rows of the periods that have begun by now; a row that exists is left as it is.

    Works on one batch of those that have waited longest and adds what it did to `worked`. Returns False when there was
    nothing left to do. It waits for no reservation, and none for it.
    """

    def one(account_ids: Sequence[int], until: datetime) -> None:
        move_on(session, subscription_queries.lock(session, account_ids), until)
        worked.periods += _open(session, account_ids, until)

    return _work(session, TO_OPEN, now, worked, one)


def owed(session: Session, account_id: int, until: datetime) -> list[Owed]:
    """The periods of this account that began up to this instant and were not granted yet, in the order of time."""
    return [
        Owed(period.starts_at, period.period_end, plan, period.credits)
        for period, _, plan in subscription_queries.periods(session, TO_GRANT, until, [account_id])
    ]


def bring_up_to_date(session: Session, late: Collection[int], now: datetime) -> None:
    """Renew what is due to these locked accounts, so that no job is refused for credits that a late tick still owes.

    An account that cannot be renewed goes on with what it has: the tick says why.
    """

    def one(some: Sequence[int]) -> None:
        move_on(session, subscription_queries.lock(session, some), now)
        grant(session, some, now)

    # Outside of all savepoints: whose subscription somebody else holds is not refused, but tried again later.
    subscription_queries.lock(session, late)
    each_apart(session, sorted(late), one)


def move_on(session: Session, subscriptions: Sequence[Subscribed], until: datetime) -> None:
    """Let locked subscriptions stand as they do at this instant, with a row for each period that began."""
    begun: list[dict[str, Any]] = []
    ended: list[int] = []
    for subscribed in subscriptions:
        passed = list(turns(subscribed.standing, until, subscribed.zone))
        for at, standing in passed:
            if standing.status is Status.CANCELLED:
                ended.append(subscribed.row.id)
            else:
                begun.append(_begun(subscribed, standing, at))
        # Also where nothing passed: a turn that was noted by other rules of its zone is noted anew.
        subscription_queries.write(session, subscribed, passed[-1][1] if passed else subscribed.standing)
    session.flush()
    _add_periods(session, begun)
    subscription_queries.forfeit_withheld(session, ended)


def begin(session: Session, subscribed: Subscribed) -> None:
    """Begin the first period of a new subscription."""
    standing = subscribed.standing
    _add_periods(session, [_begun(subscribed, standing, starts_at(standing.period.start, subscribed.zone))])


def grant_or_wait(session: Session, account_id: int, now: datetime, *, at: datetime | None = None) -> None:
    """Grant what the periods of this locked account include; what it cannot hold waits, and each tick says so."""

    def one(account_ids: Sequence[int]) -> None:
        grant(session, account_ids, now, at=at)

    each_apart(session, [account_id], one)


def grant(session: Session, account_ids: Sequence[int], until: datetime, *, at: datetime | None = None) -> int:
    """Grant what the periods of these locked accounts include, each once; returns how many granted something.

    The ledger's rows bear the instant at which their period began, or `at`.
    """
    waiting = subscription_queries.periods(session, TO_GRANT, until, account_ids)
    if not waiting:
        return 0
    balances = posting.balances(session, account_ids)
    changes, rows = defaultdict[int, Change](Change), []
    for period, subscription, plan in waiting:
        account_id = subscription.account_id
        balances[account_id] += period.credits
        if balances[account_id] > CREDITS_MAX:
            raise InvalidRequest(f"No account can hold more than {CREDITS_MAX} credits.", code="invalid_amount")
        changes[account_id].balance += period.credits
        rows.append(_ledger_row(period, subscription, plan, balances[account_id], at))
    posting.post(session, changes, transactions=rows)
    marked = subscription_queries.mark(session, TO_GRANT, [period for period, *_ in waiting], granted=True)
    assert marked == len(waiting), "a period's credits are granted once"
    return marked


def _work(
    session: Session,
    condition: ColumnElement[bool],
    now: datetime,
    worked: Worked,
    one: Callable[[Sequence[int], datetime], None],
) -> bool:
    due = subscription_queries.due(session, condition, now, limit=BATCH, but=worked.blocked)
    if not due:
        return False
    # One instant after the other, so that a late tick leaves what ticks in time would have left: an account that can
    # hold one more grant and no two has that one.
    until = due[0][0]
    account_ids = sorted({account_id for at, account_id in due if at == until})
    for account_id, error in each_apart(session, account_ids, lambda some: one(some, until)):
        worked.blocked[account_id] = type(error).__name__
    return True


def _open(session: Session, account_ids: Sequence[int], until: datetime) -> int:
    waiting = subscription_queries.periods(session, TO_OPEN, until, account_ids)
    if waiting:
        limits.open_periods(
            session,
            [(of.account_id, plan, Period(row.period_start, row.period_end)) for row, of, plan in waiting],
        )
        subscription_queries.mark(session, TO_OPEN, [period for period, *_ in waiting], limits_opened=True)
    return len(waiting)


def _add_periods(session: Session, begun: Sequence[dict[str, Any]]) -> None:
    """Begin these periods, each with the credits that its days were not granted by earlier ones of its account."""
    granted = subscription_queries.granted(session, {row["subscription_id"] for row in begun})
    for row in begun:
        period = Period(row["period_start"], row["period_end"])
        account = granted.get(row["subscription_id"], ())
        row |= {name: share(row[name], period, account) for name in ("credits", "credits_withheld")}
    added = subscription_queries.add_periods(session, begun)
    assert added == len(begun), "a period begins once"


def granted(session: Session, subscribed: Subscribed) -> list[Granted]:
    """The periods of this subscription that granted credits, or may still grant them."""
    return subscription_queries.granted(session, [subscribed.row.id]).get(subscribed.row.id, [])


def _begun(subscribed: Subscribed, standing: Standing, at: datetime) -> dict[str, Any]:
    plan = subscribed.plan_of(standing)
    included = plan.included_credits
    return {
        "subscription_id": subscribed.row.id,
        "period_start": standing.period.start,
        "period_end": standing.period.end,
        "plan_id": plan.id,
        "status": standing.status,
        "starts_at": at,
        "included_credits": included,
        "credits": included if standing.status is Status.ACTIVE else 0,
        "credits_withheld": included if standing.status is Status.PAST_DUE else 0,
    }


def _ledger_row(
    period: SubscriptionPeriod, subscription: Subscription, plan: Plan, balance: int, at: datetime | None
) -> dict[str, Any]:
    return {
        "account_id": subscription.account_id,
        "transaction_type": "subscription",
        "amount": period.credits,
        "balance_after": balance,
        "description": f"Credits included in {plan.name}, {period.period_start} up to {period.period_end}",
        "subscription_id": subscription.id,
        "period_start": period.period_start,
        "idempotency_key": f"creditmill:subscription:{subscription.id}:{period.period_start}",
        "created_at": at or period.starts_at,
    }
