"""Jobs as they are shown: one line each, the receipt of a charge, and the whole story of one from its own rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from billing.errors import UnknownThing
from billing.jobs import call_queries, job_queries, mending
from billing.jobs.states import State
from billing.jobs.tables import GenerationJob, ProviderCall
from billing.ledger import accounts
from billing.ledger.tables import CreditTransaction
from billing.paging import Listing, Page
from billing.upkeep import dead_letters

JOBS = Listing("jobs", (datetime, UUID))
"""Jobs, the newest first: by when they were created, then by id."""


@dataclass(frozen=True)
class JobView:
    """A job as it is shown: amounts in credits, the provider's cost in USD. Its prompt is not part of it."""

    job_id: UUID
    account_id: int
    operation: str
    model: str
    state: str
    credits_estimated: int | None
    credits_reserved: int
    credits_charged: int | None
    credits_overrun: int
    cost_usd: Decimal
    attempts: int
    idempotency_key: str
    error_code: str | None
    error_message: str | None
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True)
class Entry:
    """One step of a job. Credits are what the step did to the account; cost is USD owed to the provider."""

    at: datetime
    step: str
    detail: str
    attempt: int | None = None
    credits: int | None = None
    cost_usd: Decimal | None = None
    # How the provider's report of the usage was mended, in codes.
    usage_note: str | None = None


@dataclass(frozen=True)
class Story:
    """A job with everything that happened to it."""

    job: JobView
    entries: list[Entry]
    content: dict[str, Any] | None


def views(session: Session, job_ids: Iterable[UUID]) -> dict[UUID, JobView]:
    """These jobs as they are now, by their ids; an id that no job has is left out."""
    return {job.id: view(job) for job in job_queries.find(session, job_ids)}


def result(session: Session, job_id: UUID) -> dict[str, Any] | None:
    """What was generated for this job; None when nothing was (yet)."""
    found = call_queries.results(session, [job_id])
    return found[job_id].content if job_id in found else None


def newest(
    session: Session, *, account_id: int | None, state: str | None, limit: int, after: str | None = None
) -> Page[JobView]:
    """A page of jobs, the newest first, of one account and in one state where these are given.

    `after` is the cursor of the page before; raises InvalidRequest for any other.
    """
    behind = JOBS.key(after)
    found = job_queries.newest(session, account_id=account_id, state=state, after=behind, limit=limit + 1)
    return JOBS.page([view(job) for job in found], limit, lambda job: (job.created_at, job.job_id))


def view(job: GenerationJob) -> JobView:
    """The job as it is shown."""
    return JobView(
        job_id=job.id,
        account_id=job.account_id,
        operation=job.operation_type,
        model=job.model_name,
        state=job.state,
        credits_estimated=job.credits_estimated,
        credits_reserved=job.credits_reserved,
        credits_charged=job.credits_charged,
        credits_overrun=job.credits_overrun,
        cost_usd=job.cost_usd,
        attempts=job.attempts,
        idempotency_key=job.idempotency_key,
        error_code=job.error_code,
        error_message=job.error_message,
        created_at=job.created_at,
        finished_at=job.finished_at,
    )


def tell(session: Session, job_id: UUID) -> Story:
    """The story of this job; raises UnknownThing, with the reason where its request was set aside."""
    found = job_queries.find(session, [job_id])
    if not found:
        refused = dead_letters.of_job(session, job_id)
        if refused is not None:
            error = UnknownThing("job", job_id)
            error.message = f"The request for job {job_id} was set aside: {refused.reason} [{refused.code}]"
            raise error
        raise UnknownThing("job", job_id)
    job = found[0]
    entries = [Entry(job.created_at, "queued", f"{job.operation_type} with {job.model_name}")]
    if job.reserved_at is not None:
        entries.append(Entry(job.reserved_at, "reserved", "the estimate is held", credits=job.credits_reserved))
    for call in call_queries.of_job(session, job_id):
        entries += _of_call(call)
        resolved = call_queries.resolution(session, call.id)
        if resolved is not None:
            detail = f"{resolved.outcome.replace('_', ' ')}, by {resolved.actor}: {resolved.evidence}"
            entries.append(Entry(resolved.resolved_at, "resolved", detail, attempt=call.attempt))
    for row in accounts.transactions_of_job(session, job_id):
        entries.append(_of_transaction(row, job))
    if job.finished_at is not None and job.state != State.SETTLED:
        entries.append(_ending(job))
    results = call_queries.results(session, [job_id])
    content = results[job_id].content if job_id in results else None
    return Story(view(job), sorted(entries, key=lambda entry: entry.at), content)


def _of_call(call: ProviderCall) -> list[Entry]:
    entries = [Entry(call.started_at, "calling", f"{call.provider} {call.endpoint}", attempt=call.attempt)]
    if call.finished_at is None:
        return entries
    if call.outcome == "succeeded":
        detail = _used(call.usage or {})
    else:
        detail = " ".join(str(part) for part in (call.failure, call.http_status, call.provider_code) if part)
    if call.exposure:
        detail += " (cost is ours)"
    if call.usage_note:
        detail += f" ({'; '.join(mending.sentences(call.usage_note))})"
    if call.reported_cost_usd is not None and call.reported_cost_usd != call.cost_usd:
        detail += f" (the provider reports a cost of {call.reported_cost_usd.normalize():f} USD)"
    step = {"succeeded": "generated", "failed": "failed", "unknown": "unknown"}[call.outcome or ""]
    told = Entry(call.finished_at, step, detail, call.attempt, cost_usd=call.cost_usd, usage_note=call.usage_note)
    return [*entries, told]


def _used(usage: dict[str, Any]) -> str:
    counts = [f"{n} {name.replace('_', ' ')}" for name, n in usage.items() if n and name != "service_tier"]
    tier = [f"{usage['service_tier']} tier"] if usage.get("service_tier") else []
    return ", ".join(counts + tier)


def _of_transaction(row: CreditTransaction, job: GenerationJob) -> Entry:
    beyond = f"; {job.credits_overrun:,} credits beyond the reservation are ours" if job.credits_overrun else ""
    return Entry(row.created_at, "settled", f"balance after: {row.balance_after:,}{beyond}", credits=row.amount)


def _ending(job: GenerationJob) -> Entry:
    assert job.finished_at is not None
    released = -job.credits_reserved if job.state == State.REFUNDED else None
    return Entry(job.finished_at, job.state, job.error_message or "", credits=released)
