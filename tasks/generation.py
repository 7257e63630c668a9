"""The steps of a job, as Celery tasks. A message carries job ids and nothing else; a repeated one changes nothing."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from celery.exceptions import Reject

from billing.catalog import current
from billing.jobs import reserving, settling, taking
from billing.jobs.taking import Taken
from config.database import DATABASE_TROUBLE, DatabaseAway, database_now, transaction
from config.logging import get_logger
from tasks import hints, pipeline
from tasks.app import app
from tasks.calls import call_batch, call_job
from tasks.messages import giving_up, intake
from tasks.runtime import runtime
from tasks.step import Step
from tasks.unknown_calls import ask_about_job

PAUSE_S = 1.0
"""How long a request rests before it goes back into its queue, in seconds: an outage is no reason for a busy loop."""

log = get_logger(__name__)


@app.task(
    name="generation.submit",
    bind=True,
    Request="tasks.messages.intake:PrivateRequest",
    # Only this message holds the request, so it goes back into the queue until the database has it.
    autoretry_for=(),
)
def submit(self: Step, *args: Any, **kwargs: Any) -> list[str]:
    """Take in a request from another app; one that is not understood is set aside with its reason."""
    try:
        return ids(intake.take_in(args, kwargs, message_id=self.request.id))
    except (*DATABASE_TROUBLE, DatabaseAway) as error:
        log.warning("request_waits", error=type(error).__name__, hint="the database is away")
        giving_up.end(self)
        time.sleep(PAUSE_S)
        raise Reject(requeue=True) from None


@app.task(name="generation.check_balance", bind=True)
def check_balance(self: Step, job_ids: list[str], *, alone: bool = False) -> list[str]:
    """Take the jobs that wait, these or others; reject what its account clearly cannot pay for, pass on the rest.

    A message that comes again, or that recovery sends, takes its own jobs alone: one of them may have killed a worker.
    """
    began = time.monotonic()
    came_again = giving_up.was_delivered_before(self)
    if alone or came_again:
        with transaction() as session:
            taken = taking.take_alone(session, uuids(job_ids), hold=runtime().publish_by)
        if came_again:
            # Other jobs may have been waiting for the take that it did not live to see.
            pipeline.hint()
    elif hints.is_covered(self.request):
        return []
    else:
        with transaction() as session:
            taken = hints.take(session)
        hints.note(taken, began=began)
    passing = _covered(taken)
    if passing:
        pipeline.reserve(passing)
    return ids(passing)


def _covered(taken: Taken) -> list[UUID]:
    """The taken jobs but for those that, looked at more closely, their account cannot pay for."""
    if not taken.doubted:
        return taken.job_ids
    with transaction() as session:
        passing = set(reserving.check(session, taken.doubted, at=current.moment(session)))
    pipeline.tell(set(taken.doubted) - passing)
    return [job_id for job_id in taken.job_ids if job_id in passing or job_id not in taken.doubted]


@app.task(name="generation.reserve_credits", bind=True)
def reserve_credits(self: Step, job_ids: list[str]) -> list[str]:
    """Hold each job's estimate; pass on the jobs that now hold credits, each to the queue of its kind."""
    with transaction() as session:
        reserved = reserving.reserve(
            session, uuids(job_ids), at=current.moment(session), publish_by=runtime().publish_by
        )
    hints.note_reserved()
    pipeline.tell(set(uuids(job_ids)) - set(reserved.kinds))
    by_kind: dict[str, list[UUID]] = defaultdict(list)
    for job_id, kind in reserved.kinds.items():
        by_kind[kind].append(job_id)
    # The chain goes on with one kind; the others get chains of their own.
    own = next(iter(by_kind), None) if self.request.chain else None
    for kind, batch in by_kind.items():
        if kind != own:
            pipeline.call_together(kind, batch)
    if own is not None:
        self.request.chain[-1]["options"]["queue"] = own
    return pass_on(self, by_kind[own] if own is not None else [])


@app.task(name="generation.call_provider", bind=True)
def call_provider(self: Step, job_ids: list[str]) -> list[str]:
    """Call the provider for a job; pass it on when it delivered, have it refunded when it failed for good."""
    if len(job_ids) > 1:
        # Each of its calls ends at a time of its own, and has what follows published by itself.
        call_batch(uuids(job_ids))
        return pass_on(self, [])
    outcomes = {job_id: call_job(job_id) for job_id in uuids(job_ids)}
    pipeline.refund([job_id for job_id, outcome in outcomes.items() if outcome == "failed"])
    return pass_on(self, [job_id for job_id, outcome in outcomes.items() if outcome == "generated"])


@app.task(name="generation.ask_provider", bind=True)
def ask_provider(self: Step, job_ids: list[str]) -> list[str]:
    """Ask the provider what became of unknown calls; pass on the jobs that were delivered after all."""
    outcomes = {job_id: ask_about_job(job_id, runtime()) for job_id in uuids(job_ids)}
    return pass_on(self, [job_id for job_id, outcome in outcomes.items() if outcome == "generated"])


@app.task(name="generation.settle_charge")
def settle_charge(job_ids: list[str]) -> list[str]:
    """Charge each generated job for what it used, and release the rest of its hold."""
    with transaction() as session:
        settled = settling.settle(session, uuids(job_ids))
    pipeline.tell(settled)
    return ids(settled)


@app.task(name="generation.refund_credits")
def refund_credits(job_ids: list[str]) -> list[str]:
    """Release the holds of jobs that failed for good."""
    with transaction() as session:
        refunded = settling.refund(session, uuids(job_ids), now=database_now(session))
    pipeline.tell(refunded)
    return ids(refunded)


def pass_on(task: Step, job_ids: Sequence[UUID]) -> list[str]:
    """Give these jobs to the next step of the chain; with none, the chain ends here."""
    if not job_ids:
        task.request.chain = None
    return ids(job_ids)


def ids(job_ids: Sequence[UUID]) -> list[str]:
    """Job ids as a message carries them."""
    return [str(job_id) for job_id in job_ids]


def uuids(job_ids: Sequence[str]) -> list[UUID]:
    """Job ids from a message; raises ValueError for anything else, which Celery logs as a failed task."""
    return [UUID(job_id) for job_id in job_ids]
