"""Asking a provider what became of an unknown call: by a look-up, or by sending it again under the same key.

A call that neither of these resolves stays unknown until recovery gives it up.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal
from uuid import UUID

from sqlalchemy.orm import Session

from billing.jobs import unknown_calls
from billing.jobs.calling import Claim, Delivery, Refusal
from billing.jobs.policy import Means
from billing.jobs.states import State
from billing.jobs.unknown_calls import UnknownCall
from config.database import database_now
from config.integrations import connection_for
from config.logging import get_logger
from config.providers import Connection
from config.settings import ConfigurationError
from tasks import pipeline
from tasks.providers.base import Provider, ProviderError
from tasks.runtime import Runtime
from tasks.writing import record

Outcome = Literal["generated", "continued", "ended", "unknown"]

log = get_logger(__name__)


@dataclass(frozen=True)
class Question:
    """An unknown call, and where and how to ask about it."""

    claim: Claim
    provider: Provider
    connection: Connection
    means: Means


def ask_about_job(job_id: UUID, runtime: Runtime) -> Outcome:
    """Ask the provider what became of a job's unknown call, and act on the answer; without one it stays unknown."""
    question = record(lambda session: _question(session, job_id, runtime))
    if question is None:
        return "unknown"
    answer = _answer(question, timeout_s=runtime.settings.call_s(question.claim.kind))
    log.info("unknown_call_asked", job_id=str(job_id), means=question.means.value, answer=_name(answer))
    if answer is None:
        return "unknown"
    job = record(
        lambda session: unknown_calls.resolve_by_answer(
            session, question.claim, answer, question.means, now=database_now(session), publish_by=runtime.publish_by
        )
    )
    if job.state == State.RESERVED:
        pipeline.call([(job_id, question.claim.kind)])
        return "continued"
    return "generated" if job.state == State.GENERATED else "ended"


def _question(session: Session, job_id: UUID, runtime: Runtime) -> Question | None:
    """Record that the provider is asked, and return how; None when it cannot be asked, or need not be."""
    call = unknown_calls.find(session, job_id, unknown_wait=runtime.unknown_wait)
    if call is None:
        return None
    provider = runtime.providers.get(call.provider)
    try:
        connection = connection_for(session, call.provider, call.kind)
    except ConfigurationError:
        connection = None
    if provider is None or connection is None:
        # Perhaps a key is being changed just now: recovery asks again, until it gives up.
        return None
    means = provider.means(connection)
    if means is Means.RESEND and not _went_there(call, connection):
        means = Means.WAIT
    if means is Means.WAIT:
        unknown_calls.stop_asking(session, job_id, unknown_wait=runtime.unknown_wait)
        return None
    patience = timedelta(seconds=runtime.settings.call_s(call.kind))
    claim = unknown_calls.ask(session, job_id, now=database_now(session), patience=patience)
    return None if claim is None else Question(claim, provider, connection, means)


def _went_there(call: UnknownCall, connection: Connection) -> bool:
    """Whether the call was made over this very connection: another server, or key, would do the work anew."""
    return connection.since is not None and connection.since < call.called_at


def _answer(question: Question, *, timeout_s: float) -> Delivery | Refusal | None:
    try:
        return question.provider.ask(question.claim, question.connection, timeout_s=timeout_s)
    except ProviderError as error:
        return error.refusal


def _name(answer: Delivery | Refusal | None) -> str:
    if answer is None:
        return "none"
    return "delivered" if isinstance(answer, Delivery) else answer.failure.value
