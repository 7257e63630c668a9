"""Submitting: a request is examined whole before anything is written, and written once.

A request becomes a queued job. The job row is the outbox: the caller commits first and publishes afterwards.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from billing.catalog.snapshot import Moment
from billing.errors import BillingError, IdempotencyConflict, NotCancellable, UnknownThing
from billing.jobs import admitting, bounds, job_queries, submission_queries
from billing.jobs.admitting import Source
from billing.jobs.examining import Examined, examine
from billing.jobs.requests import Submission
from billing.jobs.states import Event, State
from billing.jobs.submission_queries import Added, Existing, Key
from billing.ledger import accounts


@dataclass(frozen=True)
class Submitted:
    """The job of a request; `created` is False when the same request had been submitted before."""

    job_id: UUID
    kind: str
    state: str
    created: bool


def submit(
    session: Session,
    submissions: Sequence[Submission],
    *,
    at: Moment,
    deadline: timedelta,
    publish_by: timedelta,
    source: Source | None = None,
) -> list[Submitted]:
    """Turn requests into queued jobs, all or none; the same request again returns the same job.

    `at` holds what the accounts have set themselves, as `billing.settings.own` reads it. `deadline` is how long a job
    may stay open, `publish_by` how long its message may take before it is sent again.
    Requests of one account with a `source` are refused unless the account, its plan and the key's cap cover them.
    Raises a BillingError for the first request that cannot be done, IdempotencyConflict among them, and TooManyOpenJobs
    when there is no room for all, and KeyCapReached; the caller's transaction then undoes what was added.
    """
    times = {"next_at": at.now + publish_by, "deadline_at": at.now + deadline, "created_at": at.now}
    examined = _examined(session, submissions, at)
    rows = [_row(each, source) | times for each in examined]
    asked = Counter(row["account_id"] for row in rows)
    limits = at.catalog.defaults
    added = submission_queries.add(
        session,
        rows,
        counted=bounds.to_count(asked, limits, now=at.now),
        account_bound=limits.max_open_jobs_per_account,
        bound=limits.max_open_jobs,
    )
    if added.refused:
        check_payers(session, submissions)
    # A repeat adds nothing and is never refused.
    bounds.check(Counter(key.account_id for key in added.created), added.open_jobs, limits, now=at.now)
    existing = _existing(session, rows, added)
    submitted = [
        _submitted(submission, row, existing.get(_key(row)), added)
        for submission, row in zip(submissions, rows, strict=True)
    ]
    if source is not None:
        created = [job.created for job in submitted]
        admitting.check_repeat(session, source, submissions[0].account_id, created)
        admitting.check_covered(session, [each for each, new in zip(examined, created, strict=True) if new], at=at)
    return submitted


def submit_at_once(
    connection: Connection,
    submission: Submission,
    *,
    at: Moment,
    deadline: timedelta,
    publish_by: timedelta,
    source: Source | None = None,
) -> Submitted | None:
    """Turn one request into a queued job by a single statement; None when it takes a closer look, as `submit` takes it.

    `at` may be what this process keeps: nothing is written unless its catalogue and its day still hold.
    """
    limits, account_id = at.catalog.defaults, submission.account_id
    counted = bounds.to_count({account_id: 1}, limits, now=at.now)
    if at.version is None:
        return None
    try:
        # An account that has settings of its own is not added so.
        examined = examine(at.catalog, submission, at.catalog.settings, today=at.today)
    except BillingError:
        # The catalogue may have changed since.
        return None
    if source is not None and examined.limit_type is not None:
        # What is left of a plan's limit is not told by one statement.
        return None
    row = _row(examined, source)
    open_jobs = submission_queries.add_at_once(
        connection,
        row,
        counted=counted,
        account_bound=limits.max_open_jobs_per_account,
        bound=limits.max_open_jobs,
        version=at.version,
        today=at.today,
        publish_by=publish_by,
        deadline=deadline,
        covered=source is not None,
    )
    if open_jobs is None:
        return None
    bounds.check({account_id: 1}, open_jobs, limits, now=at.now)
    return Submitted(job_id=row["id"], kind=row["kind"], state=State.QUEUED, created=True)


def check_payers(session: Session, submissions: Sequence[Submission]) -> None:
    """Raise UnknownThing for the first request whose account does not exist, or whose user is not the account's."""
    checked = set()
    for each in submissions:
        if (each.account_id, each.user_id) not in checked:
            accounts.get(session, each.account_id)
            accounts.check_user(session, each.account_id, each.user_id)
            checked.add((each.account_id, each.user_id))


def cancel(session: Session, job_id: UUID, *, now: datetime) -> None:
    """Cancel a job that is still queued; raises UnknownThing or NotCancellable. A reserved job is released instead."""
    if not job_queries.move(session, Event.CANCEL, [{"id": job_id, "finished_at": now}]):
        found = job_queries.find(session, [job_id])
        if not found:
            raise UnknownThing("job", job_id)
        if found[0].state != State.CANCELLED:
            raise NotCancellable(job_id, found[0].state)


def _examined(session: Session, submissions: Sequence[Submission], at: Moment) -> list[Examined]:
    found = []
    for number, each in enumerate(submissions):
        try:
            settings = at.settings_of(each.account_id, each.user_id)
            found.append(examine(at.catalog, each, settings, today=at.today))
        except BillingError:
            # An account that does not exist is the clearer answer, and so is an earlier request's.
            check_payers(session, submissions[: number + 1])
            raise
    return found


def _row(examined: Examined, source: Source | None) -> dict[str, Any]:
    submission, model = examined.submission, examined.model
    job_id = submission.job_id or uuid4()
    return {
        "id": job_id,
        "account_id": submission.account_id,
        "user_id": submission.user_id,
        "operation_type": submission.operation,
        "model_name": model.model_name,
        "provider": model.provider,
        "kind": model.model_type,
        "params": examined.params,
        "idempotency_key": submission.idempotency_key or str(job_id),
        "request_hash": _hash(submission),
        "related_object_type": submission.params.get("related_object_type"),
        "related_object_id": submission.params.get("related_object_id"),
        "label": submission.params.get("label"),
        "api_key_id": None if source is None else source.api_key_id,
        "work": vars(examined.work),
        "settings_used": examined.settings_used,
        "credits_estimated": examined.credits_estimated,
        "limit_type": examined.limit_type,
        "limit_unit": examined.operation.limit_unit,
    }


def _key(row: dict[str, Any]) -> Key:
    return Key(row["account_id"], row["idempotency_key"])


def _existing(session: Session, rows: Sequence[dict[str, Any]], added: Added) -> dict[Key, Existing]:
    """The job of each key: the one just added, or the one that was there before."""
    found = {
        _key(row): Existing(row["id"], row["kind"], State.QUEUED, row["request_hash"])
        for row in rows
        if added.created.get(_key(row)) == row["id"]
    }
    before = {_key(row) for row in rows if _key(row) not in found}
    return found | submission_queries.existing(session, sorted(before))


def _submitted(submission: Submission, row: dict[str, Any], job: Existing | None, added: Added) -> Submitted:
    if job is None:
        # The key is new and nothing was inserted: the id belongs to another request.
        raise IdempotencyConflict(str(row["id"]))
    if job.request_hash != row["request_hash"] and job.request_hash not in _earlier_hashes(submission):
        raise IdempotencyConflict(row["idempotency_key"])
    created = job.id == row["id"] and added.created.get(_key(row)) == row["id"]
    return Submitted(job_id=job.id, kind=job.kind, state=job.state, created=created)


def _earlier_hashes(submission: Submission) -> set[str]:
    """How this request may have been hashed up to version 0.1, where a temperature of 1.0 was not one of 1."""
    temperature = submission.params.get("temperature")
    if type(temperature) is not int:
        return set()
    written = (float(temperature), -float(temperature))
    return {
        _hash(submission.model_copy(update={"params": {**submission.params, "temperature": each}})) for each in written
    }


def _hash(submission: Submission) -> str:
    body = {
        "operation": submission.operation,
        "params": submission.params,
        "model": submission.model,
        "user_id": submission.user_id,
    }
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
