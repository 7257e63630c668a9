"""Jobs that end as exposure, and the proof that roll-ups say what their sources say."""

from __future__ import annotations

from uuid import UUID

from billing.jobs import calling, job_queries, settling, unknown_calls
from billing.jobs.policy import Failure
from billing.jobs.states import State
from billing.reports import audit
from config.database import transaction
from tests.factories import (
    MINUTE,
    NOON,
    a_claim,
    a_reserved_job,
)
from tests.revenue_books import roll_up, rolled, source, standing


def a_job_given_up_unknown(account_id, now=NOON) -> UUID:
    """A job that was refunded because its outcome stayed unknown: the most that it may cost is exposure."""
    job_id = a_reserved_job(account_id, now=now)
    claim = a_claim(job_id, now=now)
    with transaction() as session:
        (job,) = job_queries.lock(session, [job_id], {State.CALLING})
        calling.mark_unknown(session, [job], Failure.WORKER_LOST, now=now, look_after=MINUTE)
    with transaction() as session:
        (job,) = job_queries.lock(session, [claim.job_id], {State.UNKNOWN})
        unknown_calls.expose(session, job)
        reasons = {job_id: settling.Release("unknown_outcome", "Nobody knows.")}
        settling.release(session, [job], reasons, now=now)
    return job_id


def findings():
    with transaction(isolation="REPEATABLE READ", read_only=True) as session:
        found = audit.audit(session, now=NOON)
    return [finding for finding in found if finding.rule == "roll_ups_equal_their_source"]


def assert_exact():
    """Roll-ups, with and without a tick, are the sums of their sources, and the audit agrees."""
    assert standing() == source()
    while roll_up():
        pass
    assert rolled() == source()
    assert findings() == []
