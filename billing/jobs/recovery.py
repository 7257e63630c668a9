"""Jobs whose time has come: each is moved on, ended, or named as one that needs its message again.

A job whose worker was lost becomes unknown, one past its deadline is given up and refunded. `tasks.periodic` publishes
the messages. Several may run at once; each job is looked at by one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy.orm import Session

from billing.errors import InvalidRequest, NotCancellable, UnknownThing
from billing.jobs import call_queries, calling, concluding, job_queries, policy, reserving, settling, unknown_calls
from billing.jobs.policy import Failure
from billing.jobs.settling import Release
from billing.jobs.states import Event, State
from billing.jobs.tables import GenerationJob, ProviderCall
from config.database import each_apart

BATCH = 200
LATE = timedelta(minutes=5)
"""How long recovery may take to get to a job that is due, before operators should be told."""

EXPIRED = Release("expired", "The job was not finished before its deadline; its credits were released.")
UNRESOLVED = Release(
    "outcome_unknown",
    "Whether the provider did the work could not be found out; the credits were released and the cost is ours.",
)
CANCELLED = Release("cancelled", "The job was cancelled before the provider was called.")
POISONOUS = Release(
    "worker_lost", "Work on the job ended its worker again and again; it was given up and its credits were released."
)


@dataclass
class Recovered:
    """What one run did, as the ids of the jobs; `started`, `called`, `asked`, `settled`, `refunded` need a message."""

    started: list[UUID] = field(default_factory=list)
    called: list[UUID] = field(default_factory=list)
    asked: list[UUID] = field(default_factory=list)
    settled: list[UUID] = field(default_factory=list)
    refunded: list[UUID] = field(default_factory=list)
    unknown: list[UUID] = field(default_factory=list)
    expired: list[UUID] = field(default_factory=list)
    resolved: list[UUID] = field(default_factory=list)
    # What could not be worked on, each with the name of its error.
    blocked: dict[UUID, str] = field(default_factory=dict)
    # The kind of each job that was looked at: it names the queue of its provider.
    kinds: dict[UUID, str] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """How many jobs of each sort, without the empty sorts."""
        return {name: len(ids) for name, ids in vars(self).items() if ids and name != "kinds"}

    def add(self, other: Recovered) -> None:
        """Count another's jobs too."""
        for name, found in vars(other).items():
            (getattr(self, name).update if isinstance(found, dict) else getattr(self, name).extend)(found)

    def with_kinds(self, job_ids: Sequence[UUID]) -> list[tuple[UUID, str]]:
        """These jobs, each with its kind."""
        return [(job_id, self.kinds[job_id]) for job_id in job_ids]


@dataclass(frozen=True)
class Patience:
    """How long to wait before a message is sent again, or an unknown outcome asked for, and before it is given up."""

    republish_after: timedelta
    unknown_wait: timedelta


@dataclass(frozen=True)
class NextStep:
    """A job, its kind, and what it waits for: start, call, settle or refund."""

    job_id: UUID
    kind: str
    step: str


WAITS_FOR = {State.QUEUED: "start", State.RESERVED: "call", State.GENERATED: "settle"}
"""The step that a job of each state waits for; a job that is being called waits for its refund once it failed."""

Handler = Callable[[Session, Sequence[GenerationJob], Recovered, datetime, Patience], None]
"""Handles due jobs of one state, and adds their ids to a `Recovered`."""


def states() -> list[State]:
    """The states that recovery handles; the caller handles each in a transaction of its own."""
    return list(_HANDLERS)


def recover(session: Session, state: State, done: Recovered, *, now: datetime, patience: Patience) -> None:
    """Move one batch of due jobs of this state on; several runs may go on at once.

    A job that cannot be worked on never blocks the others: it is put off, and its id is in `done.blocked`.
    """
    jobs = job_queries.due(session, state, now=now, limit=BATCH)
    done.kinds |= {job.id: job.kind for job in jobs}

    def handle(some: Sequence[GenerationJob]) -> None:
        mine = Recovered()
        _HANDLERS[state](session, some, mine, now, patience)
        session.flush()
        done.add(mine)

    for job, error in each_apart(session, jobs, handle):
        done.blocked[job.id] = type(error).__name__
        _put_off(session, [job], now, patience)


def give_up(session: Session, job_ids: Sequence[UUID], *, now: datetime) -> list[UUID]:
    """End jobs whose steps kill their worker: nothing is charged, and what was delivered is our cost.

    A job whose call failed for good ends with that verdict. A call that is under way, or whose outcome is unknown,
    keeps its hold: recovery goes on when its lease has ended.
    """
    jobs = job_queries.lock(session, job_ids, {State.QUEUED, State.RESERVED, State.GENERATED, State.CALLING})
    queued = [job.id for job in jobs if job.state == State.QUEUED]
    given_up = reserving.reject(session, queued, InvalidRequest(POISONOUS.message, code=POISONOUS.code), now=now)
    for state, event in ((State.RESERVED, Event.REFUND), (State.GENERATED, Event.WRITE_OFF)):
        these = [job for job in jobs if job.state == state]
        reasons = {job.id: POISONOUS for job in these}
        concluding.write_off(session, these)
        given_up += settling.release(session, these, reasons, now=now, event=event)
    failed = {job.id: verdict for job in jobs if (verdict := settling.verdict_on(session, job)) is not None}
    return given_up + settling.release(session, [job for job in jobs if job.id in failed], failed, now=now)


def next_steps(session: Session, job_ids: Sequence[UUID]) -> list[NextStep]:
    """What each of these jobs waits for; one that waits for nothing, or for an answer, is left out."""
    found = []
    for job in job_queries.find(session, job_ids):
        step = WAITS_FOR.get(State(job.state))
        if step is None and job.state == State.CALLING and job.error_code is not None:
            step = "refund"
        if step is not None:
            found.append(NextStep(job.id, job.kind, step))
    return found


def look_again(session: Session, job_ids: Sequence[UUID], *, now: datetime) -> list[UUID]:
    """Make those of these jobs that wait for a message due for recovery at once; returns their ids."""
    return job_queries.look_again(session, job_ids, now=now)


def overdue(session: Session, *, now: datetime) -> tuple[int, datetime | None]:
    """How many jobs recovery should have looked at five minutes ago, and since when the first of them has waited."""
    return job_queries.overdue(session, before=now - LATE)


def count_unfinished(session: Session) -> dict[str, int]:
    """How many jobs are in each state that is not terminal; a state without jobs counts 0."""
    return job_queries.count_unfinished(session)


def release_if_reserved(session: Session, job_id: UUID, *, now: datetime) -> list[UUID]:
    """Cancel a job that holds credits and is not being called; raises UnknownThing or NotCancellable.

    Returns the job when parts of it were delivered before: it is to be settled for these.
    """
    jobs = job_queries.lock(session, [job_id], {State.RESERVED})
    if jobs:
        return concluding.end(session, jobs, {job_id: CANCELLED}, now=now)
    found = job_queries.find(session, [job_id])
    if not found:
        raise UnknownThing("job", job_id)
    if found[0].error_code != CANCELLED.code and found[0].state != State.CANCELLED:
        raise NotCancellable(job_id, found[0].state)
    return []


def _queued(
    session: Session, jobs: Sequence[GenerationJob], done: Recovered, now: datetime, patience: Patience
) -> None:
    late = [job.id for job in jobs if job.deadline_at <= now]
    expired = InvalidRequest("The job was not started before its deadline.", code=EXPIRED.code)
    done.expired += reserving.reject(session, late, expired, now=now)
    done.started += _put_off(session, [job for job in jobs if job.deadline_at > now], now, patience)


def _reserved(
    session: Session, jobs: Sequence[GenerationJob], done: Recovered, now: datetime, patience: Patience
) -> None:
    late = [job for job in jobs if job.deadline_at <= now]
    concluding.end(session, late, {job.id: EXPIRED for job in late}, now=now)
    done.expired += [job.id for job in late]
    done.called += _put_off(session, [job for job in jobs if job.deadline_at > now], now, patience)


def _calling(
    session: Session, jobs: Sequence[GenerationJob], done: Recovered, now: datetime, patience: Patience
) -> None:
    """A claim past its lease: without a recorded outcome it becomes unknown, else it is refunded or called again."""
    unknown: list[GenerationJob] = []
    retry: list[GenerationJob] = []
    failed: list[GenerationJob] = []
    for job in jobs:
        call = call_queries.latest(session, job.id, job.attempts)
        if call is None or call.outcome is None:
            unknown.append(job)
        else:
            (failed if job.error_code is not None else retry).append(job)
    calling.mark_unknown(session, unknown, Failure.WORKER_LOST, now=now, look_after=patience.republish_after)
    calling.retry_later(session, retry, now=now)
    done.unknown += [job.id for job in unknown]
    done.called += [job.id for job in retry]
    done.refunded += _put_off(session, failed, now, patience)


def _unknown(
    session: Session, jobs: Sequence[GenerationJob], done: Recovered, now: datetime, patience: Patience
) -> None:
    """The provider is asked; after `unknown_wait` the customer is refunded, and the estimate is our exposure."""
    calls = {job.id: call_queries.latest(session, job.id, job.attempts) for job in jobs}
    failed = {job_id: call for job_id, call in calls.items() if call is not None and call.outcome == "failed"}
    # Their worker reported late, with a failure that proves that nothing was done.
    reasons = {job_id: _proven(call) for job_id, call in failed.items()}
    concluding.end(session, [job for job in jobs if job.id in failed], reasons, now=now)
    given_up_at = {
        job_id: unknown_calls.unknown_since(call) + patience.unknown_wait
        for job_id, call in calls.items()
        if call is not None and job_id not in failed
    }
    open_jobs = [job for job in jobs if job.id in given_up_at]
    # Even when recovery runs late, the provider is asked about each call at least once.
    late = [job for job in open_jobs if given_up_at[job.id] <= now and job.republished > 0]
    for job in late:
        unknown_calls.expose(session, job)
    concluding.end(session, late, {job.id: UNRESOLVED for job in late}, now=now)
    done.resolved += [*failed, *(job.id for job in late)]
    by = {job_id: at if at > now else now + patience.republish_after for job_id, at in given_up_at.items()}
    done.asked += _put_off(session, [job for job in open_jobs if job not in late], now, patience, by=by)


def _proven(call: ProviderCall) -> Release:
    assert call.failure is not None, "a failed call has its failure"
    return Release(call.failure, policy.SENTENCES[Failure(call.failure)])


def _generated(
    session: Session, jobs: Sequence[GenerationJob], done: Recovered, now: datetime, patience: Patience
) -> None:
    done.settled += _put_off(session, jobs, now, patience)


def _put_off(
    session: Session,
    jobs: Sequence[GenerationJob],
    now: datetime,
    patience: Patience,
    *,
    by: Mapping[UUID, datetime] | None = None,
) -> list[UUID]:
    """Make these jobs due again, later each time but never after `by`; returns their ids."""
    rows = []
    for job in jobs:
        next_at = now + policy.republish_delay(job.republished + 1, patience.republish_after)
        rows.append(
            {
                "id": job.id,
                "next_at": min(next_at, (by or {}).get(job.id, next_at)),
                "republished": job.republished + 1,
            }
        )
    job_queries.postpone(session, rows)
    return [job.id for job in jobs]


_HANDLERS: Mapping[State, Handler] = {
    State.QUEUED: _queued,
    State.RESERVED: _reserved,
    State.CALLING: _calling,
    State.UNKNOWN: _unknown,
    State.GENERATED: _generated,
}
