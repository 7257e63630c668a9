"""What each step locks and reads, in one statement: its jobs by their ids, then their accounts by theirs.

A statement that has waited for a row shows that row as it is now and every other as it was before the wait. So each row
that a decision depends on is locked by the statement that reads it, or is read by a later one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping, text
from sqlalchemy.orm import Session

# The arrays make PostgreSQL lock all jobs before the first account.
_OWNERS = """
    owners AS (
        SELECT id, balance, reserved, frozen_reason FROM accounts
        WHERE id = ANY (ARRAY(SELECT account_id FROM jobs)) ORDER BY id FOR NO KEY UPDATE
    )
"""
_QUEUED = """
    id, account_id, operation_type, model_name, kind, params ->> 'size' AS size, params ->> 'quality' AS quality, work,
    limit_type, limit_unit, created_at
"""
_TO_CHECK = text(
    f"""
    WITH jobs AS (
        SELECT {_QUEUED} FROM generation_jobs WHERE id = ANY (CAST(:ids AS uuid[])) AND state = 'queued'
    )
    SELECT jobs.*, owners.balance, owners.reserved, owners.frozen_reason IS NOT NULL AS frozen
    FROM jobs JOIN accounts owners ON owners.id = jobs.account_id
    ORDER BY jobs.created_at, jobs.id
    """  # noqa: S608
)
_TO_RESERVE = text(
    f"""
    WITH jobs AS (
        SELECT {_QUEUED} FROM generation_jobs
        WHERE id = ANY (CAST(:ids AS uuid[])) AND state = 'queued' ORDER BY id FOR UPDATE
    ), {_OWNERS}
    SELECT jobs.*, owners.balance, owners.reserved, owners.frozen_reason IS NOT NULL AS frozen
    FROM jobs JOIN owners ON owners.id = jobs.account_id
    ORDER BY jobs.created_at, jobs.id
    """  # noqa: S608 - a constant of ours
)
_TO_SETTLE = text(
    f"""
    WITH jobs AS (
        SELECT id, account_id, operation_type, model_name, price, credits_reserved, cost_usd, limit_type, limit_unit,
               limit_period_start, limit_reserved, related_object_type, related_object_id, label
        FROM generation_jobs WHERE id = ANY (CAST(:ids AS uuid[])) AND state = 'generated' ORDER BY id FOR UPDATE
    ), {_OWNERS}, calls AS (
        SELECT job_id, usage, usage_note FROM provider_calls
        WHERE job_id = ANY (ARRAY(SELECT id FROM jobs)) AND outcome = 'succeeded' AND NOT exposure
        ORDER BY id FOR SHARE
    ), used AS (
        SELECT job_id, jsonb_agg(usage) AS usages, string_agg(usage_note, ' ') AS usage_note FROM calls GROUP BY job_id
    )
    SELECT jobs.*, owners.balance, used.usages, used.usage_note,
           CASE WHEN jobs.limit_unit = 'words' THEN results.content ->> 'text' END AS text, clock_timestamp() AS now
    FROM jobs JOIN owners ON owners.id = jobs.account_id
    LEFT JOIN used ON used.job_id = jobs.id
    LEFT JOIN generation_results results ON results.job_id = jobs.id
    ORDER BY jobs.id
    """  # noqa: S608
)

_TO_RECORD = text(
    """
    WITH jobs AS (
        SELECT id, state, attempts, work, parts_delivered, price FROM generation_jobs
        WHERE id = ANY (CAST(:ids AS uuid[])) ORDER BY id FOR UPDATE
    ), calls AS (
        SELECT id, job_id, attempt, outcome, exposure, cost_usd FROM provider_calls
        WHERE job_id = ANY (ARRAY(SELECT id FROM jobs)) ORDER BY id FOR UPDATE
    )
    SELECT jobs.id, jobs.state, jobs.attempts, jobs.work, jobs.parts_delivered, jobs.price, calls.id AS call_id,
           calls.attempt, calls.outcome, calls.exposure, calls.cost_usd, clock_timestamp() AS now
    FROM jobs JOIN calls ON calls.job_id = jobs.id ORDER BY calls.id
    """
)


@dataclass(frozen=True)
class Owner:
    """An account that is locked: what it has and what its open jobs hold, in credits."""

    id: int
    balance: int
    reserved: int
    frozen: bool

    @property
    def available(self) -> int:
        """Credits that a new job may reserve."""
        return self.balance - self.reserved


@dataclass(frozen=True)
class Queued:
    """A job that waits to be reserved; its size and quality are those of an image."""

    id: UUID
    account_id: int
    operation_type: str
    model_name: str
    kind: str
    size: str | None
    quality: str | None
    work: dict[str, Any]
    limit_type: str | None
    limit_unit: str | None
    created_at: datetime


@dataclass(frozen=True)
class Generated:
    """A job whose provider has delivered: its price, what it holds, and the usage of each call that delivered.

    `text` is the text that was delivered where words are counted. `cost_usd` is that of all its calls.
    """

    id: UUID
    account_id: int
    operation_type: str
    model_name: str
    price: dict[str, Any]
    credits_reserved: int
    cost_usd: Decimal
    limit_type: str | None
    limit_unit: str | None
    limit_period_start: date | None
    limit_reserved: int
    related_object_type: str | None
    related_object_id: int | None
    label: str | None
    usages: list[dict[str, Any]] | None
    usage_note: str | None
    text: str | None


@dataclass(frozen=True)
class Made:
    """A wire call that was made: its outcome, None while it is open, and its cost in USD."""

    id: int
    attempt: int
    outcome: str | None
    exposure: bool
    cost_usd: Decimal


@dataclass(frozen=True)
class Called:
    """A job with all its calls, by the number of the attempt."""

    id: UUID
    state: str
    attempts: int
    work: dict[str, Any]
    parts_delivered: int
    price: dict[str, Any] | None
    calls: dict[int, Made]

    def cost_of_others(self, call: Made) -> Decimal:
        """What all its calls but this one cost, in USD."""
        return sum((each.cost_usd for each in self.calls.values() if each.id != call.id), Decimal(0))


def to_check(session: Session, job_ids: Sequence[UUID]) -> tuple[list[Queued], dict[int, Owner]]:
    """Read those of these jobs that are queued, and their accounts; nothing is locked."""
    rows = session.execute(_TO_CHECK, {"ids": list(job_ids)}).mappings().all()
    return [_value(Queued, row) for row in rows], {row["account_id"]: _owner(row) for row in rows}


def to_reserve(session: Session, job_ids: Sequence[UUID]) -> tuple[list[Queued], dict[int, Owner]]:
    """Lock those of these jobs that are queued, and their accounts; the jobs in the order in which they came."""
    rows = session.execute(_TO_RESERVE, {"ids": list(job_ids)}).mappings().all()
    return [_value(Queued, row) for row in rows], {row["account_id"]: _owner(row) for row in rows}


def to_settle(session: Session, job_ids: Sequence[UUID]) -> tuple[list[Generated], dict[int, int], datetime | None]:
    """Lock those of these jobs that are generated, their accounts and the calls that delivered.

    Returns the jobs, the accounts' balances in credits, and the time by the database's clock, None without a job.
    """
    rows = session.execute(_TO_SETTLE, {"ids": list(job_ids)}).mappings().all()
    now = rows[0]["now"].astimezone(UTC) if rows else None
    return [_value(Generated, row) for row in rows], {row["account_id"]: row["balance"] for row in rows}, now


def to_record(session: Session, job_ids: Sequence[UUID]) -> tuple[dict[UUID, Called], datetime]:
    """Lock these jobs, whatever their state, and all their calls; returns the jobs, and the database's clock."""
    rows = session.execute(_TO_RECORD, {"ids": list(job_ids)}).mappings().all()
    jobs: dict[UUID, Called] = {}
    for row in rows:
        job = jobs.get(row["id"])
        if job is None:
            job = jobs[row["id"]] = _value(Called, {**row, "calls": {}})
        job.calls[row["attempt"]] = Made(
            row["call_id"], row["attempt"], row["outcome"], row["exposure"], row["cost_usd"]
        )
    assert rows, "a call was written before it was made"
    return jobs, rows[0]["now"].astimezone(UTC)


def _owner(row: RowMapping) -> Owner:
    return Owner(row["account_id"], row["balance"], row["reserved"], row["frozen"])


def _value(shape: type[Any], row: RowMapping | Mapping[str, Any]) -> Any:
    return shape(**{name: row[name] for name in shape.__dataclass_fields__})
