"""Taking: whoever is told that jobs wait takes a batch of them, whichever they are, and marks them as taken.

Takes come one after the other. A take mixes accounts, as many jobs of each, so that one with ten thousand waiting jobs
does not hold up one with a single job; and an account is in one take at a time until its jobs are reserved, so they are
reserved in the order in which they came.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy.orm import Session

from billing.jobs import taking_queries
from billing.jobs.taking_queries import Marked

SIZE = 100
"""Jobs of one take: enough to pay for the way, few enough to hold an account's lock briefly."""


@dataclass(frozen=True)
class Taken:
    """The jobs of one take, in the order in which they came, and those of them that seem not to be covered.

    `shut_out` is how many accounts wait, and are in another take. A take is `complete` when nothing that waited was
    left behind. `last` is the account that was served last.
    """

    job_ids: list[UUID]
    doubted: list[UUID]
    shut_out: int = 0
    complete: bool = False
    last: int = 0


def take(session: Session, *, hold: timedelta, after: int = 0, size: int = SIZE, now: datetime | None = None) -> Taken:
    """Take waiting jobs; until `hold` has passed, recovery leaves them to the taker.

    Accounts are served in the order of their ids, beginning after the account `after`. Jobs that recovery has published
    again are left to their own messages. `now` is the database's clock unless given.
    """
    marked, shut_out, emptied, last = taking_queries.take(session, size=size, hold=hold, after=after, now=now)
    return Taken(*_parted(marked), shut_out=shut_out, complete=emptied and not shut_out, last=last or after)


def take_alone(session: Session, job_ids: Sequence[UUID], *, hold: timedelta, now: datetime | None = None) -> Taken:
    """Take these jobs and no others, those that somebody else has taken too.

    It is for messages that come again: whoever took their jobs may have died of one of them.
    """
    return Taken(*_parted(taking_queries.take_these(session, job_ids, hold=hold, now=now)))


def _parted(marked: Marked) -> tuple[list[UUID], list[UUID]]:
    return [job_id for job_id, _ in marked], [job_id for job_id, doubted in marked if doubted]
