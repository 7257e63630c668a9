"""Queries over past usage, with everything that it is priced by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import Session

from billing.jobs.tables import CreditUsageLog, GenerationJob

PAGE = 1_000

PricedBy = tuple[str, str, str, str]
"""Operation, model, and for images size and quality."""


@dataclass(frozen=True)
class Span:
    """Usage from `since` up to `until`, of one operation or model, or of all."""

    since: datetime
    until: datetime
    operation_type: str | None = None
    model_name: str | None = None


def priced_by(session: Session, span: Span) -> list[PricedBy]:
    """Each combination that the usage of this span is priced by, once."""
    return [
        (operation, model, size, quality)
        for operation, model, size, quality in session.execute(
            _in(
                span,
                select(
                    GenerationJob.operation_type,
                    GenerationJob.model_name,
                    _image_column("size"),
                    _image_column("quality"),
                ).distinct(),
            )
        )
    ]


def priced_by_of(job: GenerationJob) -> PricedBy:
    """What one job's usage is priced by."""
    image = (job.price or {}).get("image") or {}
    size, quality = (job.params.get(name) or image.get(name) or "" for name in ("size", "quality"))
    return job.operation_type, job.model_name, size, quality


def _image_column(name: str) -> ColumnElement[str]:
    # For an older job, only its stored price has the size and the quality.
    return func.coalesce(GenerationJob.params[name].astext, GenerationJob.price["image"][name].astext, "")


def settled(session: Session, span: Span) -> Iterator[tuple[CreditUsageLog, GenerationJob]]:
    """The usage of every job settled in this span, with the job itself, a page at a time."""
    statement = _in(span, select(CreditUsageLog, GenerationJob)).order_by(CreditUsageLog.id)
    yield from ((log, job) for log, job in session.execute(statement.execution_options(yield_per=PAGE)))


def _in(span: Span, statement: Any) -> Select[Any]:
    statement = statement.join_from(CreditUsageLog, GenerationJob, GenerationJob.id == CreditUsageLog.job_id).where(
        CreditUsageLog.created_at >= span.since, CreditUsageLog.created_at < span.until
    )
    if span.operation_type is not None:
        statement = statement.where(CreditUsageLog.operation_type == span.operation_type)
    if span.model_name is not None:
        statement = statement.where(CreditUsageLog.model_used == span.model_name)
    return statement
