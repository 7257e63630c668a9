"""Bringing lost work to its end.

What lost its message is published again, what lost its worker becomes unknown, what is past its deadline is given up
and refunded. Several may run at once; each job is looked at by one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy.orm import Session

from billing import calling, charging
from billing.charging import Release
from billing.domain import policy
from billing.domain.errors import InvalidRequest, NotCancellable, UnknownThing
from billing.domain.policy import Failure
from billing.domain.states import State
from billing.store import calls as call_store
from billing.store import jobs as store
from billing.store.tables import GenerationJob

BATCH = 200

EXPIRED = Release("expired", "The job was not finished before its deadline; its credits were released.")
UNRESOLVED = Release(
    "outcome_unknown",
    "Whether the provider did the work could not be found out; the credits were released and the cost is ours.",
)
CANCELLED = Release("cancelled", "The job was cancelled before the provider was called.")


@dataclass
class Recovered:
    """What one run did, as the ids of the jobs; `started`, `called`, `settled`, `refunded` need a message now."""

    started: list[UUID] = field(default_factory=list)
    called: list[UUID] = field(default_factory=list)
    settled: list[UUID] = field(default_factory=list)
    refunded: list[UUID] = field(default_factory=list)
    lost: list[UUID] = field(default_factory=list)
    expired: list[UUID] = field(default_factory=list)
    resolved: list[UUID] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """How many jobs of each sort, without the empty sorts."""
        return {name: len(ids) for name, ids in vars(self).items() if ids}


@dataclass(frozen=True)
class Patience:
    """How long to wait before a message is sent again, and before an unknown outcome is given up."""

    republish_after: timedelta
    unknown_wait: timedelta


Step = Callable[[Session, Recovered, datetime, Patience], None]


def steps() -> list[Step]:
    """The steps of one run; the caller gives each a transaction of its own, so that one cannot undo another."""
    return [_queued, _reserved, _calling, _unknown, _generated]


def release_if_reserved(session: Session, job_id: UUID, *, now: datetime) -> None:
    """Cancel a job that holds credits but was not called yet; raises UnknownThing or NotCancellable."""
    jobs = store.lock(session, [job_id], {State.RESERVED})
    if jobs:
        charging.release(session, jobs, {job_id: CANCELLED}, now=now)
        return
    found = store.find(session, [job_id])
    if not found:
        raise UnknownThing("job", job_id)
    if found[0].error_code != CANCELLED.code and found[0].state != State.CANCELLED:
        raise NotCancellable(job_id, found[0].state)


def _queued(session: Session, done: Recovered, now: datetime, patience: Patience) -> None:
    jobs = store.due(session, State.QUEUED, now=now, limit=BATCH)
    late = [job.id for job in jobs if job.deadline_at <= now]
    expired = InvalidRequest("The job was not started before its deadline.", code=EXPIRED.code)
    done.expired += charging.reject(session, late, expired, now=now)
    done.started += _publish_again(session, [job for job in jobs if job.deadline_at > now], now, patience)


def _reserved(session: Session, done: Recovered, now: datetime, patience: Patience) -> None:
    jobs = store.due(session, State.RESERVED, now=now, limit=BATCH)
    late = [job for job in jobs if job.deadline_at <= now]
    done.expired += charging.release(session, late, {job.id: EXPIRED for job in late}, now=now)
    done.called += _publish_again(session, [job for job in jobs if job.deadline_at > now], now, patience)


def _calling(session: Session, done: Recovered, now: datetime, patience: Patience) -> None:
    """A claim past its lease: its verdict is acted on if it has one; else nobody knows what the provider did."""
    jobs = store.due(session, State.CALLING, now=now, limit=BATCH)
    lost: list[GenerationJob] = []
    retry: list[GenerationJob] = []
    failed: list[GenerationJob] = []
    for job in jobs:
        call = call_store.latest(session, job.id, job.attempts)
        if call is None or call.outcome is None:
            lost.append(job)
        else:
            (failed if job.error_code is not None else retry).append(job)
    calling.lose(session, lost, Failure.WORKER_LOST, now=now, unknown_wait=patience.unknown_wait)
    calling.retry_later(session, retry, now=now)
    done.lost += [job.id for job in lost]
    done.called += [job.id for job in retry]
    done.refunded += _publish_again(session, failed, now, patience)


def _unknown(session: Session, done: Recovered, now: datetime, patience: Patience) -> None:
    """Past the provider's longest time: the customer is refunded, and the estimate stays as our exposure."""
    jobs = store.due(session, State.UNKNOWN, now=now, limit=BATCH)
    for job in jobs:
        calling.expose(session, job)
    done.resolved += charging.release(session, jobs, {job.id: UNRESOLVED for job in jobs}, now=now)


def _generated(session: Session, done: Recovered, now: datetime, patience: Patience) -> None:
    done.settled += _publish_again(session, store.due(session, State.GENERATED, now=now, limit=BATCH), now, patience)


def _publish_again(session: Session, jobs: Sequence[GenerationJob], now: datetime, patience: Patience) -> list[UUID]:
    rows = [
        {
            "id": job.id,
            "next_at": now + policy.republish_delay(job.republished + 1, patience.republish_after),
            "republished": job.republished + 1,
        }
        for job in jobs
    ]
    store.postpone(session, rows)
    return [job.id for job in jobs]
