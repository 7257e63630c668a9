"""A peer on Dramatiq: the steps of the naive Celery chain, each sending the next one.

`python -m tests.benchmarks.programs.dramatiq_chain JOBS` submits jobs to two workers and says how long they took.
"""

from __future__ import annotations

import os

import click
import dramatiq
from dramatiq.brokers.redis import RedisBroker

from tests.benchmarks.programs import billing_steps

dramatiq.set_broker(RedisBroker(url=os.environ["BROKER_URL"]))


@dramatiq.actor
def check(job_id: int) -> None:
    """Check that the account can pay."""
    billing_steps.run(billing_steps.CHECK, job_id=job_id)
    reserve.send(job_id)


@dramatiq.actor
def reserve(job_id: int) -> None:
    """Hold the estimate."""
    billing_steps.run(billing_steps.RESERVE, job_id=job_id)
    call.send(job_id)


@dramatiq.actor
def call(job_id: int) -> None:
    """Record the answer of a provider that answers at once."""
    billing_steps.run(billing_steps.CALL, job_id=job_id)
    settle.send(job_id)


@dramatiq.actor
def settle(job_id: int) -> None:
    """Charge."""
    billing_steps.run(billing_steps.SETTLE, job_id=job_id)


@click.command()
@click.argument("jobs", type=int)
def main(jobs: int) -> None:
    """Submit the jobs, and wait until all are settled."""
    billing_steps.drive(jobs, check.send)


if __name__ == "__main__":
    main()
