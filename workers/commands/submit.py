"""The command that takes requests as JSON lines, submits them and waits for their jobs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TextIO
from uuid import UUID

import click

from billing.errors import BillingError, InvalidRequest
from billing.jobs.states import TERMINAL, State
from workers.commands.output import json_line
from workers.commands.reading import json_lines, source

if TYPE_CHECKING:
    from billing.jobs.requests import Submission
    from billing.jobs.story import JobView
    from billing.jobs.submitting import Submitted


POLL_S = 0.25


@click.command()
@source
@click.option("--account", "account_id", type=int, required=True, help="The account that pays.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until every job has come to its end.")
@click.option("--timeout", default=3600.0, show_default=True, help="How long to wait, in seconds.")
def submit(source: TextIO, account_id: int, wait: bool, timeout: float) -> None:
    """Submit requests, as JSON lines from a file or stdin; prints one JSON line per job.

    A line has "operation", "params", and optionally "model", "user_id", "idempotency_key". If any line is wrong,
    nothing is submitted. Exits with 1 when a job was not settled.

    \b
    Example:  creditmill submit requests.jsonl --account 1 > jobs.jsonl
    """
    from billing.jobs import story
    from config.database import transaction
    from tasks import pipeline
    from workers import bootstrap

    bootstrap.publishing_command("submit")
    lines, submissions = zip(*read_requests(source, account_id), strict=True)
    submitted = list(zip(lines, pipeline.submit_many(submissions), strict=True))
    if not wait:
        for line, job in submitted:
            click.echo(json_line({"line": line, "job_id": job.job_id, "state": job.state, "created": job.created}))
        return
    job_ids = [job.job_id for _, job in submitted]
    try:
        wait_for(job_ids, timeout_s=timeout)
    finally:
        # Printed also when the wait is cut short: with the ids, nobody needs to submit again.
        with transaction() as session:
            finished = story.views(session, job_ids)
        for line, job in submitted:
            click.echo(json_line({"line": line, **_outcome(job, finished[job.job_id])}))
    if any(job.state != State.SETTLED for job in finished.values()):
        raise click.exceptions.Exit(1)


def wait_for(
    job_ids: Sequence[UUID], *, timeout_s: float, watch: Callable[[], None] = lambda: None
) -> dict[UUID, JobView]:
    """Wait until these jobs are terminal, with a progress bar on a terminal; raises ClickException on time-out.

    `watch` is called between looks, for a caller that waits for something else as well.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from billing.jobs import story
    from config.database import transaction

    deadline = time.monotonic() + timeout_s
    screen = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=screen, disable=not screen.is_terminal, transient=True) as progress:
        task = progress.add_task("Generating", total=len(set(job_ids)))
        while True:
            with transaction() as session:
                jobs = story.views(session, job_ids)
            done = sum(job.state in TERMINAL for job in jobs.values())
            progress.update(task, completed=done)
            if done == len(jobs):
                return jobs
            if time.monotonic() > deadline:
                raise click.ClickException(
                    f"{len(jobs) - done} of {len(jobs)} jobs are not finished after {timeout_s:g} s."
                )
            watch()
            time.sleep(POLL_S)


def read_requests(source: TextIO, account_id: int) -> list[tuple[int, Submission]]:
    """Every request of a file with its line number, all checked; raises a BillingError that names the first bad."""
    from billing.jobs import requests, submitting
    from billing.jobs.examining import examine
    from billing.settings import own
    from config.database import transaction

    checked = []
    warnings: dict[str, None] = {}
    for number, data in json_lines(source):
        try:
            if not isinstance(data, dict):
                raise InvalidRequest("A request must be a JSON object.")
            submission = requests.parse({**data, "account_id": account_id})
            payer = (submission.account_id, submission.user_id)
            with transaction() as session:
                at = own.moment(session, {payer})
                submitting.check_payers(session, [submission])
            examined = examine(at.catalog, submission, at.settings_of(*payer), today=at.today)
        except BillingError as error:
            error.message = f"line {number}: {error.message}"
            raise
        checked.append((number, submission))
        if examined.warning is not None:
            warnings[examined.warning] = None
    if not checked:
        raise InvalidRequest("There is no request to submit.", code="no_requests")
    for warning in warnings:
        click.echo(f"creditmill: {warning} [model_deprecated]", err=True)
    return checked


def _outcome(accepted: Submitted, job: JobView) -> dict[str, Any]:
    return {
        "job_id": job.job_id,
        "state": job.state,
        "created": accepted.created,
        "credits_reserved": job.credits_reserved,
        "credits_charged": job.credits_charged or 0,
        "cost_usd": job.cost_usd,
        "error": job.error_code,
        "message": job.error_message,
    }
