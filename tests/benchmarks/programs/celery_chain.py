"""Two peers on Celery: the chain that a tutorial would write, and the same chain without any billing.

`python -m tests.benchmarks.programs.celery_chain bare|naive JOBS` submits jobs to two workers and says how long they
took.
"""

from __future__ import annotations

import json
import os
import time

import click
import redis
from celery import Celery, chain

from tests.benchmarks.programs import billing_steps

app = Celery("peer", broker=os.environ.get("BROKER_URL"))
app.conf.update(
    task_ignore_result=True,
    result_backend=None,
    task_acks_late=True,
    worker_prefetch_multiplier=8,
    broker_connection_retry_on_startup=True,
)
COUNTER = "peer-jobs-done"


@app.task(name="peer.check")
def check(job_id: int) -> int:
    """Check that the account can pay."""
    billing_steps.run(billing_steps.CHECK, job_id=job_id)
    return job_id


@app.task(name="peer.reserve")
def reserve(job_id: int) -> int:
    """Hold the estimate."""
    billing_steps.run(billing_steps.RESERVE, job_id=job_id)
    return job_id


@app.task(name="peer.call")
def call(job_id: int) -> int:
    """Record the answer of a provider that answers at once."""
    billing_steps.run(billing_steps.CALL, job_id=job_id)
    return job_id


@app.task(name="peer.settle")
def settle(job_id: int) -> None:
    """Charge."""
    billing_steps.run(billing_steps.SETTLE, job_id=job_id)


@app.task(name="peer.pass_on")
def pass_on(job_id: int) -> int:
    """Do nothing."""
    return job_id


@app.task(name="peer.count")
def count(job_id: int) -> None:
    """Do nothing, and count that it was done."""
    counter().incr(COUNTER)


def counter() -> redis.Redis:
    """Where finished bare chains are counted."""
    if not hasattr(app, "counter"):
        app.counter = redis.Redis.from_url(os.environ["BROKER_URL"])
    found: redis.Redis = app.counter
    return found


@click.command()
@click.argument("peer", type=click.Choice(["bare", "naive"]))
@click.argument("jobs", type=int)
def main(peer: str, jobs: int) -> None:
    """Submit the jobs, and wait until all are done."""
    if peer == "bare":
        drive_bare(jobs)
    else:
        billing_steps.drive(jobs, lambda job_id: chain(check.s(job_id), reserve.s(), call.s(), settle.s())())


def drive_bare(jobs: int) -> None:
    """Send this many chains, and say as JSON how long it took until all were done."""
    warm_up = billing_steps.WARM_UP_JOBS
    send_bare(warm_up)
    wait_for(warm_up)
    began = time.perf_counter()
    send_bare(jobs)
    wait_for(warm_up + jobs)
    click.echo(json.dumps({"seconds": time.perf_counter() - began}))


def send_bare(jobs: int) -> None:
    """Send chains that do nothing."""
    for job_id in range(jobs):
        chain(pass_on.s(job_id), pass_on.s(), pass_on.s(), count.s())()


def wait_for(jobs: int) -> None:
    """Wait until this many chains are done."""
    while int(counter().get(COUNTER) or 0) < jobs:
        time.sleep(billing_steps.LOOK_EVERY_S)


if __name__ == "__main__":
    main()
