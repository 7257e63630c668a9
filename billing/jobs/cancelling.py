"""Cancelling a job: what is not being sent to its provider can be, and its credits are released."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Session

from billing.errors import NotCancellable, UnknownThing
from billing.jobs import job_queries, recovery, submitting


def cancel(session: Session, job_id: UUID, *, account_id: int | None = None, now: datetime) -> list[UUID]:
    """Cancel a job, of this account where one is given; once more changes nothing.

    Returns the job when parts of it were delivered by then: recovery, for which it is due, has it charged for these.
    Raises NotCancellable, and UnknownThing also for a job of another account.
    """
    if account_id is not None and all(job.account_id != account_id for job in job_queries.find(session, [job_id])):
        raise UnknownThing("job", job_id)
    try:
        submitting.cancel(session, job_id, now=now)
    except NotCancellable:
        return recovery.release_if_reserved(session, job_id, now=now)
    return []
