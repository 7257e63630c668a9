"""Resolving an unknown outcome: the provider was asked, or somebody found out what it did and says how they know.

The same steps follow as if the worker had learned it in time; the evidence stays with the call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from billing.catalog import pricing
from billing.catalog.pricing import Price, Usage, Work
from billing.errors import InvalidRequest, UnknownThing
from billing.jobs import call_queries, calling, charging, job_queries, policy
from billing.jobs.calling import Attempt, Delivery, Refusal
from billing.jobs.charging import Release
from billing.jobs.policy import Means
from billing.jobs.states import State
from billing.jobs.tables import GenerationJob, ProviderCall

EVIDENCE_MAX = 2_000


class Outcome(StrEnum):
    """What was found out about a call whose outcome was not known."""

    # The work was done and its result is at hand: the customer pays for it.
    DELIVERED = "delivered"
    # The work was done and its result is lost: the cost is ours.
    EXECUTED = "executed"
    # The provider did nothing: nobody pays.
    NOT_EXECUTED = "not_executed"


RELEASES = {
    Outcome.EXECUTED: Release(
        "result_lost", "The provider did the work and its result is lost; the credits were released, the cost is ours."
    ),
    Outcome.NOT_EXECUTED: Release("not_executed", "The provider did not do the work; the credits were released."),
}


ASKED = {
    Means.LOOK_UP: "The provider was asked by the id of the task.",
    Means.RESEND: "The request was sent again under its idempotency key, whose work the provider does once.",
}
"""The evidence of what recovery found out by itself."""
RECOVERY = "recovery"


@dataclass(frozen=True)
class Found:
    """What somebody found out, how they know, and who they are; a delivery comes with its usage and its content."""

    outcome: Outcome
    evidence: str
    actor: str
    usage: Usage | None = None
    content: dict[str, Any] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Open:
    """A call whose outcome is not known: when it is given up, and the most that it may cost in USD."""

    job: GenerationJob
    call: ProviderCall
    given_up_at: datetime
    worst_cost_usd: Decimal


def unresolved(session: Session, *, limit: int, unknown_wait: timedelta) -> list[Open]:
    """The jobs whose outcome is not known, the oldest first; each is given up `unknown_wait` after it was lost."""
    return [
        Open(
            job,
            call,
            given_up_at=calling.lost_since(call) + unknown_wait,
            worst_cost_usd=pricing.worst_cost(Work(**job.work), Price.from_json(job.price or {})),
        )
        for job, call in call_queries.of_unknown_jobs(session, limit=limit)
    ]


def resolve(session: Session, job_id: UUID, found: Found, *, now: datetime, publish_by: timedelta) -> GenerationJob:
    """Write down what was found out, and let follow what follows: a charge, or the release of the hold.

    A job that was given up meanwhile keeps its refund, and only its cost is corrected. Raises UnknownThing, or
    InvalidRequest when there is nothing to resolve or something is missing.
    """
    _check(found)
    locked = job_queries.lock(session, [job_id], set(State))
    if not locked:
        raise UnknownThing("job", job_id)
    (job,) = locked
    call = call_queries.latest(session, job_id, job.attempts)
    if call is None or call.outcome != "unknown" or call_queries.resolution(session, call.id):
        raise InvalidRequest(f"Job {job_id} has no call whose outcome is unknown.", code="nothing_to_resolve")
    call_queries.keep_resolution(session, call.id, found.outcome, found.evidence, found.actor, now)
    if found.outcome is Outcome.DELIVERED:
        _deliver(session, job, found, now=now, publish_by=publish_by)
    else:
        _give_up(session, job, call, found, now=now)
    return job_queries.find(session, [job_id])[0]


def learn(
    session: Session, asked: Attempt, told: Delivery | Refusal, means: Means, *, now: datetime, publish_by: timedelta
) -> GenerationJob:
    """Write down what a provider told of an unknown call, and let follow what follows; a repeat changes nothing.

    A job that was given up meanwhile keeps its refund, and only its cost is corrected. Returns the job.
    """
    (job,) = job_queries.lock(session, [asked.job_id], set(State))
    call = call_queries.latest(session, asked.job_id, asked.attempt)
    assert call is not None, "only a call that was made is asked about"
    if call.outcome != "unknown" or call_queries.resolution(session, call.id):
        return job
    outcome = Outcome.DELIVERED if isinstance(told, Delivery) else Outcome.NOT_EXECUTED
    call_queries.keep_resolution(session, call.id, outcome, ASKED[means], RECOVERY, now)
    if isinstance(told, Delivery):
        calling.succeed(session, asked, told, now=now, publish_by=publish_by)
    else:
        calling.correct_cost(session, job, call, usage=None, executed=False)
        waiting = [job] if job.state == State.UNKNOWN and job.attempts == asked.attempt else []
        reason = Release(told.failure.value, policy.SENTENCES[told.failure])
        charging.release(session, waiting, {job.id: reason}, now=now)
    return job_queries.find(session, [asked.job_id])[0]


def _check(found: Found) -> None:
    if not found.evidence.strip() or len(found.evidence) > EVIDENCE_MAX or not found.evidence.isprintable():
        raise InvalidRequest(
            f"Say how you know: the evidence has 1 to {EVIDENCE_MAX:,} printable characters.", code="no_evidence"
        )
    if found.outcome is Outcome.DELIVERED and (found.usage is None or found.content is None):
        raise InvalidRequest("A delivery needs its usage and its content.", code="no_delivery")
    if found.outcome is Outcome.NOT_EXECUTED and found.usage is not None:
        raise InvalidRequest("What was not executed has no usage.", code="invalid_usage")


def _deliver(session: Session, job: GenerationJob, found: Found, *, now: datetime, publish_by: timedelta) -> None:
    assert found.usage is not None
    assert found.content is not None
    delivery = Delivery(
        content=found.content, usage=found.usage, raw_usage={}, request_id=None, finish_reason="resolved"
    )
    calling.succeed(session, Attempt(job.id, job.attempts), delivery, now=now, publish_by=publish_by)


def _give_up(session: Session, job: GenerationJob, call: ProviderCall, found: Found, *, now: datetime) -> None:
    executed = found.outcome is Outcome.EXECUTED
    calling.correct_cost(session, job, call, usage=found.usage, executed=executed)
    waiting: Sequence[GenerationJob] = [job] if job.state == State.UNKNOWN else []
    charging.release(session, waiting, {job.id: RELEASES[found.outcome]}, now=now)
