"""Who changed what, when: the history of prices, operations, plans, defaults and settings, as triggers keep it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy.orm import Session

from billing.catalog import history_queries
from billing.catalog.tables import ChangeHistory
from billing.paging import Listing, Page
from config.tiers.naming import PLATFORM_COLUMNS

CHANGES = Listing("changes", (int,))
"""Changed rows, the newest first, in the order in which they were changed."""
MODEL = ("ai_model_config", "image_prices")
OPERATION = ("credit_cost_config", "credit_cost_overrides")
DEFAULTS = ("billing_configuration",)
PLAN = ("plans",)
PLATFORM_SETTINGS = ("global_integration_settings",)
ACCOUNT_SETTINGS = ("account_settings", "integration_settings")
USER_SETTINGS = ("user_settings",)
UNTOLD = frozenset({"id", "created_at", "updated_at", "updated_by", "previous_tokens_per_credit"})
"""Columns that the history leaves out: another column's change already says the same."""


@dataclass(frozen=True)
class FieldChange:
    """One field of one row: what it was and what it became."""

    changed_at: datetime
    actor: str
    table: str
    row: str
    action: str
    field: str
    old: Any
    new: Any


def act_as(session: Session, actor: str) -> None:
    """Name the actor of this transaction's changes; without one, the history keeps the database's user."""
    history_queries.act_as(session, actor)


def changes(
    session: Session, tables: Sequence[str], name: str, *, limit: int, after: str | None = None
) -> Page[FieldChange]:
    """A page of the changes of the rows of this name, the newest first, field by field; `limit` counts changed rows.

    `after` is the cursor of the page before; raises InvalidRequest for any other.
    """
    found = history_queries.changes(session, tables, name, after=CHANGES.key(after), limit=limit + 1)
    page = CHANGES.page(found, limit, lambda row: (row.id,))
    return Page([change for row in page.rows for change in _fields(row)], page.next)


def _fields(row: ChangeHistory) -> list[FieldChange]:
    old, new = (_told(row.table_name, whole or {}) for whole in (row.old, row.new))
    return [
        FieldChange(
            row.changed_at,
            row.actor,
            row.table_name,
            _label(row),
            row.action,
            name,
            _exact(old.get(name)),
            _exact(value),
        )
        for name in {**old, **new}
        if name not in UNTOLD and old.get(name) != (value := new.get(name))
    ]


def _told(table: str, row: dict[str, Any]) -> dict[str, Any]:
    """The row as it is told: settings by their names."""
    if table in ("account_settings", "user_settings"):
        return {row["key"]: row["value"]} if row else {}
    if table == "integration_settings":
        return {f"{row['integration_type']}.{name}": value for name, value in row["config"].items()} if row else {}
    if table in PLATFORM_SETTINGS:
        names = {column: name for name, column in PLATFORM_COLUMNS.items()}
        return {names.get(column, column): value for column, value in row.items()}
    return row


def _exact(value: Any) -> Any:
    # Only prices have decimals in these tables, and a float keeps all of their digits.
    return Decimal(str(value)) if isinstance(value, float) else value


def _label(row: ChangeHistory) -> str:
    whole = row.new or row.old or {}
    if row.table_name == "credit_cost_overrides":
        return f"{row.row_name} on {whole['model_name']}"
    return f"{row.row_name} {whole['size']} {whole['quality']}" if row.table_name == "image_prices" else row.row_name
