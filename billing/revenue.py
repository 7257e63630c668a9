"""Revenue roll-ups: what each day, account, operation and model brought in, and what it cost.

A job counts on the day (UTC) on which it finished. Roll-ups are computed from the jobs and their evidence and may be
computed again at any time: the same rows come out.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from billing.store.tables import GenerationJob, RevenueRollup

LOOK_BACK = timedelta(days=2)
"""How many closed days are computed again each time, for costs that become known late."""

SOURCE = """
    SELECT (j.finished_at AT TIME ZONE 'UTC')::date AS day, j.account_id, j.operation_type, j.model_name,
           count(*) AS jobs, count(u.id) AS jobs_settled, coalesce(sum(u.credits_used), 0) AS credits,
           coalesce(sum(u.revenue_usd), 0) AS revenue_usd, coalesce(sum(j.cost_usd), 0) AS cost_usd,
           coalesce(sum(x.exposure_usd), 0) AS exposure_usd,
           coalesce(sum(u.revenue_usd), 0) - coalesce(sum(j.cost_usd), 0) AS margin_usd,
           coalesce(sum(u.tokens_input), 0) AS tokens_input,
           coalesce(sum(u.tokens_input_cached), 0) AS tokens_input_cached,
           coalesce(sum(u.tokens_output), 0) AS tokens_output,
           coalesce(sum(u.tokens_reasoning), 0) AS tokens_reasoning, coalesce(sum(u.images), 0) AS images
    FROM generation_jobs j
    LEFT JOIN credit_usage_logs u ON u.job_id = j.id
    LEFT JOIN LATERAL (SELECT sum(c.cost_usd) AS exposure_usd FROM provider_calls c
                       WHERE c.job_id = j.id AND c.exposure) x ON true
    WHERE j.finished_at >= :start AND j.finished_at < :end
    GROUP BY 1, 2, 3, 4
"""
COLUMNS = (
    "day, account_id, operation_type, model_name, jobs, jobs_settled, credits, revenue_usd, cost_usd, exposure_usd, "
    "margin_usd, tokens_input, tokens_input_cached, tokens_output, tokens_reasoning, images"
)


def roll_up(session: Session, *, now: datetime) -> int:
    """Bring the roll-ups up to date, from shortly before the last day that was rolled up; returns the rows written."""
    today = now.astimezone(UTC).date()
    rolled = session.scalar(select(func.max(RevenueRollup.day)))
    first_job = session.scalar(select(func.min(GenerationJob.finished_at)))
    if first_job is None:
        return 0
    since = rolled if rolled is not None else first_job.astimezone(UTC).date()
    return rebuild(session, min(since, today) - LOOK_BACK, today, now=now)


def rebuild(session: Session, first: date, last: date, *, now: datetime) -> int:
    """Compute the days from `first` to `last` (both included) anew; returns the rows written."""
    # Two at once would insert the same rows: the second waits for the first, then finds nothing to change.
    session.execute(text("SELECT pg_advisory_xact_lock(hashtext('creditmill.revenue_rollups'))"))
    session.execute(
        text("DELETE FROM revenue_rollups WHERE day BETWEEN :first AND :last"), {"first": first, "last": last}
    )
    written = session.execute(
        text(f"INSERT INTO revenue_rollups ({COLUMNS}, computed_at) SELECT {COLUMNS}, :now FROM ({SOURCE}) s"),  # noqa: S608
        {"now": now, **_bounds(first, last)},
    )
    return written.rowcount  # type: ignore[attr-defined]


def by_model(session: Session, account_ids: list[int] | None = None) -> list[RevenueRollup]:
    """The roll-up rows of these accounts (None for all), by model and day."""
    statement = select(RevenueRollup).order_by(RevenueRollup.model_name, RevenueRollup.day)
    if account_ids is not None:
        statement = statement.where(RevenueRollup.account_id.in_(account_ids))
    return list(session.scalars(statement))


def _bounds(first: date, last: date) -> dict[str, datetime]:
    midnight = time(tzinfo=UTC)
    return {
        "start": datetime.combine(first, midnight),
        "end": datetime.combine(last + timedelta(days=1), midnight),
    }
