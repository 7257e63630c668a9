"""How time changes a subscription: its renewals, the end of its trial or of its grace, its cancellation.

A standing is a subscription at one time; `turns` computes what follows from it up to an instant. What holds now is
computed in this way from the standing last written, so a late renewal changes no answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime
from enum import StrEnum
from zoneinfo import ZoneInfo

from billing.periods import Interval, Period, period_from, starts_at


class Status(StrEnum):
    """The status of a subscription. Past due: its payment failed, and its grace runs."""

    TRIALING = "trialing"
    ACTIVE = "active"
    PAST_DUE = "past_due"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Terms:
    """What is subscribed to: the plan, and how long its periods are."""

    plan_id: int
    interval: Interval


@dataclass(frozen=True)
class Standing:
    """A subscription at one time. Days are those of the account's time zone.

    A trial is a period of its own, which ends at the anchor. `grace_until` is the first day on which a subscription
    that is past due is no longer served.
    """

    status: Status
    terms: Terms
    anchor: date
    period: Period
    cancel_at_period_end: bool = False
    next_terms: Terms | None = None
    grace_until: date | None = None

    @property
    def next_turn(self) -> date | None:
        """The day on which time changes something; None when nothing will."""
        if self.status is Status.CANCELLED:
            return None
        return min(self.period.end, self.grace_until or self.period.end)


def turned(standing: Standing) -> Standing:
    """The standing after the next turn: in a new period, or cancelled."""
    out_of_grace = standing.grace_until is not None and standing.grace_until <= standing.period.end
    if out_of_grace or standing.cancel_at_period_end:
        return replace(standing, status=Status.CANCELLED, next_terms=None, grace_until=None)
    terms = standing.next_terms or standing.terms
    return replace(
        standing,
        status=Status.ACTIVE if standing.status is Status.TRIALING else standing.status,
        terms=terms,
        next_terms=None,
        period=period_from(standing.anchor, standing.period.end, terms.interval),
    )


def turns(standing: Standing, until: datetime, zone: ZoneInfo) -> Iterator[tuple[datetime, Standing]]:
    """Each turn up to and including this instant: when it comes, and the standing after it."""
    while (day := standing.next_turn) is not None and (at := starts_at(day, zone)) <= until:
        standing = turned(standing)
        yield at, standing


def as_of(standing: Standing, at: datetime, zone: ZoneInfo) -> Standing:
    """The standing at this instant."""
    *_, (_, last) = [(at, standing), *turns(standing, at, zone)]
    return last
