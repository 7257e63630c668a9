"""Calls whose outcome is unknown: the provider is asked, or an operator says what it did and how they know.

Resolving a call has the same consequences as a report of its worker in time; the evidence stays with the call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from billing.catalog import current, pricing
from billing.catalog.pricing import Price
from billing.catalog.usage import Usage, Work
from billing.errors import InvalidRequest, UnknownThing
from billing.jobs import call_queries, calling, concluding, job_queries, parts, policy, story
from billing.jobs.calling import Attempt, Claim, Delivery, Refusal
from billing.jobs.policy import Means, Outcome
from billing.jobs.settling import Release
from billing.jobs.states import State
from billing.jobs.story import JobView
from billing.jobs.tables import GenerationJob, ProviderCall
from billing.paging import Listing, Page

CALLS = Listing("unknown calls", (datetime, UUID))
"""Calls whose outcome is unknown, the oldest first: by when they were made, then by job."""
EVIDENCE_MAX = 2_000


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
"""The evidence of what the provider itself answered, by the means by which it was asked."""
RECOVERY = "recovery"


@dataclass(frozen=True)
class Resolution:
    """What an operator says of a call: the outcome, the evidence and who says it; a delivery has usage and content."""

    outcome: Outcome
    evidence: str
    actor: str
    usage: Usage | None = None
    content: dict[str, Any] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class UnknownCall:
    """A call whose outcome is unknown: when it is given up, and the most that it may cost in USD."""

    job_id: UUID
    account_id: int
    model: str
    kind: str
    provider: str
    attempt: int
    failure: str | None
    provider_request_id: str | None
    idempotency_key: str
    called_at: datetime
    times_asked: int
    given_up_at: datetime
    credits_reserved: int
    worst_cost_usd: Decimal


def find(session: Session, job_id: UUID, *, unknown_wait: timedelta) -> UnknownCall | None:
    """The unknown call of this job, which is given up `unknown_wait` after it became unknown; None without one."""
    for job in job_queries.find(session, [job_id]):
        call = call_queries.latest(session, job.id, job.attempts)
        if job.state == State.UNKNOWN and call is not None:
            return _view(job, call, unknown_wait)
    return None


def oldest(session: Session, *, limit: int, unknown_wait: timedelta, after: str | None = None) -> Page[UnknownCall]:
    """A page of the calls whose outcome is unknown, the oldest first.

    Each is given up `unknown_wait` after it became unknown. `after` is the cursor of the page before; raises
    InvalidRequest for any other.
    """
    found = job_queries.unknown(session, after=CALLS.key(after), limit=limit + 1)
    views = [_view(job, call, unknown_wait) for job, call in found]
    return CALLS.page(views, limit, lambda call: (call.called_at, call.job_id))


def ask(session: Session, job_id: UUID, *, now: datetime, patience: timedelta) -> Claim | None:
    """Record that the provider is asked what became of a job's unknown call; returns that call.

    None when the call is no longer unknown, or when the provider was asked less than `patience` ago.
    """
    for job in job_queries.lock(session, [job_id], {State.UNKNOWN}):
        call = call_queries.latest(session, job.id, job.attempts)
        if call is None or call.outcome != "unknown":
            return None
        if call.asked_at is not None and call.asked_at > now - patience:
            return None
        call_queries.complete(session, call.id, {"asked": call.asked + 1, "asked_at": now})
        return calling.claim_of(job, call, current.read(session))
    return None


def stop_asking(session: Session, job_id: UUID, *, unknown_wait: timedelta) -> None:
    """Stop asking about an unknown outcome that the provider cannot tell: recovery looks at it only to give it up."""
    for job in job_queries.lock(session, [job_id], {State.UNKNOWN}):
        call = call_queries.latest(session, job.id, job.attempts)
        assert call is not None, "only a call can be unknown"
        given_up_at = unknown_since(call) + unknown_wait
        job_queries.postpone(session, [{"id": job.id, "next_at": given_up_at, "republished": job.republished}])


def unknown_since(call: ProviderCall) -> datetime:
    """Since when the outcome of this call has been unknown."""
    assert call.finished_at is not None, "an unknown call is finished"
    return call.finished_at


def resolve(session: Session, job_id: UUID, resolution: Resolution, *, now: datetime, publish_by: timedelta) -> JobView:
    """Resolve an unknown call as an operator says; the job becomes `generated`, or its hold is released.

    A job that was given up meanwhile keeps its refund, and only its cost is corrected. Raises UnknownThing, or
    InvalidRequest when there is nothing to resolve or the resolution lacks something.
    """
    _check(resolution)
    locked = job_queries.lock(session, [job_id], set(State))
    if not locked:
        raise UnknownThing("job", job_id)
    (job,) = locked
    call = call_queries.latest(session, job_id, job.attempts)
    if call is None or call.outcome != "unknown" or call_queries.resolution(session, call.id):
        raise InvalidRequest(f"Job {job_id} has no call whose outcome is unknown.", code="nothing_to_resolve")
    call_queries.keep_resolution(session, call.id, resolution.outcome, resolution.evidence, resolution.actor, now)
    if resolution.outcome is Outcome.DELIVERED:
        _deliver(session, job, resolution, now=now, publish_by=publish_by)
    else:
        _give_up(session, job, call, resolution, now=now)
    return story.views(session, [job_id])[job_id]


def resolve_by_answer(
    session: Session, asked: Attempt, answer: Delivery | Refusal, means: Means, *, now: datetime, publish_by: timedelta
) -> JobView:
    """Resolve an unknown call as its provider answered; a repeat changes nothing.

    The job becomes `generated`, or its hold is released. A job that was given up meanwhile keeps its refund, and only
    its cost is corrected. Returns the job.
    """
    (job,) = job_queries.lock(session, [asked.job_id], set(State))
    call = call_queries.latest(session, asked.job_id, asked.attempt)
    assert call is not None, "only a call that was made is asked about"
    if call.outcome != "unknown" or call_queries.resolution(session, call.id):
        return story.view(job)
    outcome = Outcome.DELIVERED if isinstance(answer, Delivery) else Outcome.NOT_EXECUTED
    call_queries.keep_resolution(session, call.id, outcome, ASKED[means], RECOVERY, now)
    if isinstance(answer, Delivery):
        calling.succeed(session, asked, answer, now=now, publish_by=publish_by)
    else:
        correct_cost(session, job, call, usage=None, executed=False)
        waiting = [job] if job.state == State.UNKNOWN and job.attempts == asked.attempt else []
        reason = Release(answer.failure.value, policy.SENTENCES[answer.failure])
        concluding.end(session, waiting, {job.id: reason}, now=now)
    return story.views(session, [asked.job_id])[asked.job_id]


def expose(session: Session, job: GenerationJob) -> None:
    """Count the most that an unknown call may cost as the platform's exposure, on the call and on the job."""
    call = call_queries.latest(session, job.id, job.attempts)
    if call is None or call.outcome != "unknown" or call.exposure:
        return
    worst = _worst_cost(job)
    call_queries.complete(session, call.id, {"cost_usd": worst, "exposure": True})
    job_queries.sum_cost(session, job.id)


def correct_cost(
    session: Session, job: GenerationJob, call: ProviderCall, *, usage: Usage | None, executed: bool
) -> None:
    """Replace the cost assumed for an unknown call by the one that its resolution tells.

    A call that was executed and not delivered is exposure: the cost of its usage, or the most that it can have cost.
    """
    price = Price.from_json(job.price or {})
    cost = Decimal(0)
    if executed:
        cost = _worst_cost(job) if usage is None else pricing.cost(usage, price)
    reported = {"usage": usage.to_json()} if usage is not None else {}
    outcome = "unknown" if executed else "failed"
    call_queries.complete(session, call.id, {"outcome": outcome, "cost_usd": cost, "exposure": executed, **reported})
    job_queries.sum_cost(session, job.id)


def _check(resolution: Resolution) -> None:
    if (
        not resolution.evidence.strip()
        or len(resolution.evidence) > EVIDENCE_MAX
        or not resolution.evidence.isprintable()
    ):
        raise InvalidRequest(
            f"Say how you know: the evidence has 1 to {EVIDENCE_MAX:,} printable characters.", code="no_evidence"
        )
    if resolution.outcome is Outcome.DELIVERED and (resolution.usage is None or resolution.content is None):
        raise InvalidRequest("A delivery needs its usage and its content.", code="no_delivery")
    if resolution.outcome is Outcome.NOT_EXECUTED and resolution.usage is not None:
        raise InvalidRequest("What was not executed has no usage.", code="invalid_usage")


def _deliver(
    session: Session, job: GenerationJob, resolution: Resolution, *, now: datetime, publish_by: timedelta
) -> None:
    assert resolution.usage is not None
    assert resolution.content is not None
    delivery = Delivery(
        content=resolution.content, usage=resolution.usage, raw_usage={}, request_id=None, finish_reason="resolved"
    )
    calling.succeed(session, Attempt(job.id, job.attempts), delivery, now=now, publish_by=publish_by)


def _give_up(
    session: Session, job: GenerationJob, call: ProviderCall, resolution: Resolution, *, now: datetime
) -> None:
    executed = resolution.outcome is Outcome.EXECUTED
    correct_cost(session, job, call, usage=resolution.usage, executed=executed)
    waiting: Sequence[GenerationJob] = [job] if job.state == State.UNKNOWN else []
    concluding.end(session, waiting, {job.id: RELEASES[resolution.outcome]}, now=now)


def _view(job: GenerationJob, call: ProviderCall, unknown_wait: timedelta) -> UnknownCall:
    return UnknownCall(
        job_id=job.id,
        account_id=job.account_id,
        model=job.model_name,
        kind=job.kind,
        provider=call.provider,
        attempt=call.attempt,
        failure=call.failure,
        provider_request_id=call.provider_request_id,
        idempotency_key=call.idempotency_key,
        called_at=call.started_at,
        times_asked=call.asked,
        given_up_at=unknown_since(call) + unknown_wait,
        credits_reserved=job.credits_reserved,
        worst_cost_usd=_worst_cost(job),
    )


def _worst_cost(job: GenerationJob) -> Decimal:
    """The most that the job's latest call may cost, in USD."""
    work = parts.share(Work(**job.work), job.parts_delivered + 1)
    return pricing.worst_cost(work, Price.from_json(job.price or {}))
