"""Revenue reports: what some days brought in and cost, by day, account, operation or model, and what is still owed.

A report adds the queued changes to the roll-ups: it is exact at any time, not only after a tick.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from sqlalchemy import RowMapping
from sqlalchemy.orm import Session

from billing.catalog import current
from billing.errors import InvalidRequest
from billing.reports import revenue_queries
from billing.reports.figures import By, Deferred, Figures, Report, Row, Sort, total

COLUMNS = {By.DAY: "day", By.ACCOUNT: "account_id", By.OPERATION: "operation_type", By.MODEL: "model_name"}

ORDERS: Mapping[Sort, Callable[[Row], Decimal]] = {
    Sort.REVENUE: lambda row: -row.figures.revenue_usd,
    Sort.COST: lambda row: -row.figures.cost_usd,
    Sort.MARGIN: lambda row: -row.figures.margin_usd,
}
REASONS = ("sold", "plan", "goodwill", "adjusted")
"""Why credits are put into accounts."""


@dataclass(frozen=True)
class PutIn:
    """What was put into accounts for one reason: how many entries, and credits in all, less what was taken back."""

    reason: str
    entries: int
    credits: int


def report(
    session: Session,
    first: date,
    last: date,
    *,
    by: By,
    and_by: By | None = None,
    sort: Sort | None = None,
    account_ids: Sequence[int] | None = None,
) -> Report:
    """Report on the days (UTC) from `first` to `last`, of these accounts or of all; deferred credits are of all.

    With `and_by`, each row is of two dimensions. Unless `sort` says otherwise, days come in order, everything else by
    revenue, the largest first. Days without a finished job are left out. For one
    moment's figures throughout, call it at REPEATABLE READ. Raises InvalidRequest when the span ends before it begins.
    """
    if last < first:
        raise InvalidRequest(f"The span ends on {last}, before it begins on {first}.", code="invalid_span")
    dimensions = [each for each in (by, and_by) if each is not None]
    found = revenue_queries.sums(
        session, first, last, by=[COLUMNS[each] for each in dimensions], account_ids=account_ids
    )
    keys = {COLUMNS[each]: {row[COLUMNS[each]] for row in found} for each in dimensions}
    names = revenue_queries.account_names(session, keys.get("account_id", ()))
    rows = [_row(row, by, and_by, names) for row in found]
    if sort is not None or By.DAY not in dimensions:
        rows.sort(key=ORDERS[sort or Sort.REVENUE])
    defaults = current.read(session).defaults
    deferred = Deferred(revenue_queries.unspent_credits(session, last=last), defaults.default_credit_price_usd)
    whole = total(row.figures for row in rows)
    shows_tokens = defaults.enable_token_based_reporting
    return Report(first, last, by, rows, whole, deferred, shows_tokens=shows_tokens, and_by=and_by)


def credits_put_in(session: Session, first: date, last: date, *, account_id: int | None = None) -> list[PutIn]:
    """The credits that were put into accounts on the days (UTC) from `first` to `last`, by their reason.

    What was taken back by an adjustment counts against its reason. Raises InvalidRequest for a span that ends first.
    """
    if last < first:
        raise InvalidRequest(f"The span ends on {last}, before it begins on {first}.", code="invalid_span")
    found = {reason: each for reason, *each in revenue_queries.put_in(session, first, last, account_id=account_id)}
    return [PutIn(reason, *(found.get(reason) or (0, 0))) for reason in REASONS]


def _row(row: RowMapping, by: By, and_by: By | None, names: Mapping[int, str]) -> Row:
    def named(dimension: By) -> str:
        key = row[COLUMNS[dimension]]
        return names.get(key, str(key)) if dimension is By.ACCOUNT else str(key)

    if and_by is None:
        return Row(row[COLUMNS[by]], named(by), _figures(row))
    return Row(row[COLUMNS[by]], named(by), _figures(row), row[COLUMNS[and_by]], named(and_by))


def _figures(row: RowMapping) -> Figures:
    # PostgreSQL sums whole numbers to NUMERIC.
    sums: dict[str, Any] = {
        name: int(row[name]) if name in revenue_queries.COUNTS else row[name] for name in revenue_queries.FIGURES
    }
    return Figures(**sums)
