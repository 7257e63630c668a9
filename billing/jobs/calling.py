"""Claims on jobs and the evidence of provider calls: one row for each wire call, written before it is made.

Nothing here talks to a provider. `claim` is committed before the call, `succeed` or `fail` after it; the number of the
attempt fences late writers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from billing.catalog import catalog, pricing
from billing.catalog.pricing import Price, Usage
from billing.jobs import call_queries, job_queries, policy
from billing.jobs.policy import Failure, RetryBudget, Verdict
from billing.jobs.states import Event, State
from billing.jobs.tables import GenerationJob, ProviderCall


@dataclass(frozen=True)
class Attempt:
    """One wire call of a job, by its number."""

    job_id: UUID
    attempt: int


@dataclass(frozen=True)
class Claim(Attempt):
    """The right to make one wire call for a job, until the lease ends."""

    call_id: int
    provider: str
    model_name: str
    api: str
    kind: str
    params: dict[str, Any] = field(repr=False)
    max_output_tokens: int
    idempotency_key: str
    # Whether the job's price is by the token: then a delivery without its tokens cannot be billed.
    bills_tokens: bool


@dataclass(frozen=True)
class Delivery:
    """What a provider delivered, and the usage that it reports."""

    content: dict[str, Any] = field(repr=False)
    usage: Usage
    raw_usage: dict[str, Any]
    request_id: str | None
    finish_reason: str | None


@dataclass(frozen=True)
class Refusal:
    """A call that brought no result: why, and what the provider said in codes (never in words: they may quote us)."""

    failure: Failure
    http_status: int | None = None
    provider_code: str | None = None
    request_id: str | None = None
    retry_after: timedelta | None = None
    # A refusal may come after paid work: an answer that the provider's own filter withheld.
    usage: Usage | None = None


def claim(
    session: Session,
    job_id: UUID,
    *,
    now: datetime,
    lease: timedelta,
    claimed_by: UUID | None = None,
    again: int | None = None,
) -> Claim | None:
    """Claim a reserved job for one wire call; None when another caller has it, or it needs no call any more.

    `again` is the number of the caller's own last attempt: the same worker calls once more after a proven failure.
    `claimed_by` is a new UUID for each job that a caller works on. When a commit was not confirmed, the caller claims
    again with the same UUID and gets the claim that it made, while its lease lasts and no outcome is recorded.
    """
    found = job_queries.lock(session, [job_id], {State.RESERVED, State.CALLING})
    if not found:
        return None
    job = found[0]
    if job.state == State.CALLING and job.attempts != again:
        return _own_claim(session, job, claimed_by, now=now)
    attempt = job.attempts + 1
    row = {"id": job.id, "attempts": attempt, "lease_until": now + lease, "next_at": now + lease, "error_code": None}
    if not job_queries.move(session, Event.CLAIM, [row]):
        return None
    call = call_queries.add(
        session,
        {
            "job_id": job.id,
            "attempt": attempt,
            "provider": job.provider,
            "model_name": job.model_name,
            "endpoint": catalog.api_of(session, job.model_name),
            # One key for all attempts: the provider, where it honours keys, then does the work once.
            "idempotency_key": f"creditmill-{job.id}",
            "claimed_by": claimed_by,
            "started_at": now,
        },
    )
    return claim_of(job, call)


def _own_claim(session: Session, job: GenerationJob, claimed_by: UUID | None, *, now: datetime) -> Claim | None:
    call = call_queries.latest(session, job.id, job.attempts)
    if call is None or claimed_by is None or call.claimed_by != claimed_by or call.outcome is not None:
        return None
    lasts = job.lease_until is not None and job.lease_until > now
    return claim_of(job, call) if lasts else None


def claim_of(job: GenerationJob, call: ProviderCall) -> Claim:
    """The claim under which this call of the job is made."""
    return Claim(
        job_id=job.id,
        attempt=call.attempt,
        call_id=call.id,
        provider=job.provider,
        model_name=job.model_name,
        api=call.endpoint,
        kind=job.kind,
        params=job.params,
        max_output_tokens=job.work["max_output_tokens"],
        idempotency_key=call.idempotency_key,
        bills_tokens=Price.from_json(job.price or {}).rates is not None,
    )


def succeed(session: Session, made: Attempt, delivery: Delivery, *, now: datetime, publish_by: timedelta) -> bool:
    """Record what was delivered and its cost; False when the job was given up meanwhile and nobody pays for it."""
    (job,) = job_queries.lock(session, [made.job_id], set(State))
    call = call_queries.latest(session, made.job_id, made.attempt)
    assert call is not None, "the call was written before it was made"
    if call.outcome == "succeeded":
        return not call.exposure
    row = {
        "id": job.id,
        "attempts": made.attempt,
        "lease_until": None,
        "generated_at": now,
        "next_at": now + publish_by,
        "republished": 0,
        "error_code": None,
        "error_message": None,
    }
    on_time = bool(job_queries.move(session, Event.GENERATE, [row]))
    call_queries.complete(
        session,
        call.id,
        {
            "outcome": "succeeded",
            "failure": None,
            "finished_at": now,
            "http_status": 200,
            "provider_request_id": delivery.request_id,
            "usage": delivery.usage.to_json(),
            "raw_usage": delivery.raw_usage,
            # The cost of the usage replaces the one assumed for an unknown outcome.
            "cost_usd": pricing.cost(delivery.usage, Price.from_json(job.price or {})),
            "exposure": not on_time,
        },
    )
    job_queries.sum_cost(session, job.id)
    if on_time:
        call_queries.keep_result(session, job.id, delivery.content, delivery.finish_reason)
    return on_time


def fail(
    session: Session, claim: Claim, refusal: Refusal, *, now: datetime, budget: RetryBudget, look_after: timedelta
) -> Verdict | None:
    """Record why a call brought no result, and decide what follows; None when the claim no longer decides it.

    RETRY leaves the job claimed, for another call or a `postpone`. REFUND leaves it with its verdict written, for the
    refund step. UNKNOWN keeps the hold; recovery looks at it `look_after` from now.
    """
    (job,) = job_queries.lock(session, [claim.job_id], set(State))
    call = call_queries.latest(session, claim.job_id, claim.attempt)
    assert call is not None, "the call was written before it was made"
    if call.outcome == "succeeded" or call_queries.resolution(session, call.id):
        # The call was delivered or resolved: a later failure report does not overwrite that.
        return None
    decided = policy.verdict(refusal.failure, attempts=claim.attempt, budget=budget)
    if decided is Verdict.UNKNOWN and call.outcome == "failed":
        # A later report of an unknown outcome does not overwrite a recorded failure.
        return None
    # A repeated report keeps the time of the first: the outcome has been unknown since then.
    finished_at = call.finished_at if call.outcome == "unknown" and call.finished_at is not None else now
    _finish_call(session, call.id, refusal, unknown=decided is Verdict.UNKNOWN, now=finished_at)
    if decided is not Verdict.UNKNOWN:
        _count_cost(session, job, claim, refusal.usage)
    if job.state != State.CALLING or job.attempts != claim.attempt:
        return None
    if decided is Verdict.UNKNOWN:
        mark_unknown(session, [job], refusal.failure, now=now, look_after=look_after)
    elif decided is Verdict.REFUND:
        exhausted = policy.VERDICTS[refusal.failure] is Verdict.RETRY
        code = "retries_exhausted" if exhausted else refusal.failure.value
        tries = f" It was tried {claim.attempt} times." if exhausted else ""
        job_queries.note_verdict(session, job.id, code, policy.SENTENCES[refusal.failure] + tries, due=now)
    return decided


def mark_unknown(
    session: Session, jobs: list[GenerationJob], failure: Failure, *, now: datetime, look_after: timedelta
) -> None:
    """Move locked jobs to `unknown`, and record the outcome of their open calls as unknown."""
    rows = [
        {
            "id": job.id,
            "attempts": job.attempts,
            "lease_until": None,
            "next_at": now + look_after,
            "republished": 0,
            "error_code": "outcome_unknown",
            "error_message": policy.SENTENCES[failure],
        }
        for job in jobs
    ]
    for job in jobs:
        call = call_queries.latest(session, job.id, job.attempts)
        if call is not None and call.outcome is None:
            _finish_call(session, call.id, Refusal(failure), unknown=True, now=now)
    job_queries.move(session, Event.MARK_UNKNOWN, rows)


def retry_later(session: Session, jobs: list[GenerationJob], *, now: datetime) -> None:
    """Make locked jobs `reserved` again whose last call was proven not executed and whose worker was lost."""
    job_queries.move(
        session,
        Event.RETRY,
        [{"id": job.id, "attempts": job.attempts, "lease_until": None, "next_at": now} for job in jobs],
    )


def postpone(session: Session, claim: Claim, *, until: datetime) -> bool:
    """Give a claim back after a proven failure: the job is reserved again and due at `until`."""
    rows = [
        {
            "id": job.id,
            "attempts": claim.attempt,
            "lease_until": None,
            # However long the provider asks us to wait, the hold ends with the deadline.
            "next_at": min(until, job.deadline_at),
            "republished": 0,
        }
        for job in job_queries.lock(session, [claim.job_id], {State.CALLING})
    ]
    return bool(job_queries.move(session, Event.RETRY, rows))


def write_off(session: Session, jobs: Sequence[GenerationJob]) -> None:
    """Count the cost of what was delivered for these locked jobs as exposure: no customer is charged for it."""
    for call in call_queries.delivered(session, [job.id for job in jobs]).values():
        call_queries.complete(session, call.id, {"exposure": True})


def _count_cost(session: Session, job: GenerationJob, claim: Claim, usage: Usage | None) -> None:
    """Record the cost that the provider reports for a refused call, else 0, in place of one assumed as exposure."""
    cost = Decimal(0) if usage is None else pricing.cost(usage, Price.from_json(job.price or {}))
    used = None if usage is None else usage.to_json()
    call_queries.complete(session, claim.call_id, {"cost_usd": cost, "usage": used, "exposure": False})
    job_queries.sum_cost(session, job.id)


def _finish_call(session: Session, call_id: int, refusal: Refusal, *, unknown: bool, now: datetime) -> None:
    call_queries.complete(
        session,
        call_id,
        {
            "outcome": "unknown" if unknown else "failed",
            "failure": refusal.failure.value,
            "finished_at": now,
            "http_status": refusal.http_status,
            "provider_code": refusal.provider_code,
            "provider_request_id": refusal.request_id,
        },
    )
