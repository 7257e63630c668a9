"""Queries over plans, and over the rows that count what one account uses of one limit in one period."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any

from sqlalchemy import select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from billing.plans.tables import Plan, PlanLimitUsage
from billing.sql import Part, as_json

LimitKey = tuple[int, str, date]
"""Account id, limit type, first day of the period."""

LABELS_MAX = 1_000
"""How many labels of one limit in one period are told apart."""
OTHER_LABELS = "(other)"
"""What the further ones are counted together as."""

# The CHECKs of accounts refuse what the balance does not cover; a plan's allowance is on another row, so the statement
# itself compares with it.
_COUNT = f"""
    UPDATE plan_limit_usage u SET amount_used = u.amount_used + v.used,
           amount_reserved = u.amount_reserved + v.reserved, updated_at = now(),
           metadata = CASE WHEN v.labels = '{{}}' THEN u.metadata ELSE u.metadata || jsonb_build_object('by_label', (
               SELECT jsonb_object_agg(label, used) FROM (
                   SELECT label, sum(used) AS used FROM (
                       SELECT key AS label, CAST(value AS bigint) AS used
                       FROM jsonb_each_text(coalesce(u.metadata -> 'by_label', '{{}}'))
                       UNION ALL
                       SELECT CASE WHEN jsonb_exists(u.metadata -> 'by_label', key) OR {LABELS_MAX} > (
                                  SELECT count(*) FROM jsonb_object_keys(coalesce(u.metadata -> 'by_label', '{{}}')))
                              THEN key ELSE '{OTHER_LABELS}' END, CAST(value AS bigint)
                       FROM jsonb_each_text(v.labels)
                   ) each GROUP BY label
               ) summed)) END
    FROM jsonb_to_recordset(CAST(:limits AS jsonb))
         AS v(account_id bigint, limit_type text, period_start date, used bigint, reserved bigint, allowed bigint,
              labels jsonb)
    WHERE u.account_id = v.account_id AND u.limit_type = v.limit_type AND u.period_start = v.period_start
      AND (v.allowed IS NULL OR u.amount_used + u.amount_reserved + v.used + v.reserved <= v.allowed)
    RETURNING 1
"""  # noqa: S608 - numbers and names of our own


def plans(session: Session) -> list[Plan]:
    """Every plan, by its price."""
    return list(session.scalars(select(Plan).order_by(Plan.price, Plan.slug)))


def plan(session: Session, slug: str) -> Plan | None:
    """The plan of this name."""
    return session.scalar(select(Plan).where(Plan.slug == slug))


def open_rows(session: Session, rows: Sequence[dict[str, Any]]) -> int:
    """Open usage rows for their periods; returns how many were new. A row that exists is left alone."""
    if not rows:
        return 0
    statement = insert(PlanLimitUsage).on_conflict_do_nothing().returning(PlanLimitUsage.id)
    # All transactions insert in one order, so one that meets a row just opened by another only waits for it.
    in_order = sorted(rows, key=lambda row: (row["account_id"], row["limit_type"], row["period_start"]))
    return len(session.scalars(statement, in_order).all())


def find(session: Session, keys: Iterable[LimitKey]) -> dict[LimitKey, PlanLimitUsage]:
    """The usage rows of these keys. A caller that changes one holds its account's lock, which guards them too."""
    wanted = sorted(set(keys))
    if not wanted:
        return {}
    columns = (PlanLimitUsage.account_id, PlanLimitUsage.limit_type, PlanLimitUsage.period_start)
    statement = select(PlanLimitUsage).where(tuple_(*columns).in_(wanted))
    found = session.scalars(statement.execution_options(populate_existing=True))
    return {(row.account_id, row.limit_type, row.period_start): row for row in found}


def counted(changes: Sequence[dict[str, Any]]) -> Part:
    """The part of a posting that adds to usage rows; a row whose `allowed` does not cover the sum is not written."""
    return Part("counted", _COUNT, len(changes), {"limits": as_json(changes)})
