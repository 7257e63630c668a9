"""How many unfinished jobs there may be, of one account and of all; a request beyond that is refused.

Counting takes as long as there are jobs to count. So a process that finds much room left adds jobs for a moment without
counting again: what it may add is so little of that room that the bound holds closely, however many processes submit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from billing.catalog.snapshot import Defaults
from billing.errors import TooManyOpenJobs

SHARE = 16
"""A process adds one part in so many of the room that it found, before it counts again."""
COUNT_HOLDS = timedelta(seconds=1)
REMEMBERED = 10_000
"""Accounts whose room a process remembers at most."""

ALL = None
"""Stands for all accounts together, where an account's id could stand."""


@dataclass
class _Room:
    limit: int
    left: int
    counted_at: datetime


_rooms: dict[int | None, _Room] = {}


def to_count(new: Mapping[int, int], bounds: Defaults, *, now: datetime) -> list[int | None]:
    """Whose unfinished jobs have to be counted before these are added, given as new jobs by account.

    Those of the others fit into the room that was found a moment ago, and are taken from it.
    """
    asked: dict[int | None, int] = {ALL: sum(new.values())}
    for account_id, jobs in new.items():
        asked[account_id] = jobs
    return [whose for whose, jobs in asked.items() if not _take(whose, jobs, _limit(whose, bounds), now)]


def check(new: Mapping[int, int], open_jobs: Mapping[int | None, int], bounds: Defaults, *, now: datetime) -> None:
    """Raise TooManyOpenJobs when these new jobs, by account, come on top of too many that were counted as open.

    `open_jobs` holds those that had to be counted, each up to its bound.
    """
    if len(_rooms) > REMEMBERED:
        _rooms.clear()
    for whose, counted in sorted(open_jobs.items(), key=lambda each: (each[0] is ALL, each[0] or 0)):
        asked = sum(new.values()) if whose is ALL else new.get(whose, 0)
        limit = _limit(whose, bounds)
        if asked and counted + asked > limit:
            raise TooManyOpenJobs("This installation" if whose is ALL else f"Account {whose}", asked=asked, limit=limit)
        _rooms[whose] = _Room(limit, (limit - counted - asked) // SHARE, now)


def _take(whose: int | None, jobs: int, limit: int, now: datetime) -> bool:
    room = _rooms.get(whose)
    fresh = room is not None and room.limit == limit and timedelta(0) <= now - room.counted_at < COUNT_HOLDS
    if room is None or not fresh or room.left < jobs:
        return False
    room.left -= jobs
    return True


def _limit(whose: int | None, bounds: Defaults) -> int:
    return bounds.max_open_jobs if whose is ALL else bounds.max_open_jobs_per_account
