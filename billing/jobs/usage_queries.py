"""Queries over the log of what settled jobs used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from billing.jobs.tables import CreditUsageLog
from billing.sql import Part, inserted

_TABLE = CreditUsageLog.metadata.tables[CreditUsageLog.__tablename__]


def logged(rows: Sequence[dict[str, Any]]) -> Part:
    """The part of a statement that appends rows to the usage log."""
    return inserted(_TABLE, rows, name="logged")


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
