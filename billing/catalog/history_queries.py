"""Queries over the history of changes, which the database's triggers write."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from billing.catalog.tables import ChangeHistory
from billing.paging import Key
from billing.sql import newest_first


def act_as(session: Session, actor: str) -> None:
    """Name the actor of this transaction's changes."""
    session.execute(text("SELECT set_config('creditmill.actor', :actor, true)"), {"actor": actor})


def changes(
    session: Session, tables: Sequence[str], name: str, *, after: Key | None, limit: int
) -> list[ChangeHistory]:
    """The changed rows of this name, the newest first, behind the change of this id."""
    change = ChangeHistory
    named = select(change).where(change.row_name == name)
    if after is not None:
        named = named.where(change.id < after[0])
    branches = [named.where(change.table_name == table) for table in tables]
    return list(session.scalars(newest_first(change, branches, ("id",), limit=limit)))
