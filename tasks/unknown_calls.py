"""Asking a provider what became of a call that was lost: by a look-up, or by sending it again under the same key.

What cannot be found out so is waited for, and given up by recovery in the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal
from uuid import UUID

import structlog
from sqlalchemy.orm import Session

from billing.jobs import call_queries, calling, job_queries, unknown_calls
from billing.jobs.calling import Claim, Delivery, Refusal
from billing.jobs.policy import Means
from billing.jobs.states import State
from billing.jobs.tables import GenerationJob
from config.database import database_now
from config.providers import Connection, connection_for
from config.settings import ConfigurationError
from tasks.providers.base import Provider, ProviderError
from tasks.runtime import Runtime
from tasks.writing import record

Outcome = Literal["generated", "ended", "unknown"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Question:
    """A lost call, and where and how to ask about it."""

    claim: Claim
    provider: Provider
    connection: Connection
    means: Means


def find_out(job_id: UUID, runtime: Runtime) -> Outcome:
    """Ask the provider what became of a job's lost call, and act on the answer; without one the job stays unknown."""
    question = record(lambda session: _question(session, job_id, runtime))
    if question is None:
        return "unknown"
    told = _told(question, timeout_s=runtime.settings.call_s(question.claim.kind))
    log.info("lost_call_asked", job_id=str(job_id), means=question.means.value, answer=_name(told))
    if told is None:
        return "unknown"
    job = record(
        lambda session: unknown_calls.learn(
            session, question.claim, told, question.means, now=database_now(session), publish_by=runtime.publish_by
        )
    )
    return "generated" if job.state == State.GENERATED else "ended"


def _question(session: Session, job_id: UUID, runtime: Runtime) -> Question | None:
    """Write down that we ask; None when there is nobody to ask, or nothing."""
    jobs = job_queries.find(session, [job_id])
    if not jobs or jobs[0].state != State.UNKNOWN:
        return None
    job = jobs[0]
    provider = runtime.providers.get(job.provider)
    try:
        connection = connection_for(session, job.provider, job.kind)
    except ConfigurationError:
        connection = None
    if provider is None or connection is None:
        # Perhaps a key is being changed just now: recovery asks again, until it gives up.
        return None
    means = provider.means(connection)
    if means is Means.RESEND and not _went_there(session, job, connection):
        means = Means.WAIT
    if means is Means.WAIT:
        calling.wait_out(session, job_id, unknown_wait=runtime.unknown_wait)
        return None
    patience = timedelta(seconds=runtime.settings.call_s(job.kind))
    claim = calling.ask(session, job_id, now=database_now(session), patience=patience)
    return None if claim is None else Question(claim, provider, connection, means)


def _went_there(session: Session, job: GenerationJob, connection: Connection) -> bool:
    """Whether the lost call was made over this very connection: another server, or key, would do the work anew."""
    call = call_queries.latest(session, job.id, job.attempts)
    return call is not None and connection.since is not None and connection.since < call.started_at


def _told(question: Question, *, timeout_s: float) -> Delivery | Refusal | None:
    try:
        return question.provider.find_out(question.claim, question.connection, timeout_s=timeout_s)
    except ProviderError as error:
        return error.refusal


def _name(told: Delivery | Refusal | None) -> str:
    if told is None:
        return "none"
    return "delivered" if isinstance(told, Delivery) else told.failure.value
