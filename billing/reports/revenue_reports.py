"""Revenue reports: what some days brought in and cost, by day, account, operation or model, and what is still owed.

A report adds the queued changes to the roll-ups: it is exact at any time, not only after a tick.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

from sqlalchemy import RowMapping
from sqlalchemy.orm import Session

from billing.catalog import current
from billing.errors import InvalidRequest
from billing.reports import revenue_queries
from billing.reports.figures import By, Deferred, Figures, Report, Row, total

COLUMNS = {By.DAY: "day", By.ACCOUNT: "account_id", By.OPERATION: "operation_type", By.MODEL: "model_name"}


def report(session: Session, first: date, last: date, *, by: By, account_ids: Sequence[int] | None = None) -> Report:
    """Report on the days (UTC) from `first` to `last`, of these accounts or of all; deferred credits are of all.

    Days come in order, everything else by revenue, the largest first. Days without a finished job are left out. For one
    moment's figures throughout, call it at REPEATABLE READ. Raises InvalidRequest when the span ends before it begins.
    """
    if last < first:
        raise InvalidRequest(f"The span ends on {last}, before it begins on {first}.", code="invalid_span")
    found = revenue_queries.sums(session, first, last, by=COLUMNS[by], account_ids=account_ids)
    names = revenue_queries.account_names(session, [row["key"] for row in found]) if by is By.ACCOUNT else {}
    rows = [Row(row["key"], names.get(row["key"], str(row["key"])), _figures(row)) for row in found]
    if by is not By.DAY:
        rows.sort(key=lambda row: -row.figures.revenue_usd)
    defaults = current.read(session).defaults
    deferred = Deferred(revenue_queries.unspent_credits(session, last=last), defaults.default_credit_price_usd)
    whole = total(row.figures for row in rows)
    return Report(first, last, by, rows, whole, deferred, shows_tokens=defaults.enable_token_based_reporting)


def _figures(row: RowMapping) -> Figures:
    # PostgreSQL sums whole numbers to NUMERIC.
    sums: dict[str, Any] = {
        name: int(row[name]) if name in revenue_queries.COUNTS else row[name] for name in revenue_queries.FIGURES
    }
    return Figures(**sums)
