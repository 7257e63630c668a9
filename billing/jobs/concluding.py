"""How a job ends before all was delivered: what its parts delivered is charged, or its hold is released."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Session

from billing.catalog.usage import Work
from billing.jobs import call_queries, job_queries, parts, settling
from billing.jobs.settling import Release
from billing.jobs.states import Event
from billing.jobs.tables import GenerationJob


def end(
    session: Session, jobs: Sequence[GenerationJob], reasons: Mapping[UUID, Release], *, now: datetime
) -> list[UUID]:
    """End these locked, open jobs, for which no further call is made, each for its reason.

    A job of which parts were delivered is concluded: it keeps its hold until it is settled for them, which it is due
    for at once. The hold of any other is released. Returns the jobs that were concluded.
    """
    nothing = [job for job in jobs if not job.parts_delivered]
    settling.release(session, nothing, {job.id: reasons[job.id] for job in nothing}, now=now)
    return conclude(session, [job for job in jobs if job.parts_delivered], reasons, now=now)


def conclude(
    session: Session, jobs: Sequence[GenerationJob], reasons: Mapping[UUID, Release], *, now: datetime
) -> list[UUID]:
    """Ask for no further part of these locked, open jobs, each for its reason: they are to be settled as delivered."""
    rows = [
        {
            "id": job.id,
            "error_code": reasons[job.id].code,
            "error_message": f"{_told(job)} {reasons[job.id].message}",
            "lease_until": None,
            "generated_at": now,
            "next_at": now,
            "republished": 0,
        }
        for job in jobs
    ]
    concluded = sorted(job_queries.move(session, Event.CONCLUDE, rows))
    call_queries.cut_short(session, concluded)
    return concluded


def _told(job: GenerationJob) -> str:
    whole = parts.count(Work(**job.work))
    return f"{job.parts_delivered} of {whole} calls delivered their part, and these are charged."


def write_off(session: Session, jobs: Sequence[GenerationJob]) -> None:
    """Count the cost of what was delivered for these locked jobs as exposure: no customer is charged for it."""
    job_ids = [job.id for job in jobs]
    call_queries.expose_delivered(session, job_ids)
    job_queries.deliver_nothing(session, job_ids)
