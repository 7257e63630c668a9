"""Revenue roll-ups: what each day, account, operation and model brought in, and what it cost.

Triggers queue each change of a job, its usage or its exposed calls as a delta, in the transaction that makes it. A tick
adds the deltas up; a rebuild computes days anew from their sources. Either way the same rows come out, exactly.
"""

from __future__ import annotations

from datetime import date, datetime

from sqlalchemy.orm import Session

from billing.reports import revenue_queries

BATCH = 10_000
"""How many queued changes one transaction takes."""


def roll_up(session: Session, *, now: datetime, limit: int = BATCH) -> int:
    """Add up to `limit` queued changes to their roll-ups, the oldest first; returns how many there were.

    Fewer than `limit` means that nothing is left for now. The work depends on the changes alone, not on the history.
    """
    # A second tick, or a rebuild, waits: two at once would not see each other's new rows.
    revenue_queries.lock_rollups(session)
    return revenue_queries.take_changes(session, limit=limit, now=now)


def rebuild(session: Session, first: date, last: date, *, now: datetime) -> int:
    """Compute the roll-ups of the days (UTC) from `first` to `last` anew; returns how many there are.

    The caller gives it a transaction of its own at REPEATABLE READ that has read nothing yet. It then sees sources and
    queue at one moment, after any tick that was under way; a change is in the sources or stays queued, never both.
    """
    # Neither of these two statements takes the snapshot.
    assert revenue_queries.is_one_snapshot(session), "a rebuild needs one snapshot"
    revenue_queries.lock_rollups(session)
    return revenue_queries.replace(session, first, last, now=now)


def days(session: Session) -> tuple[date, date] | None:
    """The first and the last day (UTC) on which anything happened or was rolled up; None when nothing ever did."""
    return revenue_queries.span(session)
