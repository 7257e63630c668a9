"""Simulations of accounts, and what a tick then does to them."""

from __future__ import annotations

from datetime import date, timedelta
from zoneinfo import ZoneInfo

from billing.money import CREDITS_MAX
from billing.reports import forecast
from config.database import transaction
from tests.factories import NOON, a_reserved_job, rows
from tests.subscribers import a_plan, a_subscriber, act

DAY = timedelta(days=1)
HALF = CREDITS_MAX // 2 + 1
"""More than half of the credits that an account can hold."""


def simulate(account_id, *, months=3, now=NOON):
    with transaction(read_only=True, isolation="REPEATABLE READ") as session:
        return forecast.simulate(session, account_id, months=months, now=now)


def account_zone():
    ((name,),) = rows("SELECT time_zone FROM accounts")
    return ZoneInfo(name)


def a_full_account():
    """An account for which much can happen, and some is overdue: a move to another plan, a grace, a hold."""
    a_plan()
    a_plan("pro", included_credits="900")
    account_id = a_subscriber(credits=100, anchor=date(2026, 10, 21), now=NOON - 30 * DAY)
    act("subscribe", account_id, "pro", at_period_end=True, now=NOON - 30 * DAY)
    act("past_due", account_id, grace_days=60, now=NOON - 29 * DAY)
    a_reserved_job(account_id)
    return account_id
