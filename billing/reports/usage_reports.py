"""What an account has used: by day, model or operation, in credits, images and tokens, without what it cost us."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from sqlalchemy.orm import Session

from billing.errors import InvalidRequest
from billing.reports import revenue_queries
from billing.reports.figures import By
from billing.reports.revenue_reports import COLUMNS

DAYS_MAX = 366


@dataclass(frozen=True)
class Used:
    """What the settled jobs of a day, model or operation (`key`) used."""

    key: str
    jobs: int
    credits: int
    images: int
    tokens_input: int
    tokens_input_cached: int
    tokens_output: int
    tokens_reasoning: int


def used(session: Session, account_id: int, first: date, last: date, *, by: By) -> list[Used]:
    """What an account's jobs used on the days (UTC) from `first` to `last`; days without any are left out.

    Raises InvalidRequest for a span that ends before it begins, or is of more than a year.
    """
    if not 0 <= (last - first).days < DAYS_MAX:
        raise InvalidRequest(f"A span is of 1 to {DAYS_MAX} days, and ends after it begins.", code="invalid_span")
    column = COLUMNS[by]
    rows = revenue_queries.sums(session, first, last, by=[column], account_ids=[account_id])
    counts = [name for name in Used.__dataclass_fields__ if name not in ("key", "jobs")]
    return [
        Used(str(row[column]), int(row["jobs_settled"]), *(int(row[name]) for name in counts))
        for row in rows
        if row["jobs_settled"]
    ]
