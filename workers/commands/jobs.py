"""Commands about jobs: list them, tell the story of one, cancel one, resolve unknown calls."""

from __future__ import annotations

from decimal import Decimal
from typing import TextIO
from uuid import UUID

import click

from billing.jobs.policy import Outcome
from billing.jobs.states import State
from workers.commands.assignments import actor
from workers.commands.output import as_json, console, plain, print_json, printable, table, usd
from workers.commands.pages import in_pages, print_page, tell_more
from workers.commands.reading import json_object, text_file


@click.group()
def jobs() -> None:
    """List jobs, tell the story of one, cancel one, resolve one whose outcome is not known."""


@jobs.command("list")
@click.option("--account", "account_id", type=int, help="Only this account's.")
@click.option("--state", type=click.Choice([str(state) for state in State]), help="Only those in this state.")
@in_pages
@as_json
def list_(account_id: int | None, state: str | None, limit: int, after: str | None, as_json: bool) -> None:
    """List jobs, the newest first.

    \b
    Example:  creditmill jobs list --state refunded
    """
    from billing.jobs import story
    from config.database import transaction
    from workers import bootstrap

    bootstrap.connect("jobs")
    with transaction() as session:
        page = story.newest(session, account_id=account_id, state=state, limit=limit, after=after)
    if as_json:
        print_page("jobs", page)
        return
    columns = ["job", "account", "operation", "model", "state", "reserved", "charged", "cost", "error"]
    rows = [
        (
            *(job.job_id, job.account_id, job.operation, job.model, job.state),
            *(job.credits_reserved, job.credits_charged, usd(job.cost_usd, 6), job.error_code or ""),
        )
        for job in page.rows
    ]
    console().print(table("Jobs", columns, rows, left=5))
    tell_more(page)


@jobs.command()
@click.argument("job_id", type=click.UUID)
@click.option("--content", is_flag=True, help="Print what was generated, too.")
@as_json
def show(job_id: UUID, content: bool, as_json: bool) -> None:
    """Tell a job's story: each step with its time, attempt, credits and cost."""
    from billing.jobs import story
    from config.database import transaction
    from workers import bootstrap

    bootstrap.connect("jobs")
    with transaction() as session:
        told = story.tell(session, job_id)
    if as_json:
        whole = vars(told.job) | {"timeline": [vars(entry) for entry in told.entries]}
        print_json(whole | ({"content": told.content} if content else {}))
        return
    job = told.job
    click.echo(f"Job {job.job_id}: {job.operation} with {job.model} for account {job.account_id}: {job.state}")
    if job.error_message:
        click.echo(f"  {job.error_message} [{job.error_code}]")
    rows = [
        (
            entry.at.strftime("%H:%M:%S.%f")[:-3],
            entry.step,
            entry.detail,
            entry.attempt,
            entry.credits,
            None if entry.cost_usd is None else usd(entry.cost_usd, 6),
        )
        for entry in told.entries
    ]
    title = f"Timeline of {job.created_at:%Y-%m-%d} (UTC)"
    console().print(table(title, ["time", "step", "detail", "attempt", "credits", "cost"], rows, left=3))
    if content:
        print_json(told.content)


@jobs.command()
@click.argument("job_id", type=click.UUID)
@click.option("--customer", is_flag=True, help="The customer's version, without our costs.")
@as_json
def receipt(job_id: UUID, customer: bool, as_json: bool) -> None:
    """Show what was asked, used, priced and charged, computed again from what is stored.

    Exits with 1 when the charge does not follow from the stored price and usage.

    \b
    Example:  creditmill jobs receipt 0b1f4c1e-8a64-4d0e-9a6f-2f5e8f3b7c11
              creditmill jobs receipt 0b1f4c1e-8a64-4d0e-9a6f-2f5e8f3b7c11 --customer --json
    """
    from billing.jobs import receipts
    from config.database import transaction
    from workers import bootstrap

    bootstrap.connect("jobs")
    with transaction() as session:
        found = receipts.receipt(session, job_id, for_customer=customer)
    if as_json:
        print_json(found.facts())
    else:
        click.echo(f"Receipt of job {found.job_id}, account {found.account_id}: {found.state}")
        for name, facts in (("asked", found.asked), ("used", found.used), ("priced", found.priced)):
            if facts:
                told = ", ".join(f"{each.replace('_', ' ')} {plain(value)}" for each, value in facts.items())
                click.echo(f"  {name:<8} {printable(told)}")
        if found.settings_used:
            told = ", ".join(f"{each.replace('_', ' ')} by the {tier}" for each, tier in found.settings_used.items())
            click.echo(f"  settings {printable(told)}")
        click.echo(f"  charged  {printable(found.sentence)}")
        if found.cost_usd is not None:
            click.echo(f"  cost     {usd(found.cost_usd, 6)}, revenue {usd(found.revenue_usd or Decimal(0), 6)}")
    if not found.follows:
        raise click.exceptions.Exit(1)


@jobs.command()
@click.argument("job_id", type=click.UUID)
def cancel(job_id: UUID) -> None:
    """Cancel a job that is not being sent to its provider; its credits are released.

    Images that were delivered by then are charged.
    """
    from billing.jobs import cancelling
    from config.database import database_now, transaction
    from workers import bootstrap

    bootstrap.connect("jobs")
    with transaction() as session:
        delivered = cancelling.cancel(session, job_id, now=database_now(session))
    # Recovery, for which it is due, has it charged.
    click.echo(f"Job {job_id} is cancelled{'; what was delivered of it is charged' if delivered else ''}.")


@jobs.command()
@in_pages
@as_json
def unknown(limit: int, after: str | None, as_json: bool) -> None:
    """List the jobs whose outcome is not known, the oldest first, with what each may cost at most.

    \b
    Example:  creditmill jobs unknown --json
    """
    from billing.jobs import unknown_calls
    from config.database import transaction
    from tasks.runtime import runtime
    from workers import bootstrap

    bootstrap.publishing_command("jobs")
    with transaction() as session:
        page = unknown_calls.oldest(session, limit=limit, after=after, unknown_wait=runtime().unknown_wait)
    if as_json:
        print_page("calls", page)
        return
    columns = ["job", "account", "provider", "why", "since (UTC)", "given up at", "asked", "reserved", "cost at most"]
    rows = [
        (
            *(each[name] for name in ("job_id", "account_id", "provider", "failure")),
            *(f"{each[name]:%m-%d %H:%M:%S}" for name in ("called_at", "given_up_at")),
            *(each["times_asked"], each["credits_reserved"], usd(each["worst_cost_usd"], 6)),
        )
        for each in map(vars, page.rows)
    ]
    console().print(table("Outcomes that are not known", columns, rows, left=6))
    tell_more(page)


@jobs.command()
@click.argument("job_id", type=click.UUID)
@click.option(
    "--outcome",
    required=True,
    type=click.Choice([outcome.value for outcome in Outcome]),
    help="delivered: charge it; executed: the result is lost; not_executed: nobody pays.",
)
@click.option("--evidence", required=True, help="How you know: it stays with the call for good.")
@click.option("--usage", help='What was used, as JSON: {"input_tokens": 900, "output_tokens": 300}.')
@click.option("--content", type=text_file, help="The result, as a JSON object in a file.")
@as_json
def resolve(
    job_id: UUID, outcome: str, evidence: str, usage: str | None, content: TextIO | None, as_json: bool
) -> None:
    """Say what became of a call whose outcome is not known, and how you know.

    \b
    Example:  creditmill jobs resolve JOB --outcome not_executed --evidence "Not in the provider's log of 20 November"
              creditmill jobs resolve JOB --outcome delivered --evidence "Ticket 4711" \\
                --usage '{"input_tokens": 900, "output_tokens": 300}' --content result.json
    """
    from billing.jobs import quotes, unknown_calls
    from billing.jobs.unknown_calls import Resolution
    from config.database import database_now, transaction
    from tasks import pipeline
    from tasks.runtime import runtime
    from workers import bootstrap

    bootstrap.publishing_command("jobs")
    said = Resolution(
        outcome=Outcome(outcome),
        evidence=evidence,
        actor=actor(),
        usage=None if usage is None else quotes.read_usage(json_object(usage, "--usage")),
        content=None if content is None else json_object(content.read(), "--content"),
    )
    with transaction() as session:
        job = unknown_calls.resolve(session, job_id, said, now=database_now(session), publish_by=runtime().publish_by)
    pipeline.resume([job_id])
    if as_json:
        print_json(vars(job))
    else:
        click.echo(f"Job {job_id} is {job.state}.")


@jobs.command()
@in_pages
@as_json
def dead(limit: int, after: str | None, as_json: bool) -> None:
    """List the messages that were set aside, the newest first, each with its reason; never what they say.

    \b
    Example:  creditmill jobs dead --json
    """
    from billing.upkeep import dead_letters
    from config.database import transaction
    from workers import bootstrap

    bootstrap.connect("jobs")
    with transaction() as session:
        page = dead_letters.newest(session, limit=limit, after=after)
    if as_json:
        print_page("messages", page)
        return
    facts = [vars(letter) for letter in page.rows]
    rows = [(each["id"], f"{each['created_at']:%Y-%m-%d %H:%M:%S}", *list(each.values())[2:5]) for each in facts]
    console().print(
        table("Messages that were set aside", ["number", "time (UTC)", "task", "code", "reason"], rows, left=5)
    )
    tell_more(page)


@jobs.command()
@click.argument("number", type=int)
@as_json
def redrive(number: int, as_json: bool) -> None:
    """Have a message that was set aside worked on, once its reason is gone; `jobs dead` shows the numbers.

    \b
    Example:  creditmill jobs redrive 12
    """
    from tasks.messages import redriving
    from workers import bootstrap

    bootstrap.publishing_command("jobs")
    job_ids = redriving.redrive(number)
    if as_json:
        print_json({"number": number, "job_ids": job_ids})
    else:
        click.echo(f"Message {number} is worked on: {', '.join(map(str, job_ids))}.")
