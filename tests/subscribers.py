"""Accounts that are subscribed, what operators do to them, and what time does."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from billing.plans import plans, renewals, subscriptions
from billing.plans.renewals import Worked
from billing.plans.tables import Subscription
from billing.reports import audit
from billing.reports.audit import Finding
from config.database import transaction
from tasks.periodic import in_batches
from tests.factories import NOON, an_account, rows


def a_plan(slug: str = "starter", **fields: str) -> None:
    """A plan that grants 500 credits a month and limits content ideas to 5, unless said otherwise."""
    with transaction() as session:
        plans.set_plan(session, slug, {"included_credits": "500", "content_ideas": "5", **fields})


def act(action: str, *given: Any, now: datetime = NOON, **named: Any) -> Subscription:
    """What an operator does, by the name of the service's function."""
    with transaction() as session:
        return getattr(subscriptions, action)(session, *given, now=now, **named)


def a_subscriber(
    slug: str = "starter", *, credits: int = 0, time_zone: str = "UTC", now: datetime = NOON, **given: Any
) -> int:
    """An account that is subscribed to a plan; without credits of its own."""
    account_id = an_account(credits, time_zone=time_zone)
    act("subscribe", account_id, slug, now=now, **given)
    return account_id


def forget_accounts() -> None:
    """Empty the tables of accounts and what they are subscribed to, past the triggers that keep histories whole."""
    with transaction() as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))
        for table in ("plan_limit_usage", "subscription_periods", "subscriptions", "credit_transactions", "accounts"):
            session.execute(text(f"DELETE FROM {table}"))


def standing_still(at: datetime) -> Callable[[Session], datetime]:
    """A clock that stands still, and ends a tick that would go on for ever."""
    looks = iter(range(2_000))

    def clock(_: Session) -> datetime:
        assert next(looks, None) is not None, "a tick comes to its end"
        return at

    return clock


def renew(at: datetime) -> int:
    """One tick of the renewals; returns how many periods it granted."""
    return in_batches("renew_subscriptions", renewals.renew, clock=standing_still(at))


def reset_limits(at: datetime) -> int:
    """One tick of the limits' task; returns of how many periods it opened the limits."""
    return in_batches("reset_plan_limits", renewals.reset_limits, clock=standing_still(at))


def tick(at: datetime) -> tuple[int, int]:
    """One tick of both tasks; returns how many periods each worked on."""
    return renew(at), reset_limits(at)


def without_lock(batch: Callable[[Session, datetime, Worked], bool], at: datetime) -> Worked:
    """A tick without the lock that lets one work at a time: only the guards of the rows that it writes are left."""
    worked, more = Worked(), True
    while more:
        with transaction() as session:
            more = batch(session, at, worked)
    return worked


def noon(day: str) -> datetime:
    """Noon (UTC) of this day."""
    return datetime.fromisoformat(f"{day}T12:00").replace(tzinfo=UTC)


def ledger(account_id: int) -> list[tuple[str, int, int, str]]:
    """The account's ledger from the books: type, amount, balance after it, day."""
    return rows(
        "SELECT transaction_type, amount, balance_after, created_at::date::text FROM credit_transactions "
        "WHERE account_id = :id ORDER BY id",
        id=account_id,
    )


def periods(account_id: int) -> list[tuple[str, str, str, int, int, bool]]:
    """The account's periods: first day, plan, status, credits, credits that are withheld, whether they were granted."""
    return rows(
        "SELECT p.period_start::text, l.slug, p.status, p.credits, p.credits_withheld, p.granted "
        "FROM subscription_periods p JOIN subscriptions s ON s.id = p.subscription_id JOIN plans l ON l.id = p.plan_id "
        "WHERE s.account_id = :id ORDER BY 1",
        id=account_id,
    )


def standing(account_id: int) -> tuple[str, str, str, bool]:
    """How the account's subscription stands: its status, its period, and whether nothing will come."""
    return rows(
        "SELECT status, current_period_start::text, current_period_end::text, renews_at IS NULL FROM subscriptions "
        "WHERE account_id = :id",
        id=account_id,
    )[0]


def findings() -> list[Finding]:
    """What the audit finds."""
    with transaction() as session:
        return audit.audit(session, now=NOON)
