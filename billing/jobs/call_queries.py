"""Queries over provider calls and what they delivered."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from billing.jobs.tables import GenerationResult, ProviderCall, Resolution
from billing.sql import Part, as_json, check_written, inserted, recordset, together

_CALLS = ProviderCall.metadata.tables[ProviderCall.__tablename__]
_RESULTS = GenerationResult.metadata.tables[GenerationResult.__tablename__]


def latest(session: Session, job_id: UUID, attempt: int) -> ProviderCall | None:
    """The job's call of this attempt, as it is now."""
    statement = select(ProviderCall).where(ProviderCall.job_id == job_id, ProviderCall.attempt == attempt)
    return session.scalar(statement.execution_options(populate_existing=True))


def of_job(session: Session, job_id: UUID) -> list[ProviderCall]:
    """Every call made for the job, in order."""
    statement = select(ProviderCall).where(ProviderCall.job_id == job_id).order_by(ProviderCall.attempt)
    return list(session.scalars(statement.execution_options(populate_existing=True)))


def complete(session: Session, call_id: int, values: dict[str, Any]) -> None:
    """Record how a call ended."""
    statement = update(ProviderCall).where(ProviderCall.id == call_id).values(**values)
    # Rows that were read keep their values, because callers compare with them.
    session.execute(statement, execution_options={"synchronize_session": False})


def resolution(session: Session, call_id: int) -> Resolution | None:
    """The resolution of this call; None while it has none."""
    return session.scalar(select(Resolution).where(Resolution.call_id == call_id))


def keep_resolution(
    session: Session, call_id: int, outcome: str, evidence: str, actor: str, resolved_at: datetime
) -> None:
    """Keep the resolution of a call; a call is resolved once."""
    row = {"call_id": call_id, "outcome": outcome, "evidence": evidence, "actor": actor, "resolved_at": resolved_at}
    session.execute(insert(Resolution), [row])


def completed(rows: Sequence[dict[str, Any]]) -> Part:
    """The part of a statement that records how these calls, whose jobs are locked, ended."""
    columns = tuple(rows[0]) if rows else ()
    return Part("completed", _complete(columns) if rows else "", len(rows), {"completed": as_json(rows)})


def kept(rows: Sequence[dict[str, Any]]) -> Part:
    """The part of a statement that keeps what was delivered for these jobs; a job has one result."""
    return inserted(_RESULTS, rows, name="kept")


def write(session: Session, parts: Sequence[Part]) -> None:
    """Write these parts by one statement: all of them, or nothing."""
    wanted = [part for part in parts if part.rows]
    if wanted:
        statement, given = together(wanted)
        check_written(wanted, session.execute(statement, given).one())


@lru_cache(maxsize=8)
def _complete(columns: tuple[str, ...]) -> str:
    sets = ", ".join(f"{name} = v.{name}" for name in columns if name != "id")
    values = recordset(_CALLS, columns, given="completed")
    return f"UPDATE provider_calls c SET {sets} FROM {values} WHERE c.id = v.id RETURNING 1"  # noqa: S608


def results(session: Session, job_ids: list[UUID]) -> dict[UUID, GenerationResult]:
    """What was delivered for these jobs."""
    found = session.scalars(select(GenerationResult).where(GenerationResult.job_id.in_(job_ids)))
    return {row.job_id: row for row in found}


def delivered(session: Session, job_ids: list[UUID]) -> dict[UUID, ProviderCall]:
    """The call that succeeded for each of these jobs."""
    statement = select(ProviderCall).where(
        ProviderCall.job_id.in_(job_ids), ProviderCall.outcome == "succeeded", ~ProviderCall.exposure
    )
    return {row.job_id: row for row in session.scalars(statement)}


def notes_since(session: Session, since: datetime) -> dict[str, int]:
    """How many calls that ended since then bear each note of their usage."""
    statement = (
        select(ProviderCall.usage_note, func.count())
        .where(ProviderCall.usage_note.is_not(None), ProviderCall.finished_at >= since)
        .group_by(ProviderCall.usage_note)
    )
    return {note: calls for note, calls in session.execute(statement) if note is not None}


def costs_that_differ(session: Session, since: datetime) -> list[tuple[str, int, Decimal, Decimal]]:
    """By model, the calls ended since then whose reported cost is another: how many, our cost and theirs in USD."""
    statement = (
        select(
            ProviderCall.model_name,
            func.count(),
            func.sum(ProviderCall.cost_usd),
            func.sum(ProviderCall.reported_cost_usd),
        )
        .where(ProviderCall.reported_cost_usd != ProviderCall.cost_usd, ProviderCall.finished_at >= since)
        .group_by(ProviderCall.model_name)
        .order_by(ProviderCall.model_name)
    )
    return [(model, calls, ours, theirs or Decimal(0)) for model, calls, ours, theirs in session.execute(statement)]
