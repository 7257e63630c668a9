"""Commands about webhooks: where accounts are told of events, what they were told, and having it told again."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import click

from workers.commands.output import as_json, console, print_json, printable, table
from workers.commands.pages import in_pages, print_page, tell_more


@click.group()
def webhooks() -> None:
    """Set up webhooks of accounts, see what they were told, and have it told again."""


@webhooks.command()
@click.argument("account_id", type=int)
@click.argument("url")
@click.option("--events", help="Of what it is told, separated by commas; else of everything.")
@click.option("--balance-threshold", type=int, help="Below how many credits it is told of the balance.")
@click.option("--limit-threshold-percent", type=int, default=80, show_default=True, help="Beyond which share of it.")
@as_json
def create(
    account_id: int,
    url: str,
    events: str | None,
    balance_threshold: int | None,
    limit_threshold_percent: int,
    as_json: bool,
) -> None:
    """Add an endpoint of an account, and show its secret, once.

    \b
    Events: job.settled, job.refunded, job.rejected, job.cancelled, balance.threshold_crossed,
            limit.threshold_crossed, period.renewed.
    \b
    Example:  creditmill webhooks create 1 https://app.example/hook --events job.settled,job.refunded
    """
    from billing.webhooks import endpoints
    from config.database import transaction
    from workers import bootstrap

    settings = bootstrap.connect("webhooks")
    with transaction() as session:
        made = endpoints.create(
            session,
            account_id,
            url,
            events=[] if events is None else [each.strip() for each in events.split(",")],
            balance_threshold=balance_threshold,
            limit_threshold_percent=limit_threshold_percent,
            plain=settings.webhooks_to_private,
        )
    if as_json:
        print_json({"secret": made.secret, **vars(made.view)})
        return
    click.echo(f"Endpoint {made.view.id} is told of {', '.join(made.view.events)}. Shown only now:", err=True)
    click.echo(made.secret)


@webhooks.command("list")
@click.option("--account", "account_id", type=int, help="Only the endpoints of this account.")
@as_json
def list_(account_id: int | None, as_json: bool) -> None:
    """List endpoints.

    \b
    Example:  creditmill webhooks list --account 1
    """
    from billing.webhooks import endpoints
    from config.database import transaction
    from workers import bootstrap

    bootstrap.connect("webhooks")
    with transaction() as session:
        found = endpoints.of_account(session, account_id)
    if as_json:
        for each in found:
            print_json(vars(each))
        return
    rows = [
        (each.id, each.account_id, printable(each.url), ", ".join(each.events), each.disabled_reason) for each in found
    ]
    console().print(table("Endpoints", ["id", "account", "address", "events", "disabled"], rows, left=5))


@webhooks.command()
@click.argument("endpoint_id", type=click.UUID)
@click.option("--overlap-hours", type=click.IntRange(0, 720), default=24, show_default=True, help="How long both sign.")
@as_json
def rotate(endpoint_id: UUID, overlap_hours: int, as_json: bool) -> None:
    """Make a new secret, shown once; for a while, what is sent is signed with the old one too."""
    from billing.webhooks import endpoints
    from config.database import database_now, transaction
    from workers import bootstrap

    bootstrap.connect("webhooks")
    with transaction() as session:
        overlap = timedelta(hours=overlap_hours)
        made = endpoints.rotate(session, endpoint_id, overlap=overlap, now=database_now(session))
    if as_json:
        print_json({"secret": made.secret, **vars(made.view)})
    else:
        click.echo(made.secret)


@webhooks.command()
@click.argument("endpoint_id", type=click.UUID)
def remove(endpoint_id: UUID) -> None:
    """Remove an endpoint, and what was to be told to it."""
    from billing.webhooks import endpoints
    from config.database import transaction
    from workers import bootstrap

    bootstrap.connect("webhooks")
    with transaction() as session:
        endpoints.remove(session, endpoint_id)
    click.echo(f"Endpoint {endpoint_id} is removed.")


@webhooks.command()
@click.option("--account", "account_id", type=int, help="Only those of this account.")
@click.option("--state", type=click.Choice(["pending", "delivered", "dead"]), help="Only those in this state.")
@in_pages
@as_json
def messages(account_id: int | None, state: str | None, limit: int, after: str | None, as_json: bool) -> None:
    """List what accounts were told, or are to be told, the newest first; dead is what was given up after three days.

    \b
    Example:  creditmill webhooks messages --state dead
    """
    from billing.webhooks import deliveries
    from config.database import transaction
    from workers import bootstrap

    bootstrap.connect("webhooks")
    with transaction() as session:
        page = deliveries.newest(session, account_id=account_id, state=state, limit=limit, after=after)
    if as_json:
        print_page("messages", page)
        return
    rows = [
        (
            *(each.id, each.account_id, each.event, each.subject, each.state, each.attempts),
            *(f"{each.created_at:%m-%d %H:%M:%S}", each.last_status or each.last_error),
        )
        for each in page.rows
    ]
    columns = ["id", "account", "event", "about", "state", "attempts", "since (UTC)", "last answer"]
    console().print(table("Messages", columns, rows, left=8))
    tell_more(page)


@webhooks.command()
@click.argument("message_id", type=click.IntRange(1, 2**63 - 1))
def replay(message_id: int) -> None:
    """Have a message delivered (again), under the same number.

    \b
    Example:  creditmill webhooks replay 17
    """
    from billing.webhooks import deliveries
    from config.database import database_now, transaction
    from workers import bootstrap

    bootstrap.connect("webhooks")
    with transaction() as session:
        deliveries.replay(session, message_id, now=database_now(session))
    click.echo(f"Message {message_id} is delivered again.")
