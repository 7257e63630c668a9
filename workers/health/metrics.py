"""The state of the system as figures for Prometheus: what waits, what is unknown, and whether the books balance.

Read from the database and the broker when asked, so no process has to be alive for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import redis
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from sqlalchemy.orm import Session

from billing.jobs import call_checks, recovery
from billing.ledger import accounts
from billing.reports import audit, overrun
from billing.upkeep import dead_letters
from config.broker import broker_client
from config.database import database_now, transaction
from config.settings import Settings
from workers.health.broker import messages_by_queue, queue_names


@dataclass(frozen=True)
class Figure:
    """One measured value; `labels` tell several of one name apart."""

    name: str
    help: str
    value: float
    labels: dict[str, str] = field(default_factory=dict)


def measure(settings: Settings) -> list[Figure]:
    """Every figure; those of the broker are left out while it is away."""
    with transaction() as session:
        figures = list(_database(session))
    return [*figures, *_broker(settings)]


def exposition(figures: list[Figure]) -> str:
    """The figures in the text format that Prometheus reads."""
    registry, gauges = CollectorRegistry(), dict[str, Gauge]()
    for figure in figures:
        if figure.name not in gauges:
            gauges[figure.name] = Gauge(figure.name, figure.help, list(figure.labels), registry=registry)
        gauge = gauges[figure.name]
        (gauge.labels(**figure.labels) if figure.labels else gauge).set(figure.value)
    return generate_latest(registry).decode()


def _database(session: Session) -> Iterator[Figure]:
    now = database_now(session)
    for state, count in recovery.count_unfinished(session).items():
        yield Figure("creditmill_jobs", "Jobs that are not finished, by state.", count, {"state": state})
    late, _ = recovery.overdue(session, now=now)
    yield Figure("creditmill_jobs_overdue", "Jobs that recovery should have looked at five minutes ago.", late)
    yield Figure("creditmill_dead_messages", "Messages that were set aside.", dead_letters.count(session))
    yield Figure("creditmill_accounts_frozen", "Accounts that may start no new jobs.", accounts.count_frozen(session))
    for note, count in call_checks.mended(session, now=now).items():
        yield Figure(
            "creditmill_usage_mended", "Calls of the last day whose usage was mended, by rule.", count, {"rule": note}
        )
    for found in call_checks.cost_differences(session, now=now):
        difference = float(found.reported_usd - found.ours_usd)
        yield Figure(
            "creditmill_cost_difference_usd",
            "What providers report of the last 30 days' calls beyond our cost, by model.",
            difference,
            {"model": found.model},
        )
    for each in overrun.by_model(session, now=now):
        yield Figure(
            "creditmill_credits_overrun",
            "Credits that jobs of the last 30 days used beyond what was held, by model.",
            each.credits_overrun,
            {"model": each.model},
        )
    last = audit.last_run(session)
    if last is not None:
        yield Figure("creditmill_audit_findings", "Findings of the last periodic audit.", last.findings)
        yield Figure(
            "creditmill_audit_age_seconds", "Since the last periodic audit.", (now - last.ran_at).total_seconds()
        )


def _broker(settings: Settings) -> Iterator[Figure]:
    try:
        with broker_client(settings.broker_url.get_secret_value()) as client:
            waiting = messages_by_queue(client, queue_names())
            held = client.hlen("unacked")
    except redis.RedisError:
        return
    for name, length in waiting.items():
        yield Figure("creditmill_queue_messages", "Messages that wait, by queue.", length, {"queue": name})
    yield Figure("creditmill_unacknowledged_messages", "Messages that workers hold.", held)
