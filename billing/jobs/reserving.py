"""Whether a job may start: the check, which is advice, and the reservation, which decides and holds its credits.

Jobs are locked before accounts, and a repeat changes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from billing.catalog.snapshot import Moment
from billing.catalog.usage import Work
from billing.errors import BillingError, PriceNotConfigured
from billing.jobs import job_queries, locking_queries
from billing.jobs.decisions import Funds, Limit, Reservation, decide
from billing.jobs.locking_queries import Owner, Queued
from billing.jobs.states import Event, State
from billing.ledger import posting
from billing.ledger.posting import Change
from billing.plans import limits, renewals
from billing.plans.limits import Allowance, LimitChange
from billing.plans.units import LimitUnit


@dataclass(frozen=True)
class Reserved:
    """The jobs that hold their credits, each with its kind, which names the queue of its provider."""

    kinds: Mapping[UUID, str]

    @property
    def job_ids(self) -> list[UUID]:
        """Their ids, in order."""
        return sorted(self.kinds)


def check(session: Session, job_ids: Sequence[UUID], *, at: Moment) -> list[UUID]:
    """Reject the queued jobs that their account or plan clearly does not cover; returns the jobs that may go on.

    This is cheap advice: it takes no lock and looks at each job alone. `reserve` decides, also on jobs of accounts that
    are owed a renewal.
    """
    jobs, owners = locking_queries.to_check(session, job_ids)
    entitled = limits.entitlements(session, list(owners), _wanted(jobs), now=at.now)
    decider = _Decider(at, entitled.allowances)
    refused: dict[UUID, BillingError] = {}
    for job in jobs:
        owner = owners[job.account_id]
        if job.account_id not in entitled.behind:
            outcome = decider.decide(job, owner, owner.available)
            if isinstance(outcome, BillingError):
                refused[job.id] = outcome
    job_queries.move(session, Event.REJECT, _rejections(refused, at.now))
    passing = [job.id for job in jobs if job.id not in refused]
    return sorted([*passing, *_reserved_before(session, job_ids, jobs)])


def reserve(session: Session, job_ids: Sequence[UUID], *, at: Moment, publish_by: timedelta) -> Reserved:
    """Hold each queued job's estimate and its plan-limit units, or reject it; returns the jobs that are reserved.

    Jobs are served in the order in which they came. A job that was reserved before is returned again, so that a
    repeated message goes on where the first one stopped.
    """
    jobs, owners = locking_queries.to_reserve(session, job_ids)
    before = _reserved_before(session, job_ids, jobs)
    if not jobs:
        return Reserved(before)
    entitled = limits.entitlements(session, list(owners), _wanted(jobs), now=at.now)
    if entitled.behind:
        renewals.bring_up_to_date(session, entitled.behind, at.now)
        _, owners = locking_queries.to_reserve(session, job_ids)
        entitled = limits.entitlements(session, list(owners), _wanted(jobs), now=at.now)
    limits.open_rows(session, entitled)
    batch = _Batch(_Decider(at, entitled.allowances), owners)
    for job in jobs:
        batch.decide(job)
    times = {"reserved_at": at.now, "next_at": at.now + publish_by, "republished": 0}
    posting.post(
        session,
        batch.changes,
        beside=[
            job_queries.moved(Event.RESERVE, [row | times for row in batch.granted]),
            job_queries.moved(Event.REJECT, _rejections(batch.refused, at.now)),
            limits.counted(batch.units),
        ],
    )
    granted = {row["id"] for row in batch.granted}
    return Reserved(before | {job.id: job.kind for job in jobs if job.id in granted})


def reject(session: Session, job_ids: Sequence[UUID], error: BillingError, *, now: datetime) -> list[UUID]:
    """Reject queued jobs, which hold nothing yet, for one reason; returns the jobs rejected now."""
    return sorted(job_queries.move(session, Event.REJECT, _rejections(dict.fromkeys(job_ids, error), now)))


def holds_by_deadline(session: Session, account_id: int, until: datetime) -> list[tuple[datetime, int]]:
    """The credits that reserved jobs hold, by the deadline, up to `until`, at which they are released."""
    return job_queries.holds_by_deadline(session, account_id, until)


def _wanted(jobs: Sequence[Queued]) -> set[tuple[int, str]]:
    return {(job.account_id, job.limit_type) for job in jobs if job.limit_type is not None}


def _reserved_before(session: Session, job_ids: Sequence[UUID], queued: Sequence[Queued]) -> dict[UUID, str]:
    """Those of these jobs that are reserved already, with their kinds; asked only when not all are queued."""
    others = set(job_ids) - {job.id for job in queued}
    return job_queries.kinds_in_state(session, others, State.RESERVED) if others else {}


class _Decider:
    """Decides the jobs of one batch, from the allowances that were read for it and the prices of the moment."""

    def __init__(self, at: Moment, allowances: Mapping[tuple[int, str], Allowance]) -> None:
        self.allowances = allowances
        self._catalog = at.catalog
        self._today = at.today

    def decide(self, job: Queued, owner: Owner, available: int) -> Reservation | BillingError:
        """Grant or refuse one job whose account has this many credits available."""
        try:
            operation = self._catalog.operation_named(job.operation_type)
            model = self._catalog.model_for(operation, job.model_name, today=self._today)
            price = self._catalog.price_of(operation, model, size=job.size or "", quality=job.quality or "")
        except BillingError as error:
            return error
        work = Work(**job.work)
        if price.kind == "image" and price.rates is not None and not work.max_output_tokens:
            # When this was submitted, the model was billed by the image, and its tokens were not counted.
            return PriceNotConfigured(f"{job.model_name} is billed by the token by now: submit the request again.")
        return decide(
            Funds(owner.id, owner.balance, available, owner.frozen),
            work,
            price,
            self._limit(job),
            words_per_100_tokens=self._catalog.defaults.words_per_100_tokens,
        )

    def _limit(self, job: Queued) -> Limit | None:
        allowance = self.allowances.get((job.account_id, job.limit_type or ""))
        if allowance is None:
            return None
        return Limit(allowance.limit_type, LimitUnit(job.limit_unit or LimitUnit.REQUESTS), allowance.remaining)


class _Batch:
    """What is granted and refused in one batch; each job is decided on what the jobs before it have left."""

    def __init__(self, decider: _Decider, owners: Mapping[int, Owner]) -> None:
        self._decider = decider
        self._owners = owners
        self._available = {account_id: account.available for account_id, account in owners.items()}
        self.granted: list[dict[str, Any]] = []
        self.refused: dict[UUID, BillingError] = {}
        self.changes: dict[int, Change] = defaultdict(Change)
        self.units: dict[limits.LimitKey, LimitChange] = defaultdict(LimitChange)

    def decide(self, job: Queued) -> None:
        """Grant or refuse one job, and take what it is granted from what is left."""
        outcome = self._decider.decide(job, self._owners[job.account_id], self._available[job.account_id])
        if isinstance(outcome, BillingError):
            self.refused[job.id] = outcome
            return
        self._available[job.account_id] -= outcome.credits
        self.changes[job.account_id].reserved += outcome.credits
        self.granted.append(
            {
                "id": job.id,
                "price": outcome.price.to_json(),
                "credits_estimated": outcome.credits,
                "credits_reserved": outcome.credits,
                "limit_reserved": outcome.limit_units,
                "limit_period_start": self._hold_units(job, outcome.limit_units),
            }
        )

    def _hold_units(self, job: Queued, units: int) -> date | None:
        """Hold units of the job's plan limit; returns the first day of the period that they count in."""
        allowance = self._decider.allowances.get((job.account_id, job.limit_type or ""))
        if allowance is None:
            return None
        if allowance.remaining is not None:
            allowance.remaining -= units
        held = self.units[(job.account_id, allowance.limit_type, allowance.period_start)]
        held.reserved += units
        held.allowed = allowance.allowed
        return allowance.period_start


def _rejections(refused: Mapping[UUID, BillingError], now: datetime) -> list[dict[str, Any]]:
    return [
        {"id": job_id, "error_code": error.code, "error_message": error.message, "finished_at": now}
        for job_id, error in sorted(refused.items())
    ]
