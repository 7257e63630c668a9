"""Queries of submitting: the new jobs, those that were there before, and how many are unfinished."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, TextClause, select, text, tuple_
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from billing.errors import KeyCapReached
from billing.jobs.tables import GenerationJob
from billing.sql import as_json, recordset, type_of

COLUMNS = (
    *("id", "account_id", "user_id", "operation_type", "model_name", "provider", "kind", "params"),
    *("idempotency_key", "request_hash", "related_object_type", "related_object_id", "label", "api_key_id"),
    *("work", "settings_used", "credits_estimated", "limit_type", "limit_unit", "next_at", "deadline_at", "created_at"),
)
"""What a new job is written with."""
CAP = "ck_api_keys_cap_covers_jobs"
"""What the trigger that counts the jobs of a key says when its cap does not cover one."""
STATEMENT_BYTES = 8_000_000
"""How much one statement carries: PostgreSQL takes 255 MB of JSON, and 500 requests may have more."""

_TABLE = GenerationJob.metadata.tables[GenerationJob.__tablename__]
_LISTED = ", ".join(COLUMNS)
# All transactions insert in one order, so one that meets a key just inserted by another only waits for it.
_ADD = text(
    f"""
    WITH v AS (SELECT * FROM {recordset(_TABLE, COLUMNS)}),
    payable AS (
        SELECT v.* FROM v JOIN accounts a ON a.id = v.account_id
        LEFT JOIN users u ON u.id = v.user_id AND u.account_id = v.account_id
        WHERE v.user_id IS NULL OR u.id IS NOT NULL
    ),
    added AS (
        INSERT INTO generation_jobs ({_LISTED})
        SELECT {_LISTED} FROM payable ORDER BY account_id, idempotency_key, id
        ON CONFLICT DO NOTHING RETURNING account_id, idempotency_key, id
    )
    SELECT coalesce((SELECT jsonb_agg(jsonb_build_array(account_id, idempotency_key, id)) FROM added), '[]'),
           (SELECT count(*) FROM payable) < (SELECT count(*) FROM v),
           coalesce((SELECT jsonb_agg(jsonb_build_array(c.account_id, (
               SELECT count(*) FROM (
                   SELECT FROM generation_jobs j WHERE j.account_id = c.account_id AND j.finished_at IS NULL
                   LIMIT :account_bound
               ) unfinished
           ))) FROM unnest(CAST(:accounts AS bigint[])) c(account_id)), '[]'),
           CASE WHEN :all THEN (
               SELECT count(*) FROM (SELECT FROM generation_jobs WHERE finished_at IS NULL LIMIT :bound) unfinished
           ) END
    """  # noqa: S608 - names of our own columns
)

_OF_NOW = ("next_at", "deadline_at", "created_at")
_GIVEN = tuple(name for name in COLUMNS if name not in _OF_NOW)
_OPEN_OF_ACCOUNT = """
    SELECT count(*) FROM (
        SELECT FROM generation_jobs WHERE account_id = :account_id AND finished_at IS NULL LIMIT :account_bound
    ) of_account
"""
_OPEN_OF_ALL = "SELECT count(*) FROM (SELECT FROM generation_jobs WHERE finished_at IS NULL LIMIT :bound) of_all"
_NOT_COUNTED = "SELECT CAST(NULL AS bigint)"


_COVERS = """
    AND EXISTS (SELECT FROM accounts WHERE id = :account_id
                AND frozen_reason IS NULL AND balance - reserved >= :credits_estimated)
"""


@lru_cache(maxsize=8)
def _add_at_once(*, of_account: bool, of_all: bool, covered: bool) -> TextClause:
    """Add one job if all holds that it was examined by, and there is room for it where the open jobs are counted."""
    values = ", ".join(f"CAST(:{name} AS {type_of(_TABLE.c[name])})" for name in _GIVEN)
    return text(
        f"""
        WITH open AS MATERIALIZED (
            SELECT ({_OPEN_OF_ACCOUNT if of_account else _NOT_COUNTED}) AS of_account,
                   ({_OPEN_OF_ALL if of_all else _NOT_COUNTED}) AS of_all
        )
        INSERT INTO generation_jobs ({", ".join(_GIVEN)}, {", ".join(_OF_NOW)})
        SELECT {values}, clock.now + :publish_by, clock.now + :deadline, clock.now
        FROM open, (SELECT clock_timestamp() AS now) clock
        WHERE (open.of_account IS NULL OR open.of_account < :account_bound)
          AND (open.of_all IS NULL OR open.of_all < :bound)
          AND (SELECT version FROM catalog_version) = CAST(:version AS uuid)
          AND CAST(clock.now AT TIME ZONE 'UTC' AS date) = :today
          AND EXISTS (SELECT FROM accounts WHERE id = :account_id AND NOT has_settings)
          {_COVERS if covered else ""}
          AND (:user_id IS NULL OR EXISTS (SELECT FROM users WHERE id = :user_id AND account_id = :account_id))
        ON CONFLICT DO NOTHING RETURNING (SELECT of_account FROM open), (SELECT of_all FROM open)
        """  # noqa: S608 - names of our own columns
    )


class Key(NamedTuple):
    """What makes a request the same as another: its account, and its idempotency key."""

    account_id: int
    idempotency_key: str


@dataclass(frozen=True)
class Existing:
    """A job that a request has already: just added, or by an earlier request with the same key."""

    id: UUID
    kind: str
    state: str
    request_hash: str


@dataclass(frozen=True)
class Added:
    """What was written: the new jobs by key, and whether a row was left out because of its account or user.

    `open_jobs` holds the unfinished jobs before that of each account that was to be counted, and of all (None).
    """

    created: dict[Key, UUID]
    refused: bool
    open_jobs: dict[int | None, int]


def add(
    session: Session,
    rows: Sequence[dict[str, Any]],
    *,
    counted: Sequence[int | None],
    account_bound: int,
    bound: int,
) -> Added:
    """Insert new jobs, and count the unfinished jobs of these accounts (None: of all), each up to its bound.

    A repeated id or idempotency key inserts nothing. Nor does a row whose account does not exist, or whose user is not
    the account's.
    """
    created: dict[Key, UUID] = {}
    open_jobs: dict[int | None, int] = {}
    refused, to_count = False, list(counted)
    for chunk in _chunks(rows):
        accounts = [whose for whose in to_count if whose is not None]
        given = {"rows": chunk, "accounts": accounts, "all": None in to_count}
        given |= {"account_bound": account_bound, "bound": bound}
        with _refusals():
            added, left_out, of_accounts, of_all = session.execute(_ADD, given).one()
        created |= {Key(account_id, key): UUID(job_id) for account_id, key, job_id in added}
        refused = refused or left_out
        open_jobs |= dict(of_accounts)
        if None in to_count:
            open_jobs[None] = of_all
        # A later statement would count what the first one added.
        to_count = []
    return Added(created, refused, open_jobs)


def add_at_once(
    connection: Connection,
    row: dict[str, Any],
    *,
    counted: Sequence[int | None],
    account_bound: int,
    bound: int,
    version: str,
    today: date,
    publish_by: timedelta,
    deadline: timedelta,
    covered: bool = False,
) -> dict[int | None, int] | None:
    """Insert one new job by one statement, which sets its times, if all of this still holds: the catalogue's version,
    the day in UTC, the account, which has no settings of its own, its user, and the room for one more unfinished job;
    to be `covered`, also what the account has available.

    Returns the unfinished jobs before that of whom they were to be `counted` (None: of all); None when nothing was
    inserted.
    """
    account_id: int = row["account_id"]
    given = row | {name: json.dumps(row[name]) for name in ("params", "work", "settings_used")}
    given |= {"account_bound": account_bound, "bound": bound, "version": version, "today": today}
    given |= {"publish_by": publish_by, "deadline": deadline}
    statement = _add_at_once(of_account=account_id in counted, of_all=None in counted, covered=covered)
    with _refusals():
        found = connection.execute(statement, given).first()
    if found is None:
        return None
    of_account, of_all = found
    return {whose: count for whose, count in ((account_id, of_account), (None, of_all)) if count is not None}


@contextmanager
def _refusals() -> Iterator[None]:
    """What the database refuses by itself, as an error of the business."""
    try:
        yield
    except IntegrityError as error:
        if getattr(getattr(error.orig, "diag", None), "constraint_name", None) == CAP:
            raise KeyCapReached from None
        raise


def existing(session: Session, keys: Sequence[Key]) -> dict[Key, Existing]:
    """The jobs with these keys."""
    if not keys:
        return {}
    job = GenerationJob
    facts = (job.account_id, job.idempotency_key, job.id, job.kind, job.state, job.request_hash)
    statement = select(*facts).where(tuple_(job.account_id, job.idempotency_key).in_(list(keys)))
    return {Key(row[0], row[1]): Existing(row[2], row[3], row[4], row[5]) for row in session.execute(statement)}


def _chunks(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The rows as JSON arrays, each small enough for one statement."""
    some: list[str] = []
    size = 0
    for row in rows:
        # A list of one, without its brackets.
        body = as_json([row])[1:-1]
        if some and size + len(body) > STATEMENT_BYTES:
            yield f"[{','.join(some)}]"
            some, size = [], 0
        some.append(body)
        size += len(body)
    if some:
        yield f"[{','.join(some)}]"
