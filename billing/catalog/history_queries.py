"""Queries over the history of changes, which the database's triggers write."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from billing.catalog.tables import ChangeHistory


def act_as(session: Session, actor: str) -> None:
    """Name the actor of this transaction's changes."""
    session.execute(text("SELECT set_config('creditmill.actor', :actor, true)"), {"actor": actor})


def changes(session: Session, tables: Sequence[str], name: str, *, limit: int | None) -> list[ChangeHistory]:
    """The changed rows of this name, the newest first."""
    statement = (
        select(ChangeHistory)
        .where(ChangeHistory.table_name.in_(tables), ChangeHistory.row_name == name)
        .order_by(ChangeHistory.id.desc())
        .limit(limit)
    )
    return list(session.scalars(statement))
