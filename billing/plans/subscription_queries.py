"""Queries over subscriptions and their periods."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    DateTime,
    Executable,
    Select,
    and_,
    any_,
    bindparam,
    exists,
    func,
    or_,
    select,
    tuple_,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.orm import Session, aliased

from billing.ledger.tables import Account
from billing.paging import Key
from billing.periods import Period, starts_at
from billing.plans.lifecycle import Standing, Status
from billing.plans.shares import Granted
from billing.plans.subscribed import Subscribed
from billing.plans.tables import Plan, PlanLimitUsage, Subscription, SubscriptionPeriod

TO_GRANT: ColumnElement[bool] = and_(SubscriptionPeriod.credits > 0, ~SubscriptionPeriod.granted)
TO_OPEN: ColumnElement[bool] = ~SubscriptionPeriod.limits_opened


@dataclass(frozen=True)
class Used:
    """What was used of one limit in one period, and what open jobs hold of it, in its units."""

    used: int
    held: int


@dataclass(frozen=True)
class Entitled:
    """A subscription, whether time has moved it on since it was last written, and what was used by limit and period."""

    subscribed: Subscribed
    behind: bool
    used: Mapping[tuple[str, date], Used]


def of_accounts(session: Session, account_ids: Iterable[int]) -> list[Subscribed]:
    """The subscriptions of these accounts, whatever their status."""
    return _read(session, Subscription.account_id.in_(sorted(set(account_ids))))


def entitlements(session: Session, account_ids: Iterable[int], now: datetime) -> list[Entitled]:
    """The subscriptions of these accounts by now, each with what was used since its current period began.

    A caller that is going to hold units holds the accounts' locks, which guard what was used.
    """
    found = session.execute(_ENTITLED, {"account_ids": sorted(set(account_ids)), "now": now})
    return [
        Entitled(
            Subscribed(account, row, plan, next_plan),
            behind=bool(behind),
            used={(kind, date.fromisoformat(day)): Used(*amounts) for kind, day, *amounts in rows or []},
        )
        for account, row, plan, next_plan, behind, rows in found
    ]


def due(
    session: Session, condition: ColumnElement[bool], now: datetime, *, limit: int, but: Collection[int]
) -> list[tuple[datetime, int]]:
    """When subscriptions turned, or began a period that still waits for something, with the accounts that this befell.

    Up to now, the earliest first, without some accounts.
    """
    others = Subscription.account_id.not_in(but)
    turned, began = Subscription.renews_at, SubscriptionPeriod.starts_at
    turns = select(turned.label("at"), Subscription.account_id).where(turned <= now, others)
    waits = (
        select(began.label("at"), Subscription.account_id)
        .join(Subscription, Subscription.id == SubscriptionPeriod.subscription_id)
        .where(condition, began <= now, others)
    )
    # Each by the first entries of its index: at one midnight all the others may be due too.
    first = [turns.order_by(turned).limit(limit), waits.order_by(began).limit(limit)]
    found = session.execute(union_all(*first).order_by("at").limit(limit))
    return [(row.at, row.account_id) for row in found]


def lock(session: Session, account_ids: Iterable[int]) -> list[Subscribed]:
    """Lock the subscriptions of these accounts, in the order of the accounts; always after the accounts."""
    mine = Subscription.account_id.in_(sorted(set(account_ids)))
    # Read only after the lock is held: a join that has waited for it would still show the plans of before.
    session.execute(select(Subscription.id).where(mine).order_by(Subscription.account_id).with_for_update())
    return _read(session, mine)


def write(session: Session, subscribed: Subscribed, standing: Standing) -> None:
    """Let the subscription stand so, at the session's next flush; whoever writes has locked it."""
    turn = standing.next_turn
    row = subscribed.row
    row.status = standing.status
    row.plan_id = standing.terms.plan_id
    row.next_plan_id = None if standing.next_terms is None else standing.next_terms.plan_id
    row.anchor_date = standing.anchor
    row.current_period_start, row.current_period_end = standing.period.start, standing.period.end
    row.cancel_at_period_end = standing.cancel_at_period_end
    row.grace_until = standing.grace_until
    row.renews_at = None if turn is None else starts_at(turn, subscribed.zone)
    session.add(row)


def last_period(session: Session, subscription_id: int) -> SubscriptionPeriod | None:
    """The last period that the subscription began; None for one that ended before periods were kept."""
    statement = select(SubscriptionPeriod).where(SubscriptionPeriod.subscription_id == subscription_id)
    newest = statement.order_by(SubscriptionPeriod.period_start.desc()).limit(1)
    return session.scalar(newest.execution_options(populate_existing=True))


def last_trial(session: Session, subscription_id: int) -> date | None:
    """The first day of the last trial that the subscription had; None when it had none."""
    return session.scalar(
        select(func.max(SubscriptionPeriod.period_start)).where(
            SubscriptionPeriod.subscription_id == subscription_id, SubscriptionPeriod.status == Status.TRIALING
        )
    )


def periods_of(
    session: Session, subscription_id: int, *, after: Key | None, limit: int
) -> list[tuple[SubscriptionPeriod, Plan]]:
    """The periods of a subscription with their plans, the newest first, behind the one that began on this day."""
    statement = (
        select(SubscriptionPeriod, Plan)
        .join(Plan, Plan.id == SubscriptionPeriod.plan_id)
        .where(SubscriptionPeriod.subscription_id == subscription_id)
        .order_by(SubscriptionPeriod.period_start.desc())
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(SubscriptionPeriod.period_start < after[0])
    return [(period, plan) for period, plan in session.execute(statement)]


def paid_out(session: Session, subscription_id: int) -> int:
    """All credits that were granted for periods of this subscription which began past due."""
    granted = select(func.coalesce(func.sum(SubscriptionPeriod.credits), 0)).where(
        SubscriptionPeriod.subscription_id == subscription_id,
        SubscriptionPeriod.status == Status.PAST_DUE,
        SubscriptionPeriod.granted,
    )
    return int(session.execute(granted).scalar_one())


def granted(session: Session, subscription_ids: Collection[int]) -> dict[int, list[Granted]]:
    """The periods of each subscription that granted credits, or may still grant them."""
    if not subscription_ids:
        return {}
    credits = SubscriptionPeriod.credits + SubscriptionPeriod.credits_withheld
    statement = select(
        SubscriptionPeriod.subscription_id,
        SubscriptionPeriod.period_start,
        SubscriptionPeriod.period_end,
        # Where it was not kept what was included, all of it was granted.
        func.coalesce(SubscriptionPeriod.included_credits, credits),
    ).where(SubscriptionPeriod.subscription_id.in_(sorted(subscription_ids)), credits > 0)
    found: dict[int, list[Granted]] = {}
    for subscription_id, start, end, included in session.execute(statement):
        found.setdefault(subscription_id, []).append(Granted(Period(start, end), included))
    return found


def add_periods(session: Session, rows: Sequence[dict[str, Any]]) -> int:
    """Begin periods; one that has begun before is left as it is, unless it began past due and was never granted.

    Returns how many were begun.
    """
    if not rows:
        return 0
    statement = insert(SubscriptionPeriod)
    key = ("subscription_id", "period_start")
    # Whoever subscribes anew on the day on which a period began past due begins it once more.
    again = statement.on_conflict_do_update(
        index_elements=key,
        set_={name: statement.excluded[name] for name in rows[0] if name not in key},
        where=and_(SubscriptionPeriod.status == Status.PAST_DUE, ~SubscriptionPeriod.granted),
    )
    return len(session.scalars(again.returning(SubscriptionPeriod.subscription_id), list(rows)).all())


def periods(
    session: Session, condition: ColumnElement[bool], until: datetime, account_ids: Iterable[int]
) -> list[tuple[SubscriptionPeriod, Subscription, Plan]]:
    """The periods of these accounts that began up to this instant and wait for something, in the order of time."""
    statement = (
        select(SubscriptionPeriod, Subscription, Plan)
        .join(Subscription, Subscription.id == SubscriptionPeriod.subscription_id)
        .join(Plan, Plan.id == SubscriptionPeriod.plan_id)
        .where(condition, SubscriptionPeriod.starts_at <= until, Subscription.account_id.in_(sorted(set(account_ids))))
        .order_by(SubscriptionPeriod.starts_at, Subscription.id)
    )
    found = session.execute(statement.execution_options(populate_existing=True))
    return [(period, subscription, plan) for period, subscription, plan in found]


def mark(session: Session, condition: ColumnElement[bool], rows: Sequence[SubscriptionPeriod], **done: bool) -> int:
    """Mark these periods as done with; returns how many still waited for it."""
    keys = [(row.subscription_id, row.period_start) for row in rows]
    statement = (
        update(SubscriptionPeriod)
        .where(tuple_(SubscriptionPeriod.subscription_id, SubscriptionPeriod.period_start).in_(keys), condition)
        .values(**done)
        .returning(SubscriptionPeriod.subscription_id)
    )
    return len(session.scalars(statement.execution_options(synchronize_session=False)).all())


def release_withheld(session: Session, subscription_id: int) -> None:
    """Let the credits that were withheld from this subscription be granted."""
    _end_withholding(session, [subscription_id], credits=SubscriptionPeriod.credits_withheld)


def forfeit_withheld(session: Session, subscription_ids: Sequence[int]) -> None:
    """Never grant the credits that were withheld from these subscriptions."""
    if subscription_ids:
        _end_withholding(session, subscription_ids)


def _end_withholding(session: Session, subscription_ids: Sequence[int], **values: Any) -> None:
    statement = update(SubscriptionPeriod).where(
        SubscriptionPeriod.subscription_id.in_(subscription_ids), SubscriptionPeriod.credits_withheld > 0
    )
    session.execute(statement.values(credits_withheld=0, **values).execution_options(synchronize_session=False))


def _owed(now: datetime | BindParameter[datetime]) -> ColumnElement[bool]:
    return exists().where(
        SubscriptionPeriod.subscription_id == Subscription.id, TO_GRANT, SubscriptionPeriod.starts_at <= now
    )


def _joined(following: type[Plan], condition: ColumnElement[bool]) -> Select[Account, Subscription, Plan, Plan]:
    return (
        select(Account, Subscription, Plan, following)
        .join(Subscription, Subscription.account_id == Account.id)
        .join(Plan, Plan.id == Subscription.plan_id)
        .outerjoin(following, following.id == Subscription.next_plan_id)
        .where(condition)
        .order_by(Account.id)
    )


def _read(session: Session, condition: ColumnElement[bool]) -> list[Subscribed]:
    found = session.execute(_joined(aliased(Plan), condition).execution_options(populate_existing=True))
    return [Subscribed(account, row, plan, next_plan) for account, row, plan, next_plan in found]


def _entitled() -> Executable:
    now = bindparam("now", type_=DateTime(timezone=True))
    used = func.jsonb_build_array(
        PlanLimitUsage.limit_type,
        PlanLimitUsage.period_start,
        PlanLimitUsage.amount_used,
        PlanLimitUsage.amount_reserved,
    )
    all_used = (
        select(func.jsonb_agg(used))
        .where(PlanLimitUsage.account_id == Subscription.account_id)
        .where(PlanLimitUsage.period_start >= Subscription.current_period_start)
        .correlate(Subscription)
        .scalar_subquery()
    )
    of_these = Subscription.account_id == any_(bindparam("account_ids", type_=ARRAY(BigInteger)))
    statement = _joined(aliased(Plan), of_these).add_columns(or_(Subscription.renews_at <= now, _owed(now)), all_used)
    return statement.execution_options(populate_existing=True)


# Made once: every reservation sends it.
_ENTITLED = _entitled()
