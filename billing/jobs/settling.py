"""How a job's hold ends: it is settled at what was used, or released.

Jobs are locked before accounts, and a repeat changes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from billing.catalog import pricing
from billing.catalog.pricing import Price
from billing.catalog.usage import Usage
from billing.jobs import call_queries, job_queries, locking_queries, usage_queries
from billing.jobs.charging import compute
from billing.jobs.locking_queries import Generated
from billing.jobs.mending import is_by_count
from billing.jobs.states import Event, State
from billing.jobs.tables import GenerationJob
from billing.ledger import posting
from billing.ledger.posting import Change
from billing.plans import limits
from billing.plans.limits import LimitChange
from billing.plans.units import LimitUnit, used_units
from billing.plans.words import count_words
from billing.sql import Part


@dataclass(frozen=True)
class Release:
    """Why a job's hold is released, in a code and a sentence."""

    code: str
    message: str


def settle(session: Session, job_ids: Sequence[UUID], *, now: datetime | None = None) -> list[UUID]:
    """Charge each generated job for its recorded usage and release the rest of its hold; returns those settled.

    `now` is the database's clock unless given.
    """
    jobs, balances, clock = locking_queries.to_settle(session, job_ids)
    if not jobs or clock is None:
        return []
    settled_at = now or clock
    books, moves, ledger, log = _Books(), [], [], []
    for job in jobs:
        assert job.usages, "a generated job has a call that succeeded"
        computed = compute(job.price, job.usages, held=job.credits_reserved)
        usage, price, charge = computed.usage, computed.price, computed.charge
        balances[job.account_id] -= charge.credits
        books.changes[job.account_id].balance -= charge.credits
        books.changes[job.account_id].reserved -= job.credits_reserved
        limit_used = _limit_used(job, usage)
        books.release_units(job, used=limit_used)
        moves.append(
            {
                "id": job.id,
                "credits_charged": charge.credits,
                "credits_overrun": charge.overrun,
                "limit_used": limit_used,
                "finished_at": settled_at,
            }
        )
        ledger.append(_deduction(job, charge.credits, balances[job.account_id], settled_at))
        log.append(_log_row(job, usage, price, charge.credits, settled_at))
    moved, logged = job_queries.moved(Event.SETTLE, moves), usage_queries.logged(log)
    posting.post(session, books.changes, transactions=ledger, beside=[moved, logged, books.counted()])
    return [job.id for job in jobs]


def refund(session: Session, job_ids: Sequence[UUID], *, now: datetime) -> list[UUID]:
    """Release the holds of jobs whose last call failed for good; returns the jobs refunded now.

    The failed call wrote its verdict on the job (`error_code`); without one, the job is left alone.
    """
    jobs = job_queries.lock(session, job_ids, {State.CALLING})
    verdicts = {job.id: verdict for job in jobs if (verdict := verdict_on(session, job)) is not None}
    return release(session, [job for job in jobs if job.id in verdicts], verdicts, now=now)


def verdict_on(session: Session, job: GenerationJob) -> Release | None:
    """Why the last call of an open job failed for good; None when it did not."""
    if job.error_code is None:
        return None
    call = call_queries.latest(session, job.id, job.attempts)
    failed = call is not None and call.outcome == "failed"
    return Release(job.error_code, job.error_message or "") if failed else None


def release(
    session: Session,
    jobs: Sequence[GenerationJob],
    reasons: dict[UUID, Release],
    *,
    now: datetime,
    event: Event = Event.REFUND,
) -> list[UUID]:
    """Release the credits and plan-limit units that these locked, open jobs hold; returns the jobs released.

    A generated job is refunded only by the event WRITE_OFF.
    """
    posting.lock(session, {job.account_id for job in jobs})
    books, moves = _Books(), []
    for job in jobs:
        books.changes[job.account_id].reserved -= job.credits_reserved
        books.release_units(job, used=0)
        moves.append(
            {
                "id": job.id,
                "error_code": reasons[job.id].code,
                "error_message": reasons[job.id].message,
                "lease_until": None,
                "finished_at": now,
            }
        )
    posting.post(session, books.changes, beside=[job_queries.moved(event, moves), books.counted()])
    return [job.id for job in jobs]


class _Books:
    """What one batch does to accounts and plan limits; the caller holds the accounts' locks, which guard both."""

    def __init__(self) -> None:
        self.changes: dict[int, Change] = defaultdict(Change)
        self.units: dict[limits.LimitKey, LimitChange] = defaultdict(LimitChange)

    def release_units(self, job: GenerationJob | Generated, *, used: int) -> None:
        """Release the units that a job holds of its plan limit, except those that it used."""
        if job.limit_type is not None and job.limit_period_start is not None:
            change = self.units[(job.account_id, job.limit_type, job.limit_period_start)]
            change.used += used
            if job.label is not None and used:
                change.labels[job.label] = change.labels.get(job.label, 0) + used
            change.reserved -= job.limit_reserved

    def counted(self) -> Part:
        """The part of a posting that counts the units."""
        return limits.counted(self.units)


def _limit_used(job: Generated, usage: Usage) -> int:
    if job.limit_period_start is None:
        return 0
    words = 0 if job.text is None else count_words(job.text)
    return used_units(LimitUnit(job.limit_unit or LimitUnit.REQUESTS), usage, words, held=job.limit_reserved)


def _deduction(job: Generated, credits: int, balance_after: int, now: datetime) -> dict[str, Any]:
    return {
        "account_id": job.account_id,
        "transaction_type": "deduction",
        "amount": -credits,
        "balance_after": balance_after,
        "description": f"{job.operation_type} with {job.model_name}"
        + (", by count" if is_by_count(job.usage_note) else ""),
        "job_id": job.id,
        "idempotency_key": f"settle:{job.id}",
        "created_at": now,
    }


def _log_row(job: Generated, usage: Usage, price: Price, credits: int, now: datetime) -> dict[str, Any]:
    return {
        "account_id": job.account_id,
        "job_id": job.id,
        "operation_type": job.operation_type,
        "model_used": job.model_name,
        "credits_used": credits,
        "cost_usd": job.cost_usd,
        "price_per_credit_usd": price.price_per_credit_usd,
        "revenue_usd": pricing.revenue(credits, price),
        # Tokens of the special buckets count as plain ones here; the particulars tell them apart.
        "tokens_input": usage.total_input_tokens - usage.cached_input_tokens,
        "tokens_input_cached": usage.cached_input_tokens,
        "tokens_output": usage.total_output_tokens - usage.reasoning_tokens,
        "tokens_reasoning": usage.reasoning_tokens,
        "images": usage.images,
        "metadata": usage.particulars,
        "related_object_type": job.related_object_type,
        "related_object_id": job.related_object_id,
        "created_at": now,
    }
