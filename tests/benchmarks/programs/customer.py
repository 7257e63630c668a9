"""An app that submits to Creditmill from Python, and says as JSON how long that took until all jobs were settled.

Run by its path, with the Python of whichever version is measured: it uses only what every version has.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import click
from sqlalchemy import Connection, text

from config import database
from tasks import pipeline
from tasks.app import app
from workers import bootstrap

OPERATION = "clustering"
WARM_UP_JOBS = 20
LOOK_EVERY_S = 0.02
LOOK_CLOSELY_EVERY_S = 0.002
REST_S = 0.03
"""What an idle system gets between two jobs, to put its messages away."""

UNFINISHED = text("SELECT EXISTS (SELECT FROM generation_jobs WHERE finished_at IS NULL)")
IS_UNFINISHED = text("SELECT EXISTS (SELECT FROM generation_jobs WHERE id = :id AND finished_at IS NULL)")
SETTLED = text("SELECT count(*) FROM generation_jobs WHERE id = ANY(:ids) AND state = 'settled'")


@click.group()
def customer() -> None:
    """Submit jobs, and wait until they are settled."""
    bootstrap.publisher("customer")


@customer.command("one")
@click.argument("jobs", type=int)
@click.argument("accounts", type=int)
def one(jobs: int, accounts: int) -> None:
    """Submit one job a call, on this many accounts in turn."""
    with looking() as connection:
        warm_up(connection)
        began = _Clock()
        ids = [pipeline.submit(**order(number, accounts)).job_id for number in range(jobs)]
        tell(began.until_settled(connection, ids))


@customer.command("bulk")
@click.argument("jobs", type=int)
@click.argument("accounts", type=int)
@click.argument("call", type=int)
def bulk(jobs: int, accounts: int, call: int) -> None:
    """Submit `call` jobs a call, on this many accounts in turn."""
    from billing.jobs import requests

    with looking() as connection:
        warm_up(connection)
        began = _Clock()
        ids: list[UUID] = []
        for first in range(0, jobs, call):
            numbers = range(first, min(first + call, jobs))
            submitted = pipeline.submit_many([requests.parse(order(number, accounts)) for number in numbers])
            ids += [job.job_id for job in submitted]
        tell(began.until_settled(connection, ids))


@customer.command("idle")
@click.argument("jobs", type=int)
def idle(jobs: int) -> None:
    """Submit one job after the other, each when the one before is settled; tells each one's milliseconds."""
    with looking() as connection:
        warm_up(connection)
        times_ms = []
        for number in range(jobs):
            began = time.perf_counter()
            job_id = pipeline.submit(**order(number, 1)).job_id
            while connection.scalar(IS_UNFINISHED, {"id": job_id}):
                time.sleep(LOOK_CLOSELY_EVERY_S)
            times_ms.append((time.perf_counter() - began) * 1000)
            time.sleep(REST_S)
        tell({"times_ms": times_ms})


@customer.command("ticks")
@click.argument("count", type=int)
def ticks(count: int) -> None:
    """Run the recovery task, which has nothing to recover, this often; tells each tick's milliseconds."""
    app.loader.import_default_modules()
    recover = app.tasks["periodic.recover_jobs"]
    recover()
    times_ms = []
    for _ in range(count):
        began = time.perf_counter()
        recover()
        times_ms.append((time.perf_counter() - began) * 1000)
    tell({"times_ms": times_ms})


class _Clock:
    """What passed since a measurement began: the time, and this process's own work."""

    def __init__(self) -> None:
        self._began, self._worked = time.perf_counter(), time.process_time()

    def until_settled(self, connection: Connection, job_ids: Sequence[UUID]) -> dict[str, Any]:
        """Wait until all jobs are finished; raises AssertionError when one of these was not settled."""
        submitted = time.perf_counter()
        wait(connection)
        ended = time.perf_counter()
        settled = connection.scalar(SETTLED, {"ids": list(job_ids)})
        assert settled == len(job_ids), f"{settled} of {len(job_ids)} jobs were settled"
        return {
            "seconds": ended - self._began,
            "submitting_s": submitted - self._began,
            "cpu_s": time.process_time() - self._worked,
        }


def looking() -> Connection:
    """A connection of its own for looking at jobs, one statement at a time."""
    return database.engine().connect().execution_options(isolation_level="AUTOCOMMIT")


def warm_up(connection: Connection) -> None:
    """Have a few jobs settled, so that every process has started and loaded what it loads once."""
    for number in range(WARM_UP_JOBS):
        pipeline.submit(**order(number, WARM_UP_JOBS))
    wait(connection)


def wait(connection: Connection) -> None:
    """Wait until no job is unfinished."""
    while connection.scalar(UNFINISHED):
        time.sleep(LOOK_EVERY_S)


def order(number: int, accounts: int) -> dict[str, Any]:
    """A small text job."""
    params = {"prompt": f"Bread, number {number}.", "max_output_tokens": 64}
    return {"account_id": 1 + number % accounts, "operation": OPERATION, "params": params}


def tell(figures: dict[str, Any]) -> None:
    """Answer whoever started this program."""
    click.echo(json.dumps(figures))


if __name__ == "__main__":
    customer()
