"""What the roll-ups have to say, by plain Python: every source row read and added up by itself."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from billing.reports import revenue
from config.database import transaction
from tests.factories import NOON, rows

Key = tuple[date, int, str, str]
Figures = tuple[Any, ...]

FIGURES = (
    *("jobs", "jobs_settled", "credits", "revenue_usd", "cost_usd", "exposure_usd"),
    *("tokens_input", "tokens_input_cached", "tokens_output", "tokens_reasoning", "images", "credits_overrun"),
)
COLUMNS = ", ".join(FIGURES)
KEY = "day, account_id, operation_type, model_name"


def source() -> dict[Key, Figures]:
    """The sums of the jobs that are finished, their exposed calls, and the usage logs."""
    found: dict[Key, list[Any]] = defaultdict(lambda: [0, 0, 0, Decimal(0), Decimal(0), Decimal(0), 0, 0, 0, 0, 0, 0])
    jobs = rows(
        "SELECT id, finished_at, account_id, operation_type, model_name, cost_usd, credits_overrun FROM generation_jobs"
    )
    keys = {job[0]: (_day(job[1]), *job[2:5]) for job in jobs if job[1] is not None}
    for job in jobs:
        if job[1] is not None:
            found[keys[job[0]]][0] += 1
            found[keys[job[0]]][4] += job[5]
            found[keys[job[0]]][11] += job[6]
    for job_id, cost_usd in rows("SELECT job_id, cost_usd FROM provider_calls WHERE exposure"):
        if job_id in keys:
            found[keys[job_id]][5] += cost_usd
    for log in rows(
        "SELECT created_at, account_id, operation_type, model_used, credits_used, revenue_usd, tokens_input, "
        "tokens_input_cached, tokens_output, tokens_reasoning, images FROM credit_usage_logs"
    ):
        figures = found[(_day(log[0]), *log[1:4])]
        for place, amount in zip((1, 2, 3, 6, 7, 8, 9, 10), (1, *log[4:]), strict=True):
            figures[place] += amount
    return _without_nothing({key: tuple(figures) for key, figures in found.items()})


def rolled() -> dict[Key, Figures]:
    """The roll-ups as they stand, without what is queued."""
    return {row[:4]: row[4:] for row in rows(f"SELECT {KEY}, {COLUMNS} FROM revenue_rollups")}


def standing() -> dict[Key, Figures]:
    """The roll-ups and the changes that are queued, added up."""
    found: dict[Key, list[Any]] = {}
    for row in rows(
        f"SELECT {KEY}, {COLUMNS} FROM revenue_rollups UNION ALL SELECT {KEY}, {COLUMNS} FROM revenue_changes"
    ):
        figures = found.setdefault(row[:4], [0] * len(FIGURES))
        for place, amount in enumerate(row[4:]):
            figures[place] += amount
    return _without_nothing({key: tuple(figures) for key, figures in found.items()})


def queued() -> int:
    """How many changes wait for the next tick."""
    return rows("SELECT count(*) FROM revenue_changes")[0][0]


def roll_up(*, limit: int = revenue.BATCH) -> int:
    """One batch of a tick."""
    with transaction() as session:
        return revenue.roll_up(session, now=NOON, limit=limit)


def rebuild(first: date, last: date) -> int:
    """Some days anew."""
    with transaction(isolation="REPEATABLE READ") as session:
        return revenue.rebuild(session, first, last, now=NOON)


def _day(at: datetime) -> date:
    return at.astimezone(UTC).date()


def _without_nothing(found: dict[Key, Figures]) -> dict[Key, Figures]:
    return {key: figures for key, figures in found.items() if any(figures)}
