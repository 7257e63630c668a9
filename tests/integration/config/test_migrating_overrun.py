"""What the migrations make of jobs that had overrun before it was summed."""

from __future__ import annotations

import pytest
from alembic import command
from sqlalchemy import create_engine, text

from billing import migrating
from config import database
from tests.conftest import named

JOBS = """
    INSERT INTO accounts (name) VALUES ('Corner Bakery');
    INSERT INTO generation_jobs (id, account_id, operation_type, model_name, provider, kind, state, params,
        idempotency_key, request_hash, work, price, credits_reserved, credits_charged, credits_overrun, attempts,
        next_at, deadline_at, created_at, finished_at)
    SELECT gen_random_uuid(), 1, 'clustering', 'gpt-5.1', 'openai', 'text', 'settled', '{}', n, '', '{}', '{}', 9, 9,
        overrun, 1, at, at, at, at
    FROM (VALUES (1, 30, timestamptz '2026-11-20T23:00Z'), (2, 9, '2026-11-20T01:00Z'), (3, 0, '2026-11-20T01:00Z'),
                 (4, 5, '2026-11-21T01:00Z')) v(n, overrun, at)
"""


@pytest.fixture
def older(servers):
    """A database as it was before overrun was summed, with jobs of two days."""
    administer = create_engine(servers.database_url, isolation_level="AUTOCOMMIT")
    with administer.connect() as connection:
        connection.execute(text("CREATE DATABASE older_overrun"))
    engine = database.make_engine(named(servers.database_url, "older_overrun"))
    with engine.begin() as connection:
        command.upgrade(migrating._config(connection), "0008_parts")
        connection.execute(text(JOBS))
    yield engine
    engine.dispose()
    with administer.connect() as connection:
        connection.execute(text("DROP DATABASE older_overrun WITH (FORCE)"))
    administer.dispose()


def counted(engine):
    with engine.connect() as connection:
        found = connection.execute(
            text(
                "SELECT day::text, sum(jobs)::int, sum(credits_overrun)::int FROM revenue_changes GROUP BY 1 ORDER BY 1"
            )
        )
        return [tuple(row) for row in found]


def test_overrun_of_before_is_counted_on_its_day_and_what_changes_later_too(older):
    migrating.migrate(older)

    assert counted(older) == [("2026-11-20", 3, 39), ("2026-11-21", 1, 5)]
    with older.begin() as connection:
        connection.execute(text("UPDATE generation_jobs SET credits_overrun = 6 WHERE credits_overrun = 5"))
    assert counted(older) == [("2026-11-20", 3, 39), ("2026-11-21", 1, 6)]


def test_the_way_back_forgets_overrun_and_counts_the_rest(older):
    migrating.migrate(older)
    with older.begin() as connection:
        command.downgrade(migrating._config(connection), "0008_parts")
        connection.execute(
            text("UPDATE generation_jobs SET cost_usd = 1, credits_overrun = 6 WHERE idempotency_key = '4'")
        )

    with older.connect() as connection:
        assert connection.scalar(text("SELECT sum(cost_usd)::int FROM revenue_changes")) == 1
