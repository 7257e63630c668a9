"""Calling a provider for reserved jobs: claim, call, record; again after a proven failure, within the retry budget.

A claim is committed before its call and no transaction is open during it. A paid result is never dropped because the
database was away for a moment: recording it is retried. Claims and results that are ready at one time are committed
together, and nobody waits for a slow call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from datetime import timedelta
from threading import Condition
from typing import Literal, NamedTuple
from uuid import UUID, uuid4

from sqlalchemy.orm import Session
from tenacity import RetryError

from billing.catalog import current
from billing.jobs import calling
from billing.jobs.calling import Claim, Delivery, Refusal, Wanted
from billing.jobs.policy import Failure, Verdict
from billing.jobs.states import State
from config.database import database_now
from config.integrations import Connections, connections
from config.logging import get_logger
from config.providers import Connection
from config.settings import ConfigurationError
from tasks import pipeline
from tasks.grouping import Group
from tasks.providers.base import Provider, ProviderError
from tasks.providers.retry import TryAgain, retrying
from tasks.runtime import runtime
from tasks.writing import record

Outcome = Literal["generated", "continued", "failed", "unknown", "postponed", "not_ours"]

OUTCOMES: Mapping[Verdict | None, Outcome] = {
    None: "not_ours",
    Verdict.REFUND: "failed",
    Verdict.CONCLUDE: "generated",
    Verdict.UNKNOWN: "unknown",
}
"""What a call comes to by the verdict on its failure."""

GROUP = 100
"""How many claims, or results, one transaction writes at most."""
ROOM_S = 0.04
"""How long a batch waits for as many slots as it wants, in seconds, when some are free."""
GATHER_A_CALL_S = 0.002
GATHER_MAX_S = 0.05
"""How long what is ready waits for more, in seconds: longer the more calls are being made; one alone never waits."""

log = get_logger(__name__)


class Claimed(NamedTuple):
    """A claim, and the connections to the providers as they were when it was made."""

    claim: Claim
    connections: Connections


class Result(NamedTuple):
    """What a provider delivered under a claim."""

    claim: Claim
    delivery: Delivery


def call_job(job_id: UUID) -> Outcome:
    """Call the provider for a reserved job until it delivers, fails for good, or the retry budget is spent."""
    with runtime().slots.one():
        found = _JobCall(job_id).run()
    if not isinstance(found, Result):
        return found
    (state,) = states = _results([found])
    _note_late([found], states)
    if state is State.RESERVED:
        _call_again([found], states)
        return "continued"
    return "generated" if state else "not_ours"


def call_batch(job_ids: Sequence[UUID]) -> None:
    """Call the providers for reserved jobs side by side, each as `call_job` does; returns when all have ended.

    What follows from each call is published at once, so a slow one holds up none of the others.
    """
    batch = _Batch()
    waiting = [_JobCall(job_id) for job_id in job_ids]
    slots = runtime().slots
    try:
        while waiting:
            room = slots.take(len(waiting), within_s=ROOM_S)
            starting, waiting = waiting[:room], waiting[room:]
            _start_together(starting, batch)
    finally:
        batch.wait()


class _Batch:
    """The calls of one message that have not come to their end, and the first error of one that has."""

    def __init__(self) -> None:
        self._open = 0
        self._error: BaseException | None = None
        self._changed = Condition()

    def begin(self) -> None:
        """One more call."""
        with self._changed:
            self._open += 1

    def end(self, error: BaseException | None = None) -> None:
        """One call has come to its end, with everything that follows from it."""
        with self._changed:
            self._open -= 1
            self._error = self._error or error
            if not self._open:
                self._changed.notify_all()

    def wait(self) -> None:
        """Wait until all calls have ended; raises the first error of one."""
        with self._changed:
            self._changed.wait_for(lambda: not self._open)
        if self._error is not None:
            raise self._error


def _start_together(jobs: Sequence[_JobCall], batch: _Batch) -> None:
    """Claim these jobs together and call for those that are ours, each in a thread that gives its slot back."""
    left = len(jobs)
    try:
        for job, found in zip(jobs, _claims([job.wanted() for job in jobs]), strict=True):
            if found is not None:
                job.claimed = found
                batch.begin()
                runtime().threads.submit(copy_context().run, job.run_and_hand_on, batch)
                left -= 1
    finally:
        runtime().slots.give_back(left)


class _JobCall:
    """One job's wire calls, one after another, and the claim under which the latest is made."""

    def __init__(self, job_id: UUID) -> None:
        self.job_id = job_id
        # A claim that was made and whose call was not; and the claim of the latest call.
        self.claimed: Claimed | None = None
        self.claim: Claim | None = None
        # By this token the database recognises our claim when a commit was not confirmed.
        self.token = uuid4()

    def wanted(self) -> Wanted:
        """The claim that this job needs next."""
        return Wanted(self.job_id, claimed_by=self.token, again=self.claim.attempt if self.claim else None)

    def run(self) -> Result | Outcome:
        """Call until the provider delivers, fails for good, or the retry budget is spent."""
        settings = runtime().settings
        try:
            return retrying(total_s=settings.call_total_s, wait_max_s=settings.call_wait_max_s)(self._once)
        except RetryError as error:
            return self._postpone(error.last_attempt.exception())

    def run_and_hand_on(self, batch: _Batch) -> None:
        """Run, give the slot back, and have what was delivered recorded and settled, or the job refunded."""
        try:
            try:
                found = self.run()
            finally:
                runtime().slots.give_back(1)
            if found == "failed":
                pipeline.refund([self.job_id])
            elif found == "generated":
                pipeline.settle([self.job_id])
        except BaseException as error:  # noqa: BLE001 - whoever waits for the batch raises it
            batch.end(error)
            return
        if isinstance(found, Result):
            _results.later([found], batch.end)
        else:
            batch.end()

    def _once(self) -> Result | Outcome:
        """Claim and call; raises TryAgain after a failure that was proven not to have been executed."""
        claimed, self.claimed = self.claimed or _claims([self.wanted()])[0], None
        if claimed is None:
            return "not_ours"
        self.claim = claimed.claim
        timeout_s = runtime().settings.call_s(self.claim.kind)
        try:
            connection = _connection(claimed)
            return Result(self.claim, _provider(self.claim).call(self.claim, connection, timeout_s=timeout_s))
        except ProviderError as error:
            return self._record_refusal(error.refusal)

    def _postpone(self, cause: BaseException | None) -> Outcome:
        """Give the job back, to be called again later."""
        assert self.claim is not None
        claim, wait = self.claim, timedelta(seconds=runtime().settings.call_wait_max_s)
        if isinstance(cause, TryAgain) and cause.retry_after is not None:
            wait = max(wait, cause.retry_after)
        record(lambda session: calling.postpone(session, claim, until=database_now(session) + wait))
        log.info("call_postponed", job_id=str(claim.job_id), attempt=claim.attempt, wait_s=wait.total_seconds())
        return "postponed"

    def _record_refusal(self, refusal: Refusal) -> Outcome:
        claim = self.claim
        assert claim is not None
        verdict = record(
            lambda session: calling.fail(
                session,
                claim,
                refusal,
                now=database_now(session),
                budget=runtime().budget,
                look_after=runtime().publish_by,
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
        return OUTCOMES[verdict]


def _connection(claimed: Claimed) -> Connection:
    try:
        return claimed.connections.of(claimed.claim.provider, claimed.claim.kind)
    except ConfigurationError:
        raise ProviderError(Refusal(Failure.NOT_CONFIGURED, provider_code="no_api_key")) from None


def _provider(claim: Claim) -> Provider:
    provider = runtime().providers.get(claim.provider)
    if provider is None:
        raise ProviderError(Refusal(Failure.NOT_CONFIGURED, provider_code="no_adapter"))
    return provider


def _claim(session: Session, wanted: Sequence[Wanted]) -> list[Claimed | None]:
    at = current.moment(session)
    claims = calling.claim_many(session, wanted, at=at, leases=runtime().leases)
    found = connections(session, version=at.version)
    return [Claimed(claims[each.job_id], found) if each.job_id in claims else None for each in wanted]


def _deliver(session: Session, results: Sequence[Result]) -> list[State | None]:
    return calling.succeed_many(session, results, publish_by=runtime().publish_by)


def _follow(results: Sequence[Result], states: Sequence[State | None]) -> None:
    _note_late(results, states)
    whole = [each.claim.job_id for each, state in zip(results, states, strict=True) if state is State.GENERATED]
    pipeline.settle(whole)
    _call_again(results, states)


def _call_again(results: Sequence[Result], states: Sequence[State | None]) -> None:
    """Have the next part asked for of each job that is done in parts and goes on."""
    going_on = [each.claim for each, state in zip(results, states, strict=True) if state is State.RESERVED]
    pipeline.call([(claim.job_id, claim.kind) for claim in going_on])


def _note_late(results: Sequence[Result], states: Sequence[State | None]) -> None:
    for (claim, _), state in zip(results, states, strict=True):
        if state is None:
            log.error("late_success", job_id=str(claim.job_id), attempt=claim.attempt, hint="counted as exposure")


def _gather_s() -> float:
    return min(GATHER_MAX_S, GATHER_A_CALL_S * runtime().slots.used)


def _spawn(work: Callable[[], None]) -> None:
    runtime().threads.submit(work)


_claims: Group[Wanted, Claimed | None] = Group(_claim, key=lambda wanted: wanted.job_id, size=GROUP, spawn=_spawn)
_results: Group[Result, State | None] = Group(
    _deliver, key=lambda result: result.claim.job_id, size=GROUP, spawn=_spawn, after=_follow, gather_s=_gather_s
)
