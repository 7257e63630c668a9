"""A subscription with its account and its plans, and its standing at an instant."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from billing.ledger.tables import Account
from billing.periods import Interval, Period
from billing.plans.lifecycle import Standing, Status, Terms, as_of
from billing.plans.tables import Plan, Subscription


@dataclass(frozen=True)
class Subscribed:
    """A subscription with its account and its plans: the current one, and the one that takes over from it."""

    account: Account
    row: Subscription
    plan: Plan
    next_plan: Plan | None

    @property
    def zone(self) -> ZoneInfo:
        """The time zone in which the account's days begin and end."""
        return ZoneInfo(self.account.time_zone)

    @property
    def standing(self) -> Standing:
        """The standing as it was last written."""
        return Standing(
            status=Status(self.row.status),
            terms=_terms(self.plan),
            anchor=self.row.anchor_date,
            period=Period(self.row.current_period_start, self.row.current_period_end),
            cancel_at_period_end=self.row.cancel_at_period_end,
            next_terms=None if self.next_plan is None else _terms(self.next_plan),
            grace_until=self.row.grace_until,
        )

    def at(self, now: datetime) -> Standing:
        """The standing now, even when its renewals are late."""
        return as_of(self.standing, now, self.zone)

    def plan_of(self, standing: Standing) -> Plan:
        """The plan of one of this subscription's standings."""
        if self.next_plan is not None and standing.terms.plan_id == self.next_plan.id:
            return self.next_plan
        return self.plan


def _terms(plan: Plan) -> Terms:
    return Terms(plan.id, Interval(plan.billing_interval))
