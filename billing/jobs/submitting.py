"""Submitting: a request is checked whole against the catalogue before anything is written, and written once.

A request becomes a queued job. The job row is the outbox: the caller commits first and publishes afterwards.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy.orm import Session

from billing.catalog import catalog, tokens
from billing.catalog.pricing import Price, Work, estimate
from billing.catalog.tables import AIModelConfig, CreditCostConfig
from billing.errors import IdempotencyConflict, InvalidRequest, NotCancellable, TooManyOpenJobs, UnknownThing
from billing.jobs import job_queries
from billing.jobs.requests import EmbeddingParams, ImageParams, Submission, TextParams, validated
from billing.jobs.states import Event, State
from billing.jobs.tables import GenerationJob
from billing.ledger import accounts
from config.integrations import platform_settings


@dataclass(frozen=True)
class Submitted:
    """The job of a request; `created` is False when the same request had been submitted before."""

    job_id: UUID
    kind: str
    state: str
    created: bool


@dataclass(frozen=True)
class Examined:
    """A request that was understood: its model, its whole parameters, what it can use at most, and its price."""

    submission: Submission
    params: dict[str, Any]
    model: AIModelConfig
    operation: CreditCostConfig
    work: Work
    price: Price
    warning: str | None = None

    @property
    def credits_estimated(self) -> int:
        """The most credits that it can be charged."""
        return estimate(self.work, self.price)

    @property
    def limit_type(self) -> str | None:
        """The plan limit that it uses: for images the one of the model, otherwise the one of the operation."""
        return self.model.limit_type if self.model.model_type == "image" else self.operation.limit_type


Understood = tuple[dict[str, Any], Work, Price]
"""Whole parameters, the most that they can use, and the price."""


def examine(session: Session, submission: Submission, *, now: datetime) -> Examined:
    """Check a request against the catalogue; raises a BillingError with one sentence when it cannot be done."""
    accounts.get(session, submission.account_id)
    accounts.check_user(session, submission.account_id, submission.user_id)
    operation = catalog.operation_named(session, submission.operation)
    model = catalog.model_for(session, operation, submission.model, today=now.date())
    understand = {"image": _image, "text": _text, "embedding": _embedding}[operation.model_type]
    params, work, price = understand(session, submission, operation, model)
    warning = catalog.deprecation_warning(session, model, today=now.date())
    return Examined(submission, params, model, operation, work, price, warning)


def submit(
    session: Session, submissions: Sequence[Submission], *, now: datetime, deadline: timedelta, publish_by: timedelta
) -> list[Submitted]:
    """Turn requests into queued jobs, all or none; the same request again returns the same job.

    `deadline` is how long a job may stay open, `publish_by` how long its message may take before it is sent again.
    Raises a BillingError for the first request that cannot be done, IdempotencyConflict among them, and TooManyOpenJobs
    when there is no room for all; the caller's transaction then undoes what was added.
    """
    rows = [
        _row(examine(session, each, now=now), now=now, deadline=deadline, publish_by=publish_by) for each in submissions
    ]
    created = job_queries.add(session, rows)
    _check_bounds(session, rows, created)
    existing = job_queries.find_by_keys(session, [(row["account_id"], row["idempotency_key"]) for row in rows])
    return [_submitted(row, existing.get((row["account_id"], row["idempotency_key"])), created) for row in rows]


def cancel(session: Session, job_id: UUID, *, now: datetime) -> None:
    """Cancel a job that is still queued; raises UnknownThing or NotCancellable. A reserved job is released instead."""
    if not job_queries.move(session, Event.CANCEL, [{"id": job_id, "finished_at": now}]):
        found = job_queries.find(session, [job_id])
        if not found:
            raise UnknownThing("job", job_id)
        if found[0].state != State.CANCELLED:
            raise NotCancellable(job_id, found[0].state)


def _text(session: Session, submission: Submission, operation: CreditCostConfig, model: AIModelConfig) -> Understood:
    params = validated(TextParams, submission.params, "invalid_params")
    assert model.max_output_tokens is not None
    asked = params.max_output_tokens
    if asked is not None and asked > model.max_output_tokens:
        raise InvalidRequest(
            f"max_output_tokens is {asked}; {model.model_name} gives {model.max_output_tokens} at most.",
            code="invalid_params",
        )
    if params.temperature is not None and not model.supports_temperature:
        raise InvalidRequest(f"{model.model_name} takes no temperature.", code="invalid_params")
    if params.json_mode and not model.supports_json_mode:
        raise InvalidRequest(f"{model.model_name} has no JSON mode.", code="invalid_params")
    limit = asked or min(platform_settings(session).openai_max_tokens, model.max_output_tokens)
    work = Work(input_tokens=_count_what_fits(params.texts(), model, output=limit), max_output_tokens=limit)
    return submission.params, work, catalog.price_of(session, operation, model)


def _image(session: Session, submission: Submission, operation: CreditCostConfig, model: AIModelConfig) -> Understood:
    params = validated(ImageParams, submission.params, "invalid_params")
    if params.n > (model.max_images or 1):
        raise InvalidRequest(
            f"n is {params.n}; {model.model_name} makes {model.max_images or 1} images a request at most.",
            code="invalid_params",
        )
    size, quality = params.size, params.quality
    if size is None or quality is None:
        usual_size, usual_quality = catalog.image_defaults(session, model)
        size, quality = size or usual_size, quality or usual_quality
    if size is None:
        raise InvalidRequest(f"{model.model_name} has no usual size: give one.", code="invalid_size")
    if not model.validate_size(size):
        raise InvalidRequest(
            f"{model.model_name} makes no images of {size}. Known: {', '.join(model.valid_sizes or [])}.",
            code="invalid_size",
        )
    price = catalog.price_of(session, operation, model, size=size, quality=quality)
    whole = {**submission.params, "size": size, "quality": quality}
    if model.bills_images:
        return whole, Work(images=params.n), price
    assert model.max_output_tokens is not None
    counted = _count_what_fits([params.prompt], model, output=0)
    return whole, Work(counted, model.max_output_tokens * params.n, params.n), price


def _embedding(
    session: Session, submission: Submission, operation: CreditCostConfig, model: AIModelConfig
) -> Understood:
    params = validated(EmbeddingParams, submission.params, "invalid_params")
    # The model reads each text by itself, so its limit applies to each.
    counted = sum(_count_what_fits([each], model, output=0) for each in params.input)
    return submission.params, Work(input_tokens=counted), catalog.price_of(session, operation, model)


def _count_what_fits(texts: list[str], model: AIModelConfig, *, output: int) -> int:
    counted = tokens.count_input(texts, model.tokenizer)
    if model.context_window is not None and counted + output > model.context_window:
        more = f" and asks for up to {output} more" if output else ""
        raise InvalidRequest(
            f"The request has about {counted} input tokens{more}; {model.model_name} holds {model.context_window} "
            "in all.",
            code="input_too_long",
        )
    return counted


def _row(examined: Examined, *, now: datetime, deadline: timedelta, publish_by: timedelta) -> dict[str, Any]:
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
        "work": asdict(examined.work),
        "credits_estimated": examined.credits_estimated,
        "limit_type": examined.limit_type,
        "limit_unit": examined.operation.limit_unit,
        "next_at": now + publish_by,
        "deadline_at": now + deadline,
        "created_at": now,
    }


def _check_bounds(session: Session, rows: Sequence[dict[str, Any]], created: set[UUID]) -> None:
    """Raise TooManyOpenJobs over a bound; called after adding, because a repeat adds nothing and is never refused."""
    if not created:
        return
    bounds = catalog.defaults(session)
    new = Counter(row["account_id"] for row in rows if row["id"] in created)
    for account_id, asked in sorted(new.items()):
        limit = bounds.max_open_jobs_per_account
        if job_queries.unfinished(session, account_id=account_id, up_to=limit + 1) > limit:
            raise TooManyOpenJobs(f"Account {account_id}", asked=asked, limit=limit)
    if job_queries.unfinished(session, account_id=None, up_to=bounds.max_open_jobs + 1) > bounds.max_open_jobs:
        raise TooManyOpenJobs("This installation", asked=len(created), limit=bounds.max_open_jobs)


def _submitted(row: dict[str, Any], job: GenerationJob | None, created: set[UUID]) -> Submitted:
    if job is None:
        # The key is new and nothing was inserted: the id belongs to another request.
        raise IdempotencyConflict(str(row["id"]))
    if job.request_hash != row["request_hash"]:
        raise IdempotencyConflict(row["idempotency_key"])
    return Submitted(job_id=job.id, kind=job.kind, state=job.state, created=job.id == row["id"] and job.id in created)


def _hash(submission: Submission) -> str:
    body = {
        "operation": submission.operation,
        "params": submission.params,
        "model": submission.model,
        "user_id": submission.user_id,
    }
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
