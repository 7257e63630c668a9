"""What time would do to an account: its renewals, resets and expiries up to a day. Nothing is written.

The rules are those that decide when the time comes (`billing.plans.lifecycle`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime

from sqlalchemy.orm import Session

from billing.catalog import current
from billing.errors import InvalidRequest
from billing.jobs import reserving
from billing.ledger import accounts
from billing.money import CREDITS_MAX
from billing.periods import FORECAST_MONTHS_MAX, add_months, starts_at
from billing.plans import limits, renewals, subscriptions
from billing.plans.lifecycle import Standing, Status, turns
from billing.plans.shares import Granted, share
from billing.plans.subscribed import Subscribed
from billing.plans.tables import Plan


@dataclass(frozen=True)
class Expected:
    """Something that would happen to an account, and the balance after it if no credits were used meanwhile.

    `event` is `renewal`, `trial_end`, `plan_change`, `end`, `grant` (the credits of a period that has begun and was not
    worked on yet) or `expiry` (the hold of a job that is not called before its deadline). Amounts are credits; `limits`
    holds the units that each limit allows anew.
    """

    at: datetime
    day: date
    event: str
    plan: str | None
    period_end: date | None
    credits_granted: int
    credits_withheld: int
    credits_released: int
    balance: int
    available: int
    limits: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Change:
    at: datetime
    event: str
    plan: Plan | None = None
    period_end: date | None = None
    granted: int = 0
    withheld: int = 0
    released: int = 0
    begins: bool = False


def simulate(session: Session, account_id: int, *, months: int, now: datetime) -> list[Expected]:
    """What would happen to this account within so many months, in the order of time; writes nothing.

    What is overdue by now is included. Raises UnknownThing, or InvalidRequest for an impossible number of months.
    """
    account = accounts.get(session, account_id)
    if not 1 <= months <= FORECAST_MONTHS_MAX:
        raise InvalidRequest(f"The number of months is 1 to {FORECAST_MONTHS_MAX}.", code="invalid_months")
    zone = accounts.zone(account)
    until = starts_at(add_months(now.astimezone(zone).date(), months), zone)
    known = current.read(session).limit_types
    changes = [*_waiting(session, account_id, until), *_expiries(session, account_id, until)]
    subscribed = subscriptions.find(session, account_id)
    if subscribed is not None:
        changes += _turns(subscribed, renewals.granted(session, subscribed), until)
    balance, reserved, full = account.balance, account.reserved, False
    expected = []
    for change in sorted(changes, key=lambda each: each.at):
        # Grants come in the order of time: one that an account cannot hold blocks all later ones.
        full = full or balance + change.granted > CREDITS_MAX
        granted = 0 if full else change.granted
        balance += granted
        reserved -= change.released
        begun = change.plan if change.begins else None
        expected.append(
            Expected(
                at=change.at,
                day=change.at.astimezone(zone).date(),
                event=change.event,
                plan=change.plan.slug if change.plan else None,
                period_end=change.period_end,
                credits_granted=granted,
                credits_withheld=change.withheld,
                credits_released=change.released,
                balance=balance,
                available=balance - reserved,
                limits={name: begun.limits[name] for name in limits.limited_types(begun, known)} if begun else {},
            )
        )
    return expected


def _turns(subscribed: Subscribed, granted: Sequence[Granted], until: datetime) -> Iterator[_Change]:
    before = subscribed.standing
    for at, standing in turns(before, until, subscribed.zone):
        plan, ended = subscribed.plan_of(standing), standing.status is Status.CANCELLED
        credits = share(plan.included_credits, standing.period, granted)
        yield _Change(
            at,
            _event(before, standing),
            plan,
            period_end=None if ended else standing.period.end,
            granted=credits if standing.status is Status.ACTIVE else 0,
            withheld=credits if standing.status is Status.PAST_DUE else 0,
            begins=not ended,
        )
        before = standing


def _event(before: Standing, after: Standing) -> str:
    if after.status is Status.CANCELLED:
        return "end"
    if before.status is Status.TRIALING:
        return "trial_end"
    return "plan_change" if before.terms != after.terms else "renewal"


def _waiting(session: Session, account_id: int, until: datetime) -> list[_Change]:
    return [
        _Change(period.starts_at, "grant", period.plan, period.period_end, granted=period.credits)
        for period in renewals.owed(session, account_id, until)
    ]


def _expiries(session: Session, account_id: int, until: datetime) -> list[_Change]:
    return [
        _Change(at, "expiry", released=credits)
        for at, credits in reserving.holds_by_deadline(session, account_id, until)
    ]
