"""The events that apps may be told of, and when a delivery that failed is tried again. Pure."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

EVENTS = {
    "job.settled": "a job was done and charged",
    "job.refunded": "a job failed for good, and nothing was charged",
    "job.rejected": "a job could not be paid, or not be done",
    "job.cancelled": "a job was cancelled",
    "balance.threshold_crossed": "the balance fell below the endpoint's threshold",
    "limit.threshold_crossed": "the use of a limit of the plan went beyond the endpoint's share of it",
    "period.renewed": "a period of the subscription began",
}
"""Every event by its name, with what it tells."""
PAUSES_S = (5, 30, 120, 600, 1_800, 3_600, 7_200, 14_400)
"""How long a delivery that failed waits for its next try, in seconds; the last one holds for all that follow."""
TRIED_FOR = timedelta(days=3)
JITTER_PERCENT = 20
"""Each pause is up to so much shorter or longer: what failed together is not tried together."""


def unknown(events: Collection[str]) -> list[str]:
    """Those of these names that no event has."""
    return [event for event in events if event not in EVENTS]


def pause(attempts: int, chance: float) -> timedelta:
    """How long a delivery waits that has failed so often; `chance` is from 0 to 1."""
    usual = PAUSES_S[min(max(attempts, 1), len(PAUSES_S)) - 1]
    return timedelta(seconds=usual * (1 + JITTER_PERCENT * (2 * chance - 1) / 100))
