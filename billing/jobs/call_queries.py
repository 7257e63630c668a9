"""Queries over provider calls and what they delivered."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, func, insert, select, update
from sqlalchemy.orm import Session

from billing.jobs.tables import GenerationResult, ProviderCall, Resolution
from billing.sql import Part, as_json, check_written, inserted, recordset, together

_CALLS = ProviderCall.metadata.tables[ProviderCall.__tablename__]
_RESULTS = GenerationResult.metadata.tables[GenerationResult.__tablename__]

FEWER_IMAGES = "fewer_images"
"""The reason why an answer ended that has fewer images than were asked for."""
_FURTHER = """
    UPDATE generation_results r SET
        content = jsonb_set(r.content, '{{images}}', coalesce(r.content -> 'images', '[]')
                                                     || coalesce(v.content -> 'images', '[]')),
        finish_reason = CASE WHEN r.finish_reason = 'stop' THEN v.finish_reason ELSE r.finish_reason END
    FROM {values} WHERE r.job_id = v.job_id RETURNING 1
"""


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


def added(rows: Sequence[dict[str, Any]]) -> Part:
    """The part of a statement that adds what another call delivered for these locked jobs to their results."""
    columns = ("job_id", "content", "finish_reason")
    values = recordset(_RESULTS, columns, given="added")
    return Part("added", _FURTHER.format(values=values), len(rows), {"added": as_json(rows)})


def cut_short(session: Session, job_ids: Sequence[UUID]) -> None:
    """Say in the results of these jobs that fewer images were delivered than were asked for."""
    statement = update(GenerationResult).where(GenerationResult.job_id.in_(list(job_ids)))
    session.execute(statement.values(finish_reason=FEWER_IMAGES), execution_options={"synchronize_session": False})


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


def delivered(session: Session, job_ids: list[UUID]) -> dict[UUID, list[ProviderCall]]:
    """The calls that delivered for each of these jobs, in order."""
    found: dict[UUID, list[ProviderCall]] = {}
    for row in session.scalars(select(ProviderCall).where(*_delivered(job_ids)).order_by(ProviderCall.attempt)):
        found.setdefault(row.job_id, []).append(row)
    return found


def expose_delivered(session: Session, job_ids: list[UUID]) -> None:
    """Count the cost of the calls that delivered for these jobs as exposure."""
    statement = update(ProviderCall).where(*_delivered(job_ids)).values(exposure=True)
    session.execute(statement, execution_options={"synchronize_session": False})


def last_delivered(session: Session, job_id: UUID) -> int:
    """The number of the job's latest attempt that delivered; 0 without one."""
    return session.scalar(select(func.max(ProviderCall.attempt)).where(*_delivered([job_id]))) or 0


def _delivered(job_ids: list[UUID]) -> tuple[ColumnElement[bool], ...]:
    return ProviderCall.job_id.in_(job_ids), ProviderCall.outcome == "succeeded", ~ProviderCall.exposure


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
