"""Accounts that are subscribed, and what operators do to them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from billing.plans import plans, subscriptions
from billing.plans.tables import Subscription
from config.database import transaction
from tests.factories import NOON, an_account


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
