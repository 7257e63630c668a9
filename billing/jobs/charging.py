"""The ledger's steps: check, reserve, settle, refund. Each takes a batch, locks jobs before accounts, and is quiet when
repeated. Provider calls are in `calling`; what happens to work that was lost is in `recovery`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from billing.catalog import catalog, catalog_queries, pricing
from billing.catalog.pricing import Price, Usage, Work
from billing.errors import BillingError, PriceNotConfigured
from billing.jobs import call_queries, job_queries, usage_queries
from billing.jobs.decisions import Limit, Reservation, Standing, decide
from billing.jobs.states import Event, State
from billing.jobs.tables import GenerationJob, GenerationResult, ProviderCall
from billing.ledger import account_queries
from billing.ledger.posting import Books
from billing.ledger.tables import Account
from billing.plans import limits, renewals, subscription_queries
from billing.plans.limits import Allowances
from billing.plans.units import LimitUnit, used_units


@dataclass(frozen=True)
class Release:
    """Why a job's hold is released, in a code and a sentence, and the platform's cost that nobody pays for, in USD."""

    code: str
    message: str


def check(session: Session, job_ids: Sequence[UUID], *, now: datetime) -> list[UUID]:
    """Reject the queued jobs that their account or plan clearly does not cover; returns the jobs that may go on.

    Cheap advice, without a lock and for each job alone: `reserve` decides, also on jobs of accounts that are owed
    a renewal.
    """
    found = job_queries.find(session, job_ids)
    owed = set(subscription_queries.behind(session, {job.account_id for job in found}, now))
    jobs = [job for job in found if job.account_id not in owed]
    allowances = limits.allowances(session, _wanted(jobs), now=now, opening=False)
    accounts = account_queries.find_many(session, {job.account_id for job in jobs})
    decider = _Decider(session, allowances, now=now)
    refused: dict[UUID, BillingError] = {}
    for job in jobs:
        if job.state == State.QUEUED:
            account = accounts[job.account_id]
            outcome = decider.decide(job, account, account.available)
            if isinstance(outcome, BillingError):
                refused[job.id] = outcome
    _reject(session, refused, now=now)
    passing = {State.QUEUED, State.RESERVED}
    return [job.id for job in found if job.state in passing and job.id not in refused]


def reserve(session: Session, job_ids: Sequence[UUID], *, now: datetime, publish_by: timedelta) -> list[UUID]:
    """Hold each queued job's estimate and its plan-limit units, or reject it; returns the jobs that are reserved.

    Jobs are served in the order in which they came. A job that was reserved before is returned again, so that a
    repeated message goes on where the first one stopped.
    """
    jobs = job_queries.lock(session, job_ids, {State.QUEUED})
    accounts = account_queries.lock(session, {job.account_id for job in jobs})
    if renewals.bring_up_to_date(session, accounts, now):
        accounts = account_queries.find_many(session, accounts)
    allowances = limits.allowances(session, _wanted(jobs), now=now)
    decider = _Decider(session, allowances, now=now)
    available = {account_id: account.available for account_id, account in accounts.items()}
    books, granted, refused = Books(), [], {}
    for job in sorted(jobs, key=lambda job: (job.created_at, job.id)):
        outcome = decider.decide(job, accounts[job.account_id], available[job.account_id])
        if isinstance(outcome, BillingError):
            refused[job.id] = outcome
            continue
        available[job.account_id] -= outcome.credits
        books.accounts[job.account_id].reserved += outcome.credits
        allowance = allowances.get((job.account_id, job.limit_type or ""))
        if allowance is not None:
            if allowance.remaining is not None:
                allowance.remaining -= outcome.limit_units
            held = books.limits[(job.account_id, allowance.limit_type, allowance.period_start)]
            held.reserved += outcome.limit_units
            held.allowed = allowance.allowed
        granted.append(
            {
                "id": job.id,
                "price": outcome.price.to_json(),
                "credits_estimated": outcome.credits,
                "credits_reserved": outcome.credits,
                "limit_reserved": outcome.limit_units,
                "limit_period_start": allowance.period_start if allowance else None,
                "reserved_at": now,
                "next_at": now + publish_by,
                "republished": 0,
            }
        )
    _reject(session, refused, now=now)
    moved = job_queries.move(session, Event.RESERVE, granted)
    assert len(moved) == len(granted), "a locked job left its state"
    books.post(session)
    return [job.id for job in job_queries.find(session, job_ids) if job.state == State.RESERVED]


def settle(session: Session, job_ids: Sequence[UUID], *, now: datetime) -> list[UUID]:
    """Charge each generated job for its recorded usage and release the rest of its hold; returns those settled."""
    jobs = job_queries.lock(session, job_ids, {State.GENERATED})
    accounts = account_queries.lock(session, {job.account_id for job in jobs})
    delivered = call_queries.delivered(session, [job.id for job in jobs])
    results = call_queries.results(session, [job.id for job in jobs])
    balances = {account_id: account.balance for account_id, account in accounts.items()}
    books, moves, ledger, log = Books(), [], [], []
    for job in jobs:
        usage = _usage(delivered[job.id])
        price = Price.from_json(job.price or {})
        charge = pricing.charge(usage, price, held=job.credits_reserved)
        balances[job.account_id] -= charge.credits
        books.accounts[job.account_id].balance -= charge.credits
        books.accounts[job.account_id].reserved -= job.credits_reserved
        limit_used = _limit_used(job, usage, results.get(job.id))
        _release_units(books, job, used=limit_used)
        moves.append(
            {
                "id": job.id,
                "credits_charged": charge.credits,
                "credits_overrun": charge.overrun,
                "limit_used": limit_used,
                "finished_at": now,
            }
        )
        ledger.append(_deduction(job, charge.credits, balances[job.account_id], now))
        log.append(_usage_row(job, usage, price, charge.credits, now))
    moved = job_queries.move(session, Event.SETTLE, moves)
    assert len(moved) == len(moves), "a locked job left its state"
    books.post(session)
    account_queries.record(session, ledger)
    usage_queries.log_usage(session, log)
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
    """Give the held credits and plan-limit units of these locked, open jobs back; returns the jobs released.

    What was delivered is refunded only by the event that says so: a write-off.
    """
    account_queries.lock(session, {job.account_id for job in jobs})
    books, moves = Books(), []
    for job in jobs:
        books.accounts[job.account_id].reserved -= job.credits_reserved
        _release_units(books, job, used=0)
        moves.append(
            {
                "id": job.id,
                "error_code": reasons[job.id].code,
                "error_message": reasons[job.id].message,
                "lease_until": None,
                "finished_at": now,
            }
        )
    moved = job_queries.move(session, event, moves)
    assert len(moved) == len(moves), "a locked job left its state"
    books.post(session)
    return [job.id for job in jobs]


def reject(session: Session, job_ids: Sequence[UUID], error: BillingError, *, now: datetime) -> list[UUID]:
    """Reject queued jobs, which hold nothing yet, for one reason; returns the jobs rejected now."""
    return sorted(_reject(session, dict.fromkeys(job_ids, error), now=now))


def _wanted(jobs: Sequence[GenerationJob]) -> set[tuple[int, str]]:
    return {(job.account_id, job.limit_type) for job in jobs if job.limit_type is not None}


class _Decider:
    """Decides the jobs of one batch, from the accounts and allowances that it found."""

    def __init__(self, session: Session, allowances: Allowances, *, now: datetime) -> None:
        self.allowances = allowances
        self.price_of = catalog.price_finder(session, today=now.date())
        self.words_per_100_tokens = catalog_queries.defaults(session).words_per_100_tokens

    def decide(self, job: GenerationJob, account: Account, available: int) -> Reservation | BillingError:
        """Grant or refuse one job whose account has this many credits available."""
        try:
            price = self.price_of(
                job.operation_type, job.model_name, job.params.get("size", ""), job.params.get("quality", "")
            )
        except BillingError as error:
            return error
        work = Work(**job.work)
        if price.kind == "image" and price.rates is not None and not work.max_output_tokens:
            # The model was billed by the image when this was submitted: nobody counted the tokens that it may take.
            return PriceNotConfigured(f"{job.model_name} is billed by the token by now: submit the request again.")
        allowance = self.allowances.get((job.account_id, job.limit_type or ""))
        return decide(
            Standing(account.id, account.balance, available, account.frozen_reason is not None),
            work,
            price,
            None if allowance is None else Limit(allowance.limit_type, _unit(job), allowance.remaining),
            words_per_100_tokens=self.words_per_100_tokens,
        )


def _unit(job: GenerationJob) -> LimitUnit:
    return LimitUnit(job.limit_unit or LimitUnit.REQUESTS)


def _release_units(books: Books, job: GenerationJob, *, used: int) -> None:
    if job.limit_type is not None and job.limit_period_start is not None:
        change = books.limits[(job.account_id, job.limit_type, job.limit_period_start)]
        change.used += used
        change.reserved -= job.limit_reserved


def _reject(session: Session, refused: dict[UUID, BillingError], *, now: datetime) -> set[UUID]:
    rows = [
        {"id": job_id, "error_code": error.code, "error_message": error.message, "finished_at": now}
        for job_id, error in sorted(refused.items())
    ]
    return job_queries.move(session, Event.REJECT, rows)


def _usage(call: ProviderCall) -> Usage:
    assert call.usage is not None, "a call that succeeded has its usage"
    return Usage.from_json(call.usage)


def _limit_used(job: GenerationJob, usage: Usage, result: GenerationResult | None) -> int:
    if job.limit_period_start is None:
        return 0
    words = result.content.get("text") if result is not None else None
    return used_units(_unit(job), usage, words, held=job.limit_reserved)


def _deduction(job: GenerationJob, credits: int, balance_after: int, now: datetime) -> dict[str, Any]:
    return {
        "account_id": job.account_id,
        "transaction_type": "deduction",
        "amount": -credits,
        "balance_after": balance_after,
        "description": f"{job.operation_type} with {job.model_name}",
        "job_id": job.id,
        "idempotency_key": f"settle:{job.id}",
        "created_at": now,
    }


def _usage_row(job: GenerationJob, usage: Usage, price: Price, credits: int, now: datetime) -> dict[str, Any]:
    return {
        "account_id": job.account_id,
        "job_id": job.id,
        "operation_type": job.operation_type,
        "model_used": job.model_name,
        "credits_used": credits,
        "cost_usd": job.cost_usd,
        "price_per_credit_usd": price.price_per_credit_usd,
        "revenue_usd": pricing.revenue(credits, price),
        "tokens_input": usage.input_tokens,
        "tokens_input_cached": usage.cached_input_tokens,
        "tokens_output": usage.output_tokens,
        "tokens_reasoning": usage.reasoning_tokens,
        "images": usage.images,
        "related_object_type": job.related_object_type,
        "related_object_id": job.related_object_id,
        "created_at": now,
    }
