"""Queries over generation jobs. Every move between states is one UPDATE that names the state it leaves."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, select, text, tuple_, update
from sqlalchemy.orm import Session

from billing.jobs.states import TERMINAL, Event, State, leaving, target
from billing.jobs.tables import GenerationJob, ProviderCall
from billing.paging import Key
from billing.sql import Part, as_json, in_list, newest_first, recordset

_TABLE = GenerationJob.metadata.tables[GenerationJob.__tablename__]


def find(session: Session, job_ids: Iterable[UUID]) -> list[GenerationJob]:
    """The jobs with these ids, as they are now, in the order of their ids."""
    return list(session.scalars(_by_ids(job_ids).order_by(GenerationJob.id).execution_options(populate_existing=True)))


def kinds_in_state(session: Session, job_ids: Iterable[UUID], state: State) -> dict[UUID, str]:
    """Those of these jobs that are in this state now, each with its kind."""
    job = GenerationJob
    statement = select(job.id, job.kind).where(job.id.in_(sorted(set(job_ids))), job.state == state)
    return {row.id: row.kind for row in session.execute(statement)}


def lock(session: Session, job_ids: Iterable[UUID], states: Collection[State]) -> list[GenerationJob]:
    """Lock those of the jobs that are in one of these states, always in the order of their ids."""
    statement = _by_ids(job_ids).where(GenerationJob.state.in_(list(states))).order_by(GenerationJob.id)
    return list(session.scalars(statement.with_for_update().execution_options(populate_existing=True)))


def move(session: Session, event: Event, rows: Sequence[dict[str, Any]]) -> set[UUID]:
    """Apply the event to each row's job and set the row's other columns; returns the ids that moved.

    A job that is not in a state which the event leaves is not changed. A row with `attempts` moves its job only if that
    is still the number of its latest call.
    """
    if not rows:
        return set()
    return set(session.scalars(text(_move(event, tuple(rows[0]), "rows")), {"rows": as_json(rows)}))


def moved(event: Event, rows: Sequence[dict[str, Any]]) -> Part:
    """The part of a statement that moves these locked jobs, as `move` does."""
    name = f"moved_by_{event}"
    return Part(name, _move(event, tuple(rows[0]), name) if rows else "", len(rows), {name: as_json(rows)})


@lru_cache(maxsize=64)
def _move(event: Event, columns: tuple[str, ...], given: str) -> str:
    assigned = [name for name in columns if name not in ("id", "attempts")]
    # A job is taken as long as it is queued.
    freed = ["taken_until = NULL"] if State.QUEUED in leaving(event) else []
    sets = ", ".join([f"state = '{target(event)}'", *freed, *(f"{name} = v.{name}" for name in assigned)])
    guard = in_list("j.state", leaving(event))
    fence = " AND j.attempts = v.attempts" if "attempts" in columns else ""
    return (
        f"UPDATE generation_jobs j SET {sets} FROM {recordset(_TABLE, columns, given=given)} "  # noqa: S608
        f"WHERE j.id = v.id AND {guard}{fence} RETURNING j.id"
    )


def costed(rows: Sequence[dict[str, Any]]) -> Part:
    """The part of a statement that sets what the calls of locked jobs cost together, in USD, whatever their state."""
    values = recordset(_TABLE, ("id", "cost_usd"), given="costed")
    sql = f"UPDATE generation_jobs j SET cost_usd = v.cost_usd FROM {values} WHERE j.id = v.id RETURNING 1"  # noqa: S608
    return Part("costed", sql, len(rows), {"costed": as_json(rows)})


def due(session: Session, state: State, *, now: datetime, limit: int) -> list[GenerationJob]:
    """Lock up to `limit` jobs of this state that are due (`next_at`), skipping those that others have locked."""
    statement = (
        select(GenerationJob)
        .where(GenerationJob.state == state, GenerationJob.next_at <= now)
        .order_by(GenerationJob.next_at, GenerationJob.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    )
    return sorted(session.scalars(statement), key=lambda job: job.id)


def count_unfinished(session: Session) -> dict[str, int]:
    """How many jobs are in each state that is not terminal; a state without jobs counts 0."""
    counted = (
        select(GenerationJob.state, func.count())
        .where(GenerationJob.finished_at.is_(None))
        .group_by(GenerationJob.state)
    )
    found = dict(session.execute(counted).all())
    return {str(state): found.get(str(state), 0) for state in State if state not in TERMINAL}


def holds_by_deadline(session: Session, account_id: int, until: datetime) -> list[tuple[datetime, int]]:
    """The credits that reserved jobs hold, by the deadline, up to `until`, at which they are released."""
    statement = (
        select(GenerationJob.deadline_at, func.sum(GenerationJob.credits_reserved))
        .where(
            GenerationJob.account_id == account_id,
            GenerationJob.finished_at.is_(None),
            GenerationJob.state == State.RESERVED,
            GenerationJob.deadline_at <= until,
        )
        .group_by(GenerationJob.deadline_at)
        .order_by(GenerationJob.deadline_at)
    )
    return [(deadline, int(credits)) for deadline, credits in session.execute(statement)]


def look_again(session: Session, job_ids: Sequence[UUID], *, now: datetime) -> list[UUID]:
    """Make those of these jobs that wait for a message due for recovery at once; returns their ids."""
    waiting = [State.QUEUED, State.RESERVED, State.GENERATED]
    statement = (
        update(GenerationJob)
        .where(GenerationJob.id.in_(sorted(set(job_ids))), GenerationJob.state.in_(waiting))
        .values(next_at=now, republished=0)
        .returning(GenerationJob.id)
    )
    return list(session.scalars(statement.execution_options(synchronize_session=False)))


def overdue(session: Session, *, before: datetime) -> tuple[int, datetime | None]:
    """How many jobs were due before this time, and since when the first of them has waited."""
    waiting = select(func.count(), func.min(GenerationJob.next_at)).where(
        GenerationJob.state.in_([state for state in State if state not in TERMINAL]), GenerationJob.next_at < before
    )
    count, since = session.execute(waiting).one()
    return count, since


def postpone(session: Session, rows: Sequence[dict[str, Any]]) -> None:
    """Set when each job is looked at again (`next_at`) and how often it was published again (`republished`).

    A queued job is not taken any more.
    """
    if rows:
        columns = ["id", "next_at", "republished"]
        session.execute(
            text(
                "UPDATE generation_jobs j SET next_at = v.next_at, republished = v.republished, taken_until = NULL "  # noqa: S608
                f"FROM {recordset(_TABLE, columns)} WHERE j.id = v.id"
            ),
            {"rows": as_json(rows)},
        )


def newest(
    session: Session, *, account_id: int | None, state: str | None, after: Key | None, limit: int
) -> list[GenerationJob]:
    """The newest jobs, optionally of one account, in one state, and behind the job of this time and id."""
    job = GenerationJob
    wanted = select(job)
    if account_id is not None:
        wanted = wanted.where(job.account_id == account_id)
    if state is not None:
        wanted = wanted.where(job.state == state)
    if after is not None:
        wanted = wanted.where(tuple_(job.created_at, job.id) < after)
    # Two indexes hold the jobs: an open one changes with each step, and would be entered anew into an index of all.
    ended, unfinished = wanted.where(job.finished_at.is_not(None)), wanted.where(job.finished_at.is_(None))
    branches = [ended, unfinished] if state is None else [ended if state in TERMINAL else unfinished]
    return list(session.scalars(newest_first(job, branches, ("created_at", "id"), limit=limit)))


def unknown(session: Session, *, after: Key | None, limit: int) -> list[tuple[GenerationJob, ProviderCall]]:
    """Jobs whose outcome is unknown, each with its latest call, the oldest call first.

    They begin behind the call of this time and the job of this id. All are open jobs: few enough to be sorted.
    """
    job, call = GenerationJob, ProviderCall
    statement = (
        select(job, call)
        .join(call, (call.job_id == job.id) & (call.attempt == job.attempts))
        .where(job.state == State.UNKNOWN)
        .order_by(call.started_at, job.id)
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(tuple_(call.started_at, job.id) > after)
    return [(found, made) for found, made in session.execute(statement)]


def _by_ids(job_ids: Iterable[UUID]) -> Select[GenerationJob]:
    return select(GenerationJob).where(GenerationJob.id.in_(sorted(set(job_ids))))


def note_verdict(session: Session, job_id: UUID, code: str, message: str, *, due: datetime) -> None:
    """Write on a job that is being called why it failed for good; the refund step acts on it, from `due` on."""
    statement = (
        update(GenerationJob)
        .where(GenerationJob.id == job_id, GenerationJob.state == State.CALLING)
        .values(error_code=code, error_message=message, lease_until=due, next_at=due)
    )
    session.execute(statement, execution_options={"synchronize_session": False})


def deliver_nothing(session: Session, job_ids: Sequence[UUID]) -> None:
    """Set that nothing was delivered for these locked jobs, of which what had been is written off."""
    statement = update(GenerationJob).where(GenerationJob.id.in_(list(job_ids))).values(parts_delivered=0)
    session.execute(statement, execution_options={"synchronize_session": False})


def sum_cost(session: Session, job_id: UUID) -> None:
    """Set a locked job's cost to the sum of its calls, in USD, whatever its state; a repeat changes nothing."""
    calls = select(func.coalesce(func.sum(ProviderCall.cost_usd), 0)).where(ProviderCall.job_id == job_id)
    statement = update(GenerationJob).where(GenerationJob.id == job_id).values(cost_usd=calls.scalar_subquery())
    session.execute(statement, execution_options={"synchronize_session": False})
