"""The pipeline: the chain that a job goes through, and submitting to it from Python.

The caller commits before it publishes. A message that cannot be published does no harm: the job row is the outbox, and
the recovery task publishes it again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

from celery import Signature, chain
from kombu.exceptions import OperationalError
from sqlalchemy.orm import Session

from billing.catalog import current
from billing.jobs import recovery, requests, submitting
from billing.jobs.admitting import Source
from billing.jobs.requests import Submission
from billing.jobs.submitting import Submitted
from billing.settings import own
from config.database import DATABASE_TROUBLE, DatabaseAway, single_statements, transaction, utc_now
from config.logging import get_logger
from tasks.app import app
from tasks.messages import endings, pending
from tasks.runtime import runtime
from tasks.writing import record

SUBMIT_FOR_S = 5
"""How long a submit tries to reach the database, in seconds."""

log = get_logger(__name__)


def submit(
    account_id: int,
    operation: str,
    params: dict[str, Any],
    *,
    model: str | None = None,
    user_id: int | None = None,
    idempotency_key: str | UUID | None = None,
    job_id: str | UUID | None = None,
) -> Submitted:
    """Submit one request from a Python app; returns its job. Raises a BillingError when it cannot be done.

    It succeeds while the broker is away: the request is stored, and its messages follow.
    """
    request = {
        "account_id": account_id,
        "operation": operation,
        "params": params,
        "model": model,
        "user_id": user_id,
        "idempotency_key": idempotency_key,
        "job_id": job_id,
    }
    return submit_many([requests.parse(request)])[0]


def submit_many(submissions: Sequence[Submission], *, source: Source | None = None) -> list[Submitted]:
    """Submit requests, all or none; raises a BillingError for the first that cannot be done.

    Those of one account with a `source` must be covered as well. It succeeds while the broker is away.
    Raises DatabaseAway when the database cannot be reached.
    """
    submitted = _store(submissions, source)
    start([job.job_id for job in submitted if job.created])
    return submitted


def _store(submissions: Sequence[Submission], source: Source | None) -> list[Submitted]:
    """Store requests under ids that are chosen beforehand, so that an unconfirmed commit can be repeated."""
    named = [each.model_copy(update={"job_id": each.job_id or uuid4()}) for each in submissions]
    if len(named) == 1 and (job := _store_at_once(named[0], source)) is not None:
        return [job]
    ours = {new.job_id for given, new in zip(submissions, named, strict=True) if given.job_id is None}
    try:
        stored = record(lambda session: _submit(session, named, source), for_s=SUBMIT_FOR_S, wait_max_s=1.0)
    except DATABASE_TROUBLE:
        raise DatabaseAway from None
    # A job with an id of ours was created here: by this commit, or by an earlier one that was not confirmed.
    return [replace(job, created=job.created or job.job_id in ours) for job in stored]


def _store_at_once(named: Submission, source: Source | None) -> Submitted | None:
    """Store one request by one statement, as most can be; None when it takes more, or it is not known whether it was.

    It may have been stored then: its id says so to whoever stores it again.
    """
    at = current.kept(utc_now())
    if at is None:
        return None
    try:
        with single_statements() as connection:
            return submitting.submit_at_once(
                connection,
                named,
                at=at,
                deadline=runtime().deadline,
                publish_by=runtime().publish_by,
                source=source,
            )
    except DATABASE_TROUBLE:
        return None


def _submit(session: Session, named: Sequence[Submission], source: Source | None) -> list[Submitted]:
    at = own.moment(session, {(each.account_id, each.user_id) for each in named})
    return submitting.submit(
        session,
        named,
        at=at,
        deadline=runtime().deadline,
        publish_by=runtime().publish_by,
        source=source,
    )


def start(job_ids: Sequence[UUID]) -> None:
    """Say that these jobs wait, which are committed: whoever hears it sends what waits through the whole chain."""
    if job_ids:
        hint(job_ids)


def hint(job_ids: Sequence[UUID] = ()) -> None:
    """Have somebody look at once for jobs that wait; while another hint is pending, nobody needs to be told.

    One look is for all jobs, so the message names the first of these, for those who watch.
    """
    if pending.set_mark():
        _hint(job_ids[:1])


def start_alone(job_ids: Iterable[UUID]) -> None:
    """Send each of these queued jobs through the whole chain by itself, as one of them may have killed a worker."""
    for job_id in job_ids:
        _hint([job_id], alone=True)


def look_again(*, after_s: float) -> None:
    """Have somebody look, after so many seconds, for jobs that wait."""
    publish(_step("check_balance", []), countdown=after_s)


def reserve(job_ids: Sequence[UUID]) -> None:
    """Send checked jobs through the rest of the chain; the reserving step names the queue of their kind."""
    publish(
        chain(
            _step("reserve_credits", [str(job_id) for job_id in job_ids]),
            _step("call_provider"),
            _step("settle_charge"),
        )
    )


def call_together(kind: str, job_ids: Sequence[UUID]) -> None:
    """Send reserved jobs of one kind to their provider, by one message."""
    publish(chain(_step("call_provider", [str(job_id) for job_id in job_ids]).set(queue=kind), _step("settle_charge")))


def call(jobs: Iterable[tuple[UUID, str]]) -> None:
    """Send reserved jobs, given as (id, kind), to their provider: a call waits, so each has a message of its own."""
    for job_id, kind in jobs:
        publish(chain(_step("call_provider", [str(job_id)]).set(queue=kind), _step("settle_charge")))


def ask(jobs: Iterable[tuple[UUID, str]]) -> None:
    """Have providers asked what became of unknown calls, given as (id, kind); what was delivered is settled."""
    for job_id, kind in jobs:
        publish(chain(_step("ask_provider", [str(job_id)]).set(queue=kind), _step("settle_charge")))


def resume(job_ids: Sequence[UUID]) -> None:
    """Send each of these jobs on from its present state, with a message of its own."""
    with transaction() as session:
        waiting = recovery.next_steps(session, job_ids)
    for job in waiting:
        if job.step == "start":
            start_alone([job.job_id])
        elif job.step == "call":
            call([(job.job_id, job.kind)])
        elif job.step == "settle":
            settle([job.job_id])
        else:
            refund([job.job_id])


def settle(job_ids: Sequence[UUID]) -> None:
    """Have generated jobs charged."""
    if job_ids:
        publish(_step("settle_charge", [str(job_id) for job_id in job_ids]))


def refund(job_ids: Sequence[UUID]) -> None:
    """Have jobs that failed for good refunded."""
    if job_ids:
        publish(_step("refund_credits", [str(job_id) for job_id in job_ids]))


def tell(job_ids: Collection[UUID]) -> None:
    """Tell whoever waits for these jobs that they may have ended, and have webhooks delivered if there are any."""
    if endings.tell(job_ids):
        deliver_webhooks()


def deliver_webhooks() -> None:
    """Have the webhooks delivered that are due."""
    publish(app.signature("webhooks.deliver"))


def publish(signature: Signature, **options: Any) -> bool:
    """Publish after a commit; False, with a warning in the log, when that fails: what was committed stays so."""
    try:
        signature.apply_async(**options)
    except OperationalError as error:
        log.warning(
            "publish_failed",
            step=signature.task,
            error=type(error).__name__,
            cause=type(error.__cause__).__name__,
            hint="recovery publishes it again",
        )
        return False
    return True


def _step(name: str, *args: Any) -> Signature:
    # By name: the tasks import this module, so it cannot import them.
    return app.signature(f"generation.{name}", args=args)


def _hint(job_ids: Sequence[UUID], **given: Any) -> None:
    ids = [str(job_id) for job_id in job_ids]
    publish(app.signature("generation.check_balance", args=[ids], kwargs=given))
