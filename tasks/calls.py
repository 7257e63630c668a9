"""Calling a provider for one job: claim, call, record; again after a proven failure, within the retry budget.

The claim is committed before the call and no transaction is open during it. A paid result is never dropped because the
database was away for a moment: recording it is retried.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal
from uuid import UUID, uuid4

import structlog
from sqlalchemy.orm import Session
from tenacity import RetryError

from billing.catalog import current
from billing.jobs import calling
from billing.jobs.calling import Claim, Delivery, Refusal, Wanted
from billing.jobs.policy import Failure, Verdict
from config.database import database_now
from config.integrations import connections
from config.providers import Connection
from config.settings import ConfigurationError
from tasks.providers.base import Provider, ProviderError
from tasks.providers.retry import TryAgain, retrying
from tasks.runtime import Runtime
from tasks.writing import record

Outcome = Literal["generated", "failed", "unknown", "postponed", "not_ours"]

log = structlog.get_logger(__name__)


def call_job(job_id: UUID, runtime: Runtime) -> Outcome:
    """Call the provider for a reserved job until it delivers, fails for good, or the retry budget is spent."""
    job = _JobCall(job_id, runtime)
    settings = runtime.settings
    try:
        return retrying(total_s=settings.call_total_s, wait_max_s=settings.call_wait_max_s)(job.once)
    except RetryError as error:
        return job.postpone(error.last_attempt.exception())


class _JobCall:
    """One job's wire calls, one after another, and the claim under which the latest is made."""

    def __init__(self, job_id: UUID, runtime: Runtime) -> None:
        self.job_id = job_id
        self.runtime = runtime
        self.claim: Claim | None = None
        # By this token the database recognises our claim when a commit was not confirmed.
        self.token = uuid4()

    def once(self) -> Outcome:
        """Claim, call, record; raises TryAgain after a failure that was proven not to have been executed."""
        claimed = record(self._claim)
        if claimed is None:
            return "not_ours"
        self.claim, connection = claimed
        timeout_s = self.runtime.settings.call_s(self.claim.kind)
        try:
            if isinstance(connection, ConfigurationError):
                raise ProviderError(Refusal(Failure.NOT_CONFIGURED, provider_code="no_api_key"))
            delivery = self._provider().call(self.claim, connection, timeout_s=timeout_s)
        except ProviderError as error:
            return self._record_refusal(error.refusal)
        return self._record_delivery(delivery)

    def postpone(self, cause: BaseException | None) -> Outcome:
        """Give the job back, to be called again later."""
        assert self.claim is not None
        claim, wait = self.claim, timedelta(seconds=self.runtime.settings.call_wait_max_s)
        if isinstance(cause, TryAgain) and cause.retry_after is not None:
            wait = max(wait, cause.retry_after)
        record(lambda session: calling.postpone(session, claim, until=database_now(session) + wait))
        log.info("call_postponed", job_id=str(claim.job_id), attempt=claim.attempt, wait_s=wait.total_seconds())
        return "postponed"

    def _claim(self, session: Session) -> tuple[Claim, Connection | ConfigurationError] | None:
        at = current.moment(session)
        wanted = Wanted(self.job_id, claimed_by=self.token, again=self.claim.attempt if self.claim else None)
        claim = calling.claim_many(session, [wanted], at=at, leases=self.runtime.leases).get(self.job_id)
        if claim is None:
            return None
        try:
            return claim, connections(session, version=at.version).of(claim.provider, claim.kind)
        except ConfigurationError as error:
            return claim, error

    def _provider(self) -> Provider:
        assert self.claim is not None
        provider = self.runtime.providers.get(self.claim.provider)
        if provider is None:
            raise ProviderError(Refusal(Failure.NOT_CONFIGURED, provider_code="no_adapter"))
        return provider

    def _record_delivery(self, delivery: Delivery) -> Outcome:
        claim = self.claim
        assert claim is not None
        on_time = record(lambda session: calling.succeed(session, claim, delivery, publish_by=self.runtime.publish_by))
        if not on_time:
            log.error("late_success", job_id=str(claim.job_id), attempt=claim.attempt, hint="counted as exposure")
        return "generated" if on_time else "not_ours"

    def _record_refusal(self, refusal: Refusal) -> Outcome:
        claim = self.claim
        assert claim is not None
        verdict = record(
            lambda session: calling.fail(
                session,
                claim,
                refusal,
                now=database_now(session),
                budget=self.runtime.budget,
                look_after=self.runtime.publish_by,
            )
        )
        log.warning(
            "call_failed",
            job_id=str(claim.job_id),
            attempt=claim.attempt,
            failure=refusal.failure.value,
            http_status=refusal.http_status,
            verdict=verdict.value if verdict else "late",
        )
        if verdict is Verdict.RETRY:
            raise TryAgain(refusal.retry_after)
        if verdict is None:
            return "not_ours"
        return "failed" if verdict is Verdict.REFUND else "unknown"
