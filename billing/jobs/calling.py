"""Claims on jobs and the evidence of provider calls: one row for each wire call, written before it is made.

Nothing here talks to a provider. `claim` is committed before the call, `succeed` or `fail` after it; the number of the
attempt fences late writers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from billing.catalog import pricing
from billing.catalog.snapshot import Catalog, Moment
from billing.catalog.usage import Usage, Work
from billing.jobs import call_queries, claim_queries, concluding, job_queries, locking_queries, parts, policy
from billing.jobs.locking_queries import Called, Made
from billing.jobs.policy import Failure, RetryBudget, Verdict
from billing.jobs.requests import PARAMS
from billing.jobs.settling import Release
from billing.jobs.states import Event, State, leaving, target
from billing.jobs.tables import GenerationJob, ProviderCall
from billing.sql import Part

KINDS = tuple(PARAMS)
"""The kinds of work: text, image, embedding."""


@dataclass(frozen=True)
class Attempt:
    """One wire call of a job, by its number."""

    job_id: UUID
    attempt: int


@dataclass(frozen=True)
class Wanted:
    """A job to be claimed: by whom, and the number of the caller's own last attempt when it calls again."""

    job_id: UUID
    claimed_by: UUID | None = None
    again: int | None = None


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
    # How many images this call is asked for, which may be a part of those of the job.
    images: int
    idempotency_key: str
    # Whether the job's price is by the token: then a delivery without its tokens cannot be billed.
    bills_tokens: bool
    # What the texts of an answer are counted with where it does not tell its usage; None where that is not known.
    tokenizer: str | None = None


@dataclass(frozen=True)
class Delivery:
    """What a provider delivered, the usage that is charged for it, and what the provider said of its usage and cost.

    `usage_note` holds the rules by which the usage was mended, as `billing.jobs.mending` keeps them.
    """

    content: dict[str, Any] = field(repr=False)
    usage: Usage
    raw_usage: dict[str, Any] | None
    request_id: str | None
    finish_reason: str | None
    usage_note: str | None = None
    reported_cost_usd: Decimal | None = None


@dataclass(frozen=True)
class Refusal:
    """A call that brought no result: why, and what the provider said in codes (never in words: they may quote us).

    The one exception is `reason`: what the model itself answered instead of a result, which the customer is told.
    """

    failure: Failure
    http_status: int | None = None
    provider_code: str | None = None
    request_id: str | None = None
    retry_after: timedelta | None = None
    # A refusal may come after paid work: an answer that the provider's own filter withheld.
    usage: Usage | None = None
    raw_usage: dict[str, Any] | None = None
    usage_note: str | None = None
    reported_cost_usd: Decimal | None = None
    reason: str | None = field(default=None, repr=False)


def claim(
    session: Session,
    job_id: UUID,
    *,
    at: Moment,
    lease: timedelta,
    claimed_by: UUID | None = None,
    again: int | None = None,
) -> Claim | None:
    """Claim a reserved job for one wire call, as `claim_many` does; None when it cannot be claimed."""
    leases = dict.fromkeys(KINDS, lease)
    return claim_many(session, [Wanted(job_id, claimed_by, again)], at=at, leases=leases).get(job_id)


def claim_many(
    session: Session, wanted: Sequence[Wanted], *, at: Moment, leases: Mapping[str, timedelta]
) -> dict[UUID, Claim]:
    """Claim reserved jobs, each for one wire call, for as long as the lease of their kind; returns the claims by job.

    A job that another caller has, or that needs no call any more, is left out. `again` is the number of the caller's
    own last attempt: the same worker calls once more after a proven failure. `claimed_by` is a new UUID for each job
    that a caller works on. When a commit was not confirmed, the caller claims again with the same UUID and gets the
    claim that it made, while its lease lasts and no outcome is recorded.
    """
    until = {kind: at.now + lease for kind, lease in leases.items()}
    apis = {name: model.api for name, model in at.catalog.models.items()}
    rows = claim_queries.claim(session, [asdict(each) for each in wanted], now=at.now, leases=until, apis=apis)
    claims = {row["id"]: _claim(row, at.catalog) for row in rows}
    others = [asdict(each) for each in wanted if each.job_id not in claims]
    if others:
        claims |= {row["id"]: _claim(row, at.catalog) for row in claim_queries.claimed_by(session, others, now=at.now)}
    return claims


def claim_of(job: GenerationJob, call: ProviderCall, catalog: Catalog) -> Claim:
    """The claim under which this call of the job is made."""
    of_job = {name: getattr(job, name) for name in _OF_JOB}
    of_call = {name: getattr(call, name) for name in ("endpoint", "idempotency_key")}
    return _claim({**of_job, **of_call, "attempts": call.attempt, "call_id": call.id}, catalog)


_OF_JOB = ("id", "provider", "model_name", "kind", "params", "work", "parts_delivered", "price")


def _claim(row: Mapping[str, Any], catalog: Catalog) -> Claim:
    model = catalog.models.get(row["model_name"])
    work = parts.share(Work(**row["work"]), row["parts_delivered"] + 1)
    return Claim(
        job_id=row["id"],
        attempt=row["attempts"],
        call_id=row["call_id"],
        provider=row["provider"],
        model_name=row["model_name"],
        api=row["endpoint"],
        kind=row["kind"],
        params=row["params"],
        max_output_tokens=work.max_output_tokens,
        images=work.images,
        idempotency_key=row["idempotency_key"],
        bills_tokens=pricing.Price.from_json(row["price"] or {}).rates is not None,
        tokenizer=None if model is None else model.tokenizer,
    )


def succeed(
    session: Session, made: Attempt, delivery: Delivery, *, now: datetime | None = None, publish_by: timedelta
) -> State | None:
    """Record what was delivered and its cost, as `succeed_many` does."""
    (state,) = succeed_many(session, [(made, delivery)], now=now, publish_by=publish_by)
    return state


def succeed_many(
    session: Session,
    delivered: Sequence[tuple[Attempt, Delivery]],
    *,
    now: datetime | None = None,
    publish_by: timedelta,
) -> list[State | None]:
    """Record what was delivered for these jobs, each for another one, and its cost.

    Returns for each the state that it leads to: GENERATED, or RESERVED where the next part is to be asked for; None
    when the job was given up meanwhile, so that nobody pays for it. A repeat changes nothing. `now` is the database's
    clock unless given.
    """
    jobs, clock = locking_queries.to_record(session, [made.job_id for made, _ in delivered])
    states, deliveries = [], _Deliveries(now or clock, publish_by)
    for made, delivery in delivered:
        job = jobs[made.job_id]
        call = job.calls[made.attempt]
        if call.outcome != "succeeded":
            states.append(deliveries.add(job, call, delivery))
        elif call.exposure:
            states.append(None)
        else:
            states.append(State.RESERVED if job.state == State.RESERVED else State.GENERATED)
    call_queries.write(session, deliveries.parts())
    return states


class _Deliveries:
    """The rows that one batch of deliveries writes."""

    def __init__(self, now: datetime, publish_by: timedelta) -> None:
        self._now = now
        self._publish_by = publish_by
        self._moves: dict[Event, list[dict[str, Any]]] = {Event.GENERATE: [], Event.CONTINUE: []}
        self._late: list[dict[str, Any]] = []
        self._calls: list[dict[str, Any]] = []
        self._first: list[dict[str, Any]] = []
        self._further: list[dict[str, Any]] = []

    def add(self, job: Called, call: Made, delivery: Delivery) -> State | None:
        """Add one delivery; returns the state that it leads to, None when it did not come to the job's latest call."""
        in_time = State(job.state) in leaving(Event.GENERATE) and job.attempts == call.attempt
        # The cost of the usage replaces the one assumed for an unknown outcome.
        cost = pricing.cost(delivery.usage, pricing.Price.from_json(job.price or {}))
        costs = {"id": job.id, "cost_usd": cost + job.cost_of_others(call)}
        self._calls.append(self._ended(call, delivery, cost, exposure=not in_time))
        if not in_time:
            self._late.append(costs)
            return None
        result = {"job_id": job.id, "content": delivery.content, "finish_reason": delivery.finish_reason}
        (self._further if job.parts_delivered else self._first).append(result)
        number = job.parts_delivered + 1
        event = Event.GENERATE if number >= parts.count(Work(**job.work)) else Event.CONTINUE
        self._moves[event].append(costs | self._moved(call.attempt) | {"parts_delivered": number})
        return target(event)

    def parts(self) -> list[Part]:
        """What is written, by one statement."""
        return [
            *(job_queries.moved(event, moves) for event, moves in self._moves.items()),
            job_queries.costed(self._late),
            call_queries.completed(self._calls),
            call_queries.kept(self._first),
            call_queries.added(self._further),
        ]

    def _ended(self, call: Made, delivery: Delivery, cost: Decimal, *, exposure: bool) -> dict[str, Any]:
        return {
            "id": call.id,
            "outcome": "succeeded",
            "failure": None,
            "finished_at": self._now,
            "http_status": 200,
            "provider_request_id": delivery.request_id,
            "usage": delivery.usage.to_json(),
            "raw_usage": delivery.raw_usage,
            "usage_note": delivery.usage_note,
            "cost_usd": cost,
            "reported_cost_usd": delivery.reported_cost_usd,
            "exposure": exposure,
        }

    def _moved(self, attempt: int) -> dict[str, Any]:
        return {
            "attempts": attempt,
            "lease_until": None,
            "generated_at": self._now,
            "next_at": self._now + self._publish_by,
            "republished": 0,
            "error_code": None,
            "error_message": None,
        }


def fail(
    session: Session, claim: Claim, refusal: Refusal, *, now: datetime, budget: RetryBudget, look_after: timedelta
) -> Verdict | None:
    """Record why a call brought no result, and decide what follows; None when the claim no longer decides it.

    RETRY leaves the job claimed, for another call or a `postpone`. REFUND leaves it with its verdict written, for the
    refund step; CONCLUDE has it settled for the parts that were delivered before. UNKNOWN keeps the hold; recovery
    looks at it `look_after` from now.
    """
    (job,) = job_queries.lock(session, [claim.job_id], set(State))
    call = call_queries.latest(session, claim.job_id, claim.attempt)
    assert call is not None, "the call was written before it was made"
    if call.outcome == "succeeded" or call_queries.resolution(session, call.id):
        # The call was delivered or resolved: a later failure report does not overwrite that.
        return None
    # What was delivered before has no part in how often this part was tried.
    tried = claim.attempt - call_queries.last_delivered(session, job.id)
    decided = policy.verdict(refusal.failure, attempts=tried, budget=budget)
    if decided is Verdict.UNKNOWN and call.outcome == "failed":
        # A later report of an unknown outcome does not overwrite a recorded failure.
        return None
    # A repeated report keeps the time of the first: the outcome has been unknown since then.
    finished_at = call.finished_at if call.outcome == "unknown" and call.finished_at is not None else now
    _finish_call(session, call.id, refusal, unknown=decided is Verdict.UNKNOWN, now=finished_at)
    if decided is not Verdict.UNKNOWN:
        _count_cost(session, job, claim, refusal)
    if job.state != State.CALLING or job.attempts != claim.attempt:
        return None
    if decided is Verdict.UNKNOWN:
        mark_unknown(session, [job], refusal.failure, now=now, look_after=look_after)
    elif decided is Verdict.REFUND:
        reason = _reason(refusal, tried)
        if job.parts_delivered:
            concluding.conclude(session, [job], {job.id: reason}, now=now)
            return Verdict.CONCLUDE
        job_queries.note_verdict(session, job.id, reason.code, reason.message, due=now)
    return decided


def _reason(refusal: Refusal, tried: int) -> Release:
    """Why no further call is made, after so many tries."""
    exhausted = policy.VERDICTS[refusal.failure] is Verdict.RETRY
    code = "retries_exhausted" if exhausted else refusal.failure.value
    tries = f" It was tried {tried} times." if exhausted else ""
    said = f" It said: {refusal.reason}" if refusal.reason else ""
    return Release(code, policy.SENTENCES[refusal.failure] + tries + said)


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


def _count_cost(session: Session, job: GenerationJob, claim: Claim, refusal: Refusal) -> None:
    """Record the cost that the provider reports for a refused call, else 0, in place of one assumed as exposure."""
    usage = refusal.usage
    call_queries.complete(
        session,
        claim.call_id,
        {
            "cost_usd": Decimal(0) if usage is None else pricing.cost(usage, pricing.Price.from_json(job.price or {})),
            "usage": None if usage is None else usage.to_json(),
            "raw_usage": refusal.raw_usage,
            "usage_note": refusal.usage_note,
            "reported_cost_usd": refusal.reported_cost_usd,
            "exposure": False,
        },
    )
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
