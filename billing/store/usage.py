"""Queries over the log of what settled jobs used."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from billing.store.tables import CreditUsageLog, GenerationJob

PAGE = 1_000


def median_output(session: Session, operation_type: str, model_name: str, *, latest: int) -> tuple[int | None, int]:
    """The median of the output tokens of the latest jobs of this operation on this model, and how many there are."""
    output = CreditUsageLog.tokens_output + CreditUsageLog.tokens_reasoning
    newest = (
        select(output.label("output"))
        .where(CreditUsageLog.operation_type == operation_type, CreditUsageLog.model_used == model_name)
        .order_by(CreditUsageLog.id.desc())
        .limit(latest)
        .subquery()
    )
    median = func.percentile_disc(0.5).within_group(newest.c.output)
    found, jobs = session.execute(select(median, func.count()).select_from(newest)).one()
    return found, jobs


def settled(
    session: Session, *, since: datetime, until: datetime, operation_type: str | None, model_name: str | None
) -> Iterator[tuple[CreditUsageLog, GenerationJob]]:
    """The usage of every job settled in this span, with the job itself, a page at a time."""
    statement = (
        select(CreditUsageLog, GenerationJob)
        .join(GenerationJob, GenerationJob.id == CreditUsageLog.job_id)
        .where(CreditUsageLog.created_at >= since, CreditUsageLog.created_at < until)
        .order_by(CreditUsageLog.id)
        .execution_options(yield_per=PAGE)
    )
    if operation_type is not None:
        statement = statement.where(CreditUsageLog.operation_type == operation_type)
    if model_name is not None:
        statement = statement.where(CreditUsageLog.model_used == model_name)
    yield from ((log, job) for log, job in session.execute(statement))
