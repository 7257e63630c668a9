"""Queries over the runs of the audit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from billing.reports.tables import AuditRun


def findings(session: Session, query: str, given: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """What the query of a rule finds: (row, problem, account id). It is given only the parameters that it names."""
    statement = text(query)
    taken = {name: given[name] for name in statement.compile().params}
    return [(row, problem, account_id) for row, problem, account_id in session.execute(statement, taken)]


def note(session: Session, run: AuditRun) -> None:
    """Record that the audit ran."""
    session.add(run)


def last_run(session: Session) -> AuditRun | None:
    """The latest run of the audit."""
    return session.scalar(select(AuditRun).order_by(AuditRun.ran_at.desc(), AuditRun.id.desc()).limit(1))
