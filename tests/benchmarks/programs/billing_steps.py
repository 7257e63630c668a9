"""The billing job of the peers: the least that bills a call, one autocommitted statement a step.

The statements are the same for every peer, so that what differs is how the steps are chained. They leave out what
Creditmill does besides: prices, limits, evidence of each call, recovery.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import click
from sqlalchemy import Engine, create_engine, text

ACCOUNTS = 1_000
WARM_UP_JOBS = 20
LOOK_EVERY_S = 0.02

MAKE = f"""
    DROP TABLE IF EXISTS peer_usage, peer_ledger, peer_jobs, peer_accounts;
    CREATE TABLE peer_accounts (id bigint PRIMARY KEY, balance bigint NOT NULL, reserved bigint NOT NULL DEFAULT 0,
        CHECK (balance - reserved >= 0)) WITH (fillfactor = 50);
    CREATE TABLE peer_jobs (id bigint PRIMARY KEY, account_id bigint NOT NULL, state text NOT NULL, held bigint,
        charged bigint) WITH (fillfactor = 70);
    CREATE TABLE peer_ledger (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, account_id bigint NOT NULL,
        job_id bigint NOT NULL UNIQUE, amount bigint NOT NULL, balance_after bigint NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now());
    CREATE TABLE peer_usage (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, account_id bigint NOT NULL,
        job_id bigint NOT NULL UNIQUE, credits bigint NOT NULL, cost_usd numeric(20, 10) NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now());
    INSERT INTO peer_accounts (id, balance) SELECT number, 1000000000 FROM generate_series(1, {ACCOUNTS}) number;
"""
SUBMIT = text("INSERT INTO peer_jobs (id, account_id, state) VALUES (:job_id, :account_id, 'queued')")
CHECK = text("""
    SELECT a.balance - a.reserved FROM peer_jobs j JOIN peer_accounts a ON a.id = j.account_id
    WHERE j.id = :job_id AND j.state = 'queued'
""")
RESERVE = text("""
    WITH job AS (UPDATE peer_jobs SET state = 'reserved', held = 10 WHERE id = :job_id AND state = 'queued'
                 RETURNING account_id)
    UPDATE peer_accounts a SET reserved = a.reserved + 10 FROM job WHERE a.id = job.account_id RETURNING a.balance
""")
CALL = text("UPDATE peer_jobs SET state = 'generated' WHERE id = :job_id AND state = 'reserved'")
SETTLE = text("""
    WITH job AS (UPDATE peer_jobs SET state = 'settled', charged = 7 WHERE id = :job_id AND state = 'generated'
                 RETURNING account_id),
    account AS (UPDATE peer_accounts a SET reserved = a.reserved - 10, balance = a.balance - 7 FROM job
                WHERE a.id = job.account_id RETURNING a.id, a.balance),
    ledger AS (INSERT INTO peer_ledger (account_id, job_id, amount, balance_after)
               SELECT id, :job_id, -7, balance FROM account)
    INSERT INTO peer_usage (account_id, job_id, credits, cost_usd) SELECT id, :job_id, 7, 0.0123 FROM account
""")
SETTLED = text("SELECT count(*) FROM peer_usage")


@cache
def engine() -> Engine:
    """This process's connections: each statement is a transaction of its own."""
    return create_engine(os.environ["DATABASE_URL"], isolation_level="AUTOCOMMIT")


def run(statement: Any, **given: int) -> int | None:
    """Run one step's statement; returns the first value that it returns."""
    with engine().connect() as connection:
        result = connection.execute(statement, given)
        return result.scalar() if result.returns_rows else None


def drive(jobs: int, send: Callable[[int], object]) -> None:
    """Submit this many jobs, and say as JSON how long it took until all were settled."""
    run(text(MAKE))
    submit(range(WARM_UP_JOBS), send)
    wait_for(WARM_UP_JOBS)
    began = time.perf_counter()
    submit(range(WARM_UP_JOBS, WARM_UP_JOBS + jobs), send)
    wait_for(WARM_UP_JOBS + jobs)
    click.echo(json.dumps({"seconds": time.perf_counter() - began}))


def submit(numbers: range, send: Callable[[int], object]) -> None:
    """Store and send these jobs, spread over the accounts."""
    for number in numbers:
        run(SUBMIT, job_id=number, account_id=1 + number % ACCOUNTS)
        send(number)


def wait_for(jobs: int) -> None:
    """Wait until this many jobs are settled."""
    while (run(SETTLED) or 0) < jobs:
        time.sleep(LOOK_EVERY_S)
