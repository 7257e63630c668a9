"""Queries of takes: which queued jobs are worked on next, in batches that mix accounts."""

# ruff: noqa: S608 - the parts are constants of ours

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

# The next statement must see what the take before it has marked, so it must begin after this one has the lock.
_LOCK = text("SELECT coalesce(:now, clock_timestamp()) FROM pg_advisory_xact_lock(hashtext('creditmill.take'))")

Marked = list[tuple[UUID, bool]]
"""Jobs in the order in which they came, each with whether its account seems not to cover it."""

_WAITS = "j.state = 'queued' AND j.taken_until IS NULL AND j.republished = 0"
# The next account that has waiting jobs, and whether none of its jobs is in another take.
_NEXT = f"""
    SELECT j.account_id, NOT EXISTS (
        SELECT FROM generation_jobs t WHERE t.account_id = j.account_id AND t.taken_until IS NOT NULL
    ) AS free
    FROM generation_jobs j WHERE {_WAITS} AND j.account_id > {{after}} ORDER BY j.account_id LIMIT 1
"""
# What the account's funds or its plan's limit clearly do not cover; the limit is looked up only where there is one.
_DOUBTED = """
    a.frozen_reason IS NOT NULL OR j.credits_estimated > a.balance - a.reserved OR (
        j.limit_type IS NOT NULL AND EXISTS (
            SELECT FROM subscriptions s JOIN plans p ON p.id = s.plan_id
            JOIN plan_limit_usage u
                ON u.account_id = s.account_id AND u.limit_type = j.limit_type
                AND u.period_start = s.current_period_start
            WHERE s.account_id = j.account_id
              AND CAST(p.limits ->> j.limit_type AS bigint) <= u.amount_used + u.amount_reserved
        )
    )
"""
_MARK = f"""
    marked AS (
        UPDATE generation_jobs j SET taken_until = :until, next_at = :until
        FROM locked l JOIN accounts a ON a.id = l.account_id WHERE j.id = l.id
        RETURNING j.id, j.account_id, j.created_at, {_DOUBTED} AS doubted
    )
"""
_TAKE = text(
    f"""
    WITH RECURSIVE ahead(account_id, free, found) AS (
        SELECT n.account_id, n.free, CAST(n.free AS integer) FROM ({_NEXT.format(after=":after")}) n
        UNION ALL
        SELECT n.account_id, n.free, w.found + CAST(n.free AS integer)
        FROM ahead w CROSS JOIN LATERAL ({_NEXT.format(after="w.account_id")}) n WHERE w.found < :size
    ), around(account_id, free, found) AS (
        SELECT n.account_id, n.free, CAST(n.free AS integer) + coalesce((SELECT max(found) FROM ahead), 0)
        FROM ({_NEXT.format(after="0")}) n WHERE n.account_id <= :after
        UNION ALL
        SELECT n.account_id, n.free, w.found + CAST(n.free AS integer)
        FROM around w CROSS JOIN LATERAL ({_NEXT.format(after="w.account_id")}) n
        WHERE w.found < :size AND n.account_id <= :after
    ), seen AS MATERIALIZED (
        SELECT account_id, free, row_number() OVER () AS place
        FROM (SELECT account_id, free FROM ahead UNION ALL SELECT account_id, free FROM around) both_ways
    ), owners AS MATERIALIZED (
        SELECT account_id, place FROM seen WHERE free ORDER BY place LIMIT :size
    ), share AS MATERIALIZED (
        SELECT greatest(1, :size / greatest(1, count(*))) AS jobs, count(*) AS accounts FROM owners
    ), candidates AS MATERIALIZED (
        SELECT c.id, c.turn FROM owners o CROSS JOIN LATERAL (
            SELECT j.id, row_number() OVER () AS turn FROM (
                SELECT j.id FROM generation_jobs j WHERE {_WAITS} AND j.account_id = o.account_id
                ORDER BY j.created_at, j.id LIMIT (SELECT jobs FROM share)
            ) j
        ) c
    ), locked AS MATERIALIZED (
        SELECT j.id, j.account_id FROM generation_jobs j
        -- By the key of the ids: an index of all that waits, or is open, would be read from end to end.
        WHERE j.id = ANY (ARRAY(SELECT id FROM candidates)) AND j.state || '' = 'queued' AND j.taken_until IS NULL
        ORDER BY j.id FOR UPDATE SKIP LOCKED
    ), {_MARK}
    SELECT coalesce((SELECT json_agg(json_build_array(id, doubted) ORDER BY created_at, id) FROM marked), '[]'),
           (SELECT count(*) FROM seen WHERE NOT free),
           (SELECT accounts FROM share) < :size
               AND coalesce((SELECT max(turn) FROM candidates), 0) < (SELECT jobs FROM share)
               AND (SELECT count(*) FROM candidates) = (SELECT count(*) FROM locked),
           (SELECT account_id FROM owners ORDER BY place DESC LIMIT 1)
    """
)
_TAKE_THESE = text(
    f"""
    WITH locked AS MATERIALIZED (
        SELECT j.id, j.account_id FROM generation_jobs j
        WHERE j.id = ANY (CAST(:ids AS uuid[])) AND j.state = 'queued' ORDER BY j.id FOR UPDATE SKIP LOCKED
    ), {_MARK}
    SELECT coalesce((SELECT json_agg(json_build_array(id, doubted) ORDER BY created_at, id) FROM marked), '[]')
    """
)


def take(
    session: Session, *, size: int, hold: timedelta, after: int, now: datetime | None
) -> tuple[Marked, int, bool, int | None]:
    """Mark up to `size` waiting jobs as taken for so long: as many of each account, beginning after this one.

    Returns the jobs; how many accounts wait and are in another take; whether all that the others had was marked; and
    the account that comes last.
    """
    given = {"size": size, "after": after, "until": _locked_at(session, now) + hold}
    rows, shut_out, emptied, last = session.execute(_TAKE, given).one()
    return _marked(rows), shut_out, emptied, last


def take_these(session: Session, job_ids: Sequence[UUID], *, hold: timedelta, now: datetime | None) -> Marked:
    """Mark those of these jobs that are queued as taken for so long, whatever they were marked as before."""
    given = {"ids": list(job_ids), "until": _locked_at(session, now) + hold}
    return _marked(session.execute(_TAKE_THESE, given).scalar_one())


def _locked_at(session: Session, now: datetime | None) -> datetime:
    at: datetime = session.execute(_LOCK, {"now": now}).scalar_one()
    return at


def _marked(rows: list[list[Any]]) -> Marked:
    return [(UUID(job_id), doubted) for job_id, doubted in rows]
