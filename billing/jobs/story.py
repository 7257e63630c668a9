"""The story of one job, put together from its own rows: each step with its time, attempt, credits and cost."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from billing.errors import UnknownThing
from billing.jobs import call_queries, job_queries
from billing.jobs.states import State
from billing.jobs.tables import GenerationJob, ProviderCall
from billing.ledger import account_queries
from billing.ledger.tables import CreditTransaction
from billing.upkeep import dead_letter_queries


@dataclass(frozen=True)
class Entry:
    """One step of a job. Credits are what the step did to the account; cost is USD owed to the provider."""

    at: datetime
    step: str
    detail: str
    attempt: int | None = None
    credits: int | None = None
    cost_usd: Decimal | None = None


@dataclass(frozen=True)
class Story:
    """A job with everything that happened to it."""

    job: GenerationJob
    entries: list[Entry]
    content: dict[str, Any] | None


def tell(session: Session, job_id: UUID) -> Story:
    """The story of this job; raises UnknownThing, with the reason where its request was set aside."""
    found = job_queries.find(session, [job_id])
    if not found:
        refused = dead_letter_queries.of_job(session, job_id)
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
    for row in account_queries.transactions_of_job(session, job_id):
        entries.append(_of_transaction(row, job))
    if job.finished_at is not None and job.state != State.SETTLED:
        entries.append(_ending(job))
    results = call_queries.results(session, [job_id])
    content = results[job_id].content if job_id in results else None
    return Story(job, sorted(entries, key=lambda entry: entry.at), content)


def _of_call(call: ProviderCall) -> list[Entry]:
    entries = [Entry(call.started_at, "calling", f"{call.provider} {call.endpoint}", attempt=call.attempt)]
    if call.finished_at is None:
        return entries
    if call.outcome == "succeeded":
        detail = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in (call.usage or {}).items() if n)
    else:
        detail = " ".join(str(part) for part in (call.failure, call.http_status, call.provider_code) if part)
    if call.exposure:
        detail += " (cost is ours)"
    step = {"succeeded": "generated", "failed": "failed", "unknown": "unknown"}[call.outcome or ""]
    return [*entries, Entry(call.finished_at, step, detail, attempt=call.attempt, cost_usd=call.cost_usd)]


def _of_transaction(row: CreditTransaction, job: GenerationJob) -> Entry:
    beyond = f"; {job.credits_overrun:,} credits beyond the reservation are ours" if job.credits_overrun else ""
    return Entry(row.created_at, "settled", f"balance after: {row.balance_after:,}{beyond}", credits=row.amount)


def _ending(job: GenerationJob) -> Entry:
    assert job.finished_at is not None
    released = -job.credits_reserved if job.state == State.REFUNDED else None
    return Entry(job.finished_at, job.state, job.error_message or "", credits=released)
