"""Queries of claims: jobs are moved to `calling`, and the rows of their calls written, by one statement."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from billing.jobs.states import Event, leaving, target
from billing.sql import as_json, in_list

_CLAIM = text(
    f"""
    WITH wanted AS (
        SELECT * FROM jsonb_to_recordset(CAST(:wanted AS jsonb)) AS v(job_id uuid, claimed_by uuid, again integer)
    ), locked AS (
        SELECT j.id, j.state, j.attempts FROM generation_jobs j
        WHERE j.id = ANY (ARRAY(SELECT job_id FROM wanted)) AND {in_list("j.state", leaving(Event.CLAIM))}
        ORDER BY j.id FOR UPDATE
    ), claimed AS (
        UPDATE generation_jobs j SET state = '{target(Event.CLAIM)}', attempts = l.attempts + 1, error_code = NULL,
               lease_until = CAST(CAST(:leases AS jsonb) ->> j.kind AS timestamptz),
               next_at = CAST(CAST(:leases AS jsonb) ->> j.kind AS timestamptz)
        FROM locked l JOIN wanted w ON w.job_id = l.id
        -- By the locked row, which is the latest: while this statement waited, the job may have come to be reserved.
        WHERE j.id = l.id AND (l.state = 'reserved' OR l.attempts = w.again)
        RETURNING j.id, j.attempts, j.provider, j.model_name, j.kind, j.params, j.work, j.price, j.parts_delivered,
                  w.claimed_by
    ), called AS (
        INSERT INTO provider_calls
            (job_id, attempt, provider, model_name, endpoint, idempotency_key, claimed_by, started_at)
        -- One key for all attempts at a part: the provider, where it honours keys, then does its work once.
        SELECT id, attempts, provider, model_name, CAST(:apis AS jsonb) ->> model_name,
               'creditmill-' || id || CASE WHEN parts_delivered > 0 THEN '-' || (parts_delivered + 1) ELSE '' END,
               claimed_by, :now
        FROM claimed ORDER BY id
        RETURNING id AS call_id, job_id, endpoint, idempotency_key
    )
    SELECT claimed.*, called.* FROM claimed JOIN called ON called.job_id = claimed.id ORDER BY claimed.id
    """  # noqa: S608 - names of our own states
)
_CLAIMED_BY = text(
    """
    SELECT j.id, j.attempts, j.provider, j.model_name, j.kind, j.params, j.work, j.price, j.parts_delivered,
           c.id AS call_id, c.endpoint, c.idempotency_key
    FROM jsonb_to_recordset(CAST(:wanted AS jsonb)) AS w(job_id uuid, claimed_by uuid)
    JOIN generation_jobs j ON j.id = w.job_id AND j.state = 'calling' AND j.lease_until > :now
    JOIN provider_calls c
        ON c.job_id = j.id AND c.attempt = j.attempts AND c.claimed_by = w.claimed_by AND c.outcome IS NULL
    ORDER BY j.id FOR UPDATE OF j
    """
)


def claim(
    session: Session,
    wanted: Sequence[dict[str, Any]],
    *,
    now: datetime,
    leases: Mapping[str, datetime],
    apis: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Claim those of these jobs that are reserved, or were called last by their caller itself; write their calls' rows.

    A row of `wanted` has `job_id`, `claimed_by` and `again`. `leases` says by kind until when a claim lasts, `apis` by
    model which of its provider's interfaces is called.
    """
    given = {
        "wanted": as_json(wanted),
        "leases": json.dumps({kind: until.isoformat() for kind, until in leases.items()}),
        "apis": json.dumps(apis),
        "now": now,
    }
    return [dict(row) for row in session.execute(_CLAIM, given).mappings()]


def claimed_by(session: Session, wanted: Sequence[dict[str, Any]], *, now: datetime) -> list[dict[str, Any]]:
    """The open claims on these jobs that their callers themselves made, while their leases last."""
    rows = [each for each in wanted if each["claimed_by"] is not None]
    if not rows:
        return []
    found = session.execute(_CLAIMED_BY, {"wanted": as_json(rows), "now": now})
    return [dict(row) for row in found.mappings()]
