"""Queries over revenue: its sources, the queue of their changes, and the roll-ups that these are added up in.

A job, its cost and its exposure count on the day (UTC) of `finished_at`, its usage on that of `created_at`: settling
writes one instant into both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, time, timedelta

from sqlalchemy import RowMapping, func, select, text
from sqlalchemy.orm import Session

from billing.ledger.tables import Account, CreditTransaction
from billing.reports.tables import RevenueRollup
from billing.sql import as_json, recordset

KEY = ("day", "account_id", "operation_type", "model_name")
COUNTS = (
    *("jobs", "jobs_settled", "credits", "credits_overrun"),
    *("tokens_input", "tokens_input_cached", "tokens_output", "tokens_reasoning", "images"),
)
FIGURES = (*COUNTS, "revenue_usd", "cost_usd", "exposure_usd")
"""Numbers, credits, tokens, images; and amounts of USD."""

_KEY = ", ".join(KEY)
_FIGURES = ", ".join(FIGURES)
_SUMS = ", ".join(f"sum({name}) AS {name}" for name in FIGURES)
_NO_SUM = " AND ".join(f"sum({name}) = 0" for name in FIGURES)
_NOTHING = " AND ".join(f"{name} = 0" for name in FIGURES)

SOURCE = f"""
    SELECT {_KEY}, {_SUMS} FROM (
        SELECT (j.finished_at AT TIME ZONE 'UTC')::date, j.account_id, j.operation_type, j.model_name,
               1, 0, 0, j.credits_overrun, 0, 0, 0, 0, 0, 0, j.cost_usd, 0
        FROM generation_jobs j WHERE j.finished_at >= :start AND j.finished_at < :end
        UNION ALL
        SELECT (l.created_at AT TIME ZONE 'UTC')::date, l.account_id, l.operation_type, l.model_used,
               0, 1, l.credits_used, 0, l.tokens_input, l.tokens_input_cached, l.tokens_output, l.tokens_reasoning,
               l.images, l.revenue_usd, 0, 0
        FROM credit_usage_logs l WHERE l.created_at >= :start AND l.created_at < :end
        UNION ALL
        SELECT (j.finished_at AT TIME ZONE 'UTC')::date, j.account_id, j.operation_type, j.model_name,
               0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, c.cost_usd
        FROM provider_calls c JOIN generation_jobs j ON j.id = c.job_id
        WHERE c.exposure AND j.finished_at >= :start AND j.finished_at < :end
    ) source ({_KEY}, {_FIGURES})
    GROUP BY {_KEY}
"""  # noqa: S608 - names of our own columns
"""What the roll-ups of the jobs finished from `:start` up to `:end` must say."""

_COUNTED = f"SELECT {_KEY}, {_FIGURES} FROM revenue_rollups UNION ALL SELECT {_KEY}, {_FIGURES} FROM revenue_changes"  # noqa: S608
ROLLED_UP = f"SELECT {_KEY}, {_SUMS} FROM ({_COUNTED}) counted GROUP BY {_KEY} HAVING NOT ({_NO_SUM})"  # noqa: S608
"""What the roll-ups say together with the changes that are still queued: always what SOURCE says."""

# Changes are taken by deleting them: a transaction that commits late has older ids, so a remembered newest id would
# skip its money for ever.
_TAKE = text(
    f"""
    WITH taken AS (
        DELETE FROM revenue_changes WHERE id = ANY (ARRAY(SELECT id FROM revenue_changes ORDER BY id LIMIT :limit))
        RETURNING {_KEY}, {_FIGURES}
    ), summed AS (
        SELECT {_KEY}, {_SUMS} FROM taken GROUP BY {_KEY}
    ), written AS (
        INSERT INTO revenue_rollups AS r ({_KEY}, {_FIGURES}, computed_at)
        SELECT {_KEY}, {_FIGURES}, :now FROM summed WHERE NOT ({_NOTHING})
        ON CONFLICT ({_KEY}) DO UPDATE SET
            {", ".join(f"{name} = r.{name} + EXCLUDED.{name}" for name in FIGURES)}, computed_at = EXCLUDED.computed_at
        RETURNING {_KEY}, {_FIGURES}
    )
    SELECT (SELECT count(*) FROM taken) AS taken,
           (SELECT jsonb_agg(jsonb_build_object({", ".join(f"'{name}', {name}" for name in KEY)}))
            FROM written WHERE {_NOTHING}) AS emptied
    """  # noqa: S608
)

_SPAN = text(
    """
    SELECT min(day), max(day) FROM (
        SELECT (unnest(ARRAY[min(finished_at), max(finished_at)]) AT TIME ZONE 'UTC')::date FROM generation_jobs
        UNION ALL
        SELECT (unnest(ARRAY[min(created_at), max(created_at)]) AT TIME ZONE 'UTC')::date FROM credit_usage_logs
        UNION ALL SELECT day FROM revenue_rollups
        UNION ALL SELECT day FROM revenue_changes
    ) days (day)
    """
)


def lock_rollups(session: Session) -> None:
    """Lock the roll-ups against other writers until this transaction ends; readers go on. Takes no snapshot."""
    session.execute(text("LOCK TABLE revenue_rollups IN SHARE ROW EXCLUSIVE MODE"))


def is_one_snapshot(session: Session) -> bool:
    """Whether this transaction reads one snapshot throughout; asking takes none."""
    return session.scalar(text("SHOW transaction_isolation")) == "repeatable read"


def take_changes(session: Session, *, limit: int, now: datetime) -> int:
    """Move up to `limit` queued changes, the oldest first, into their roll-ups; returns how many there were."""
    taken, emptied = session.execute(_TAKE, {"limit": limit, "now": now}).one()
    if emptied:
        table = RevenueRollup.metadata.tables[RevenueRollup.__tablename__]
        session.execute(
            text(f"DELETE FROM revenue_rollups r USING {recordset(table, KEY)} WHERE ({_of('r')}) = ({_of('v')})"),  # noqa: S608
            {"rows": as_json(emptied)},
        )
    return taken


def replace(session: Session, first: date, last: date, *, now: datetime) -> int:
    """Write the roll-ups of the days from `first` to `last` from their sources; returns how many there are."""
    days = {"first": first, "last": last}
    # What is queued for these days is in the sources by now.
    session.execute(text("DELETE FROM revenue_changes WHERE day BETWEEN :first AND :last"), days)
    session.execute(text("DELETE FROM revenue_rollups WHERE day BETWEEN :first AND :last"), days)
    written = session.execute(
        text(f"INSERT INTO revenue_rollups ({_KEY}, {_FIGURES}, computed_at) SELECT {_KEY}, {_FIGURES}, :now "  # noqa: S608
             f"FROM ({SOURCE}) s"),
        {"now": now, "start": _midnight(first), "end": _midnight(last + timedelta(days=1))},
    )  # fmt: skip
    return written.rowcount  # type: ignore[attr-defined]


def span(session: Session) -> tuple[date, date] | None:
    """The first and the last day on which anything happened or was rolled up; None when nothing ever did."""
    first, last = session.execute(_SPAN).one()
    return None if first is None else (first, last)


def sums(
    session: Session, first: date, last: date, *, by: Sequence[str], account_ids: Sequence[int] | None = None
) -> Sequence[RowMapping]:
    """The figures of the days from `first` to `last` by one or two columns of the key, of these accounts or of all.

    Roll-ups and queued changes together, in one snapshot: exact, whenever the last tick was. Rows whose
    figures are all 0 are left out.
    """
    assert set(by) <= set(KEY)
    dimensions = ", ".join(by)
    statement = text(
        f"""
        SELECT {dimensions}, {_SUMS} FROM ({_COUNTED}) counted
        WHERE day BETWEEN :first AND :last AND (CAST(:accounts AS bigint[]) IS NULL OR account_id = ANY (:accounts))
        GROUP BY {dimensions} HAVING NOT ({_NO_SUM}) ORDER BY {dimensions}
        """  # noqa: S608
    )
    accounts = None if account_ids is None else list(account_ids)
    return session.execute(statement, {"first": first, "last": last, "accounts": accounts}).mappings().all()


def account_names(session: Session, account_ids: Iterable[int]) -> dict[int, str]:
    """The names of these accounts."""
    statement = select(Account.id, Account.name).where(Account.id.in_(sorted(set(account_ids))))
    return {row.id: row.name for row in session.execute(statement)}


def put_in(session: Session, first: date, last: date, *, account_id: int | None) -> Sequence[tuple[str, int, int]]:
    """How many rows of the ledger put credits into accounts on these days, and how many in all, by their reason."""
    row = CreditTransaction
    statement = (
        select(row.reason, func.count(), func.sum(row.amount))
        .where(row.created_at >= _midnight(first), row.created_at < _midnight(last + timedelta(days=1)))
        .where(row.reason != "used")
        .group_by(row.reason)
    )
    if account_id is not None:
        statement = statement.where(row.account_id == account_id)
    return [(reason, entries, int(credits)) for reason, entries, credits in session.execute(statement)]


def unspent_credits(session: Session, *, last: date) -> int:
    """Credits that were put into accounts up to the end of this day and not charged by then."""
    until = CreditTransaction.created_at < _midnight(last + timedelta(days=1))
    return int(session.scalar(select(func.coalesce(func.sum(CreditTransaction.amount), 0)).where(until)) or 0)


def _of(alias: str) -> str:
    return ", ".join(f"{alias}.{name}" for name in KEY)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(tzinfo=UTC))
