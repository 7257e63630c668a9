"""Queries over the runs of the audit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import insert, select, text
from sqlalchemy.orm import Session

from billing.reports.tables import AuditChange, AuditRun


def findings(session: Session, query: str, given: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """What the query of a rule finds: (row, problem, account id). It is given only the parameters that it names."""
    statement = text(query)
    taken = {name: given[name] for name in statement.compile().params}
    return [(row, problem, account_id) for row, problem, account_id in session.execute(statement, taken)]


def note(session: Session, run: AuditRun) -> None:
    """Record that the audit ran."""
    session.add(run)


def last_run(session: Session) -> AuditRun | None:
    """The latest run of the audit."""
    return session.scalar(select(AuditRun).order_by(AuditRun.ran_at.desc(), AuditRun.id.desc()).limit(1))


class Settled(NamedTuple):
    """A settled job: what it was charged, and what that follows from."""

    id: UUID
    account_id: int
    price: dict[str, Any]
    credits_reserved: int
    credits_charged: int
    credits_overrun: int
    usages: list[dict[str, Any]] | None


_SETTLED = """
    SELECT j.id, j.account_id, j.price, j.credits_reserved, j.credits_charged, j.credits_overrun,
           (SELECT jsonb_agg(c.usage) FROM provider_calls c
            WHERE c.job_id = j.id AND c.outcome = 'succeeded' AND NOT c.exposure)
    FROM generation_jobs j WHERE j.state = 'settled'
"""
_OF_ALL, _OF_SOME = text(_SETTLED), text(f"{_SETTLED} AND j.id = ANY (CAST(:ids AS uuid[]))")


def settled(session: Session, job_ids: Sequence[UUID] | None) -> Iterator[Settled]:
    """The settled ones of these jobs, or of all (None); some at a time, as there may be millions."""
    statement, given = (_OF_ALL, {}) if job_ids is None else (_OF_SOME, {"ids": list(job_ids)})
    found = session.execute(statement, given, execution_options={"yield_per": 1_000})
    yield from (Settled(*row) for row in found)


def take_changed(session: Session) -> list[UUID]:
    """Take the jobs off the queue whose charges changed; until this transaction commits they are there for others."""
    taken = session.scalars(text("DELETE FROM audit_changes RETURNING job_id"))
    return list(dict.fromkeys(taken))


def queue(session: Session, job_ids: Sequence[UUID]) -> None:
    """Put jobs back on the queue."""
    if job_ids:
        session.execute(insert(AuditChange), [{"job_id": job_id} for job_id in job_ids])
