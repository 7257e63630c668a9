"""Whether a job may start: the check, which is advice, and the reservation, which decides and holds its credits.

Jobs are locked before accounts, and a repeat changes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from billing.catalog import catalog
from billing.catalog.pricing import Work
from billing.errors import BillingError, PriceNotConfigured
from billing.jobs import job_queries
from billing.jobs.decisions import Funds, Limit, Reservation, decide
from billing.jobs.states import Event, State
from billing.jobs.tables import GenerationJob
from billing.ledger import accounts, posting
from billing.ledger.posting import Change
from billing.ledger.tables import Account
from billing.plans import limits, renewals
from billing.plans.limits import Allowances, LimitChange
from billing.plans.units import LimitUnit


def check(session: Session, job_ids: Sequence[UUID], *, now: datetime) -> list[UUID]:
    """Reject the queued jobs that their account or plan clearly does not cover; returns the jobs that may go on.

    This is cheap advice: it takes no lock and looks at each job alone. `reserve` decides, also on jobs of accounts that
    are owed a renewal.
    """
    found = job_queries.find(session, job_ids)
    owed = set(renewals.behind(session, {job.account_id for job in found}, now))
    jobs = [job for job in found if job.account_id not in owed]
    allowances = limits.allowances(session, _wanted(jobs), now=now, opening=False)
    owners = accounts.find_many(session, {job.account_id for job in jobs})
    decider = _Decider(session, allowances, now=now)
    refused: dict[UUID, BillingError] = {}
    for job in jobs:
        if job.state == State.QUEUED:
            account = owners[job.account_id]
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
    owners = posting.lock(session, {job.account_id for job in jobs})
    if renewals.bring_up_to_date(session, owners, now):
        owners = accounts.find_many(session, owners)
    batch = _Batch(_Decider(session, limits.allowances(session, _wanted(jobs), now=now), now=now), owners)
    for job in sorted(jobs, key=lambda job: (job.created_at, job.id)):
        batch.decide(job)
    _reject(session, batch.refused, now=now)
    times = {"reserved_at": now, "next_at": now + publish_by, "republished": 0}
    moved = job_queries.move(session, Event.RESERVE, [row | times for row in batch.granted])
    assert len(moved) == len(batch.granted), "a locked job left its state"
    posting.post(session, batch.changes, beside=[limits.counted(batch.units)])
    return [job.id for job in job_queries.find(session, job_ids) if job.state == State.RESERVED]


def reject(session: Session, job_ids: Sequence[UUID], error: BillingError, *, now: datetime) -> list[UUID]:
    """Reject queued jobs, which hold nothing yet, for one reason; returns the jobs rejected now."""
    return sorted(_reject(session, dict.fromkeys(job_ids, error), now=now))


def holds_by_deadline(session: Session, account_id: int, until: datetime) -> list[tuple[datetime, int]]:
    """The credits that reserved jobs hold, by the deadline, up to `until`, at which they are released."""
    return job_queries.holds_by_deadline(session, account_id, until)


def _wanted(jobs: Sequence[GenerationJob]) -> set[tuple[int, str]]:
    return {(job.account_id, job.limit_type) for job in jobs if job.limit_type is not None}


class _Decider:
    """Decides the jobs of one batch, from the allowances and prices that were read for it."""

    def __init__(self, session: Session, allowances: Allowances, *, now: datetime) -> None:
        self.allowances = allowances
        self.price_of = catalog.price_finder(session, today=now.date())
        self.words_per_100_tokens = catalog.defaults(session).words_per_100_tokens

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
            # When this was submitted, the model was billed by the image, and its tokens were not counted.
            return PriceNotConfigured(f"{job.model_name} is billed by the token by now: submit the request again.")
        allowance = self.allowances.get((job.account_id, job.limit_type or ""))
        return decide(
            Funds(account.id, account.balance, available, account.frozen_reason is not None),
            work,
            price,
            None
            if allowance is None
            else Limit(allowance.limit_type, LimitUnit(job.limit_unit or LimitUnit.REQUESTS), allowance.remaining),
            words_per_100_tokens=self.words_per_100_tokens,
        )


class _Batch:
    """What is granted and refused in one batch; each job is decided on what the jobs before it have left."""

    def __init__(self, decider: _Decider, owners: Mapping[int, Account]) -> None:
        self._decider = decider
        self._owners = owners
        self._available = {account_id: account.available for account_id, account in owners.items()}
        self.granted: list[dict[str, Any]] = []
        self.refused: dict[UUID, BillingError] = {}
        self.changes: dict[int, Change] = defaultdict(Change)
        self.units: dict[limits.LimitKey, LimitChange] = defaultdict(LimitChange)

    def decide(self, job: GenerationJob) -> None:
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

    def _hold_units(self, job: GenerationJob, units: int) -> date | None:
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


def _reject(session: Session, refused: dict[UUID, BillingError], *, now: datetime) -> set[UUID]:
    rows = [
        {"id": job_id, "error_code": error.code, "error_message": error.message, "finished_at": now}
        for job_id, error in sorted(refused.items())
    ]
    return job_queries.move(session, Event.REJECT, rows)
