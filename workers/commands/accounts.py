"""Commands about accounts and their credits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from billing import periods
from workers.commands import ledger
from workers.commands.assignments import actor
from workers.commands.ledger import force
from workers.commands.output import as_json, console, print_json, table
from workers.commands.pages import in_pages, print_page, tell_more

if TYPE_CHECKING:
    from billing.ledger.accounts import AccountView
    from billing.reports.forecast import Expected


@click.group("accounts")
def group() -> None:
    """Create accounts, show them, put credits into them, freeze them, see what time will bring."""


for command in (ledger.top_up, ledger.grant, ledger.adjust, ledger.statement):
    group.add_command(command)


@group.command()
@click.argument("name")
@click.option("--email", help="Where invoices and alerts go.")
@click.option("--time-zone", default="UTC", show_default=True, help="The zone in which its billing periods begin.")
@click.option("--credits", type=int, help="Put this many sold credits into it at once.")
@force
@as_json
def create(name: str, email: str | None, time_zone: str, credits: int | None, force: bool, as_json: bool) -> None:
    """Open an account.

    \b
    Example:  creditmill accounts create "Corner Bakery" --credits 5000
    """
    from billing.ledger import accounts, by_hand
    from config.database import database_now, transaction
    from workers import bootstrap

    bootstrap.connect("accounts")
    with transaction() as session:
        account = accounts.create(session, name, billing_email=email, time_zone=time_zone)
        if credits is not None:
            by_hand.top_up(
                session,
                account.id,
                credits,
                idempotency_key=f"opening:{account.id}",
                description="Opening credits",
                now=database_now(session),
                actor=actor(),
                force=force,
            )
        opened = accounts.view(session, account.id)
    _show(opened, as_json)


@group.command()
@click.argument("account_id", type=int)
@as_json
def show(account_id: int, as_json: bool) -> None:
    """Show an account's balance, what its open jobs reserve, and what is available."""
    from billing.ledger import accounts
    from config.database import transaction
    from workers import bootstrap

    bootstrap.connect("accounts")
    with transaction() as session:
        account = accounts.view(session, account_id)
    _show(account, as_json)


@group.command("list")
@in_pages
@as_json
def list_(limit: int, after: str | None, as_json: bool) -> None:
    """List accounts, the newest first.

    \b
    Example:  creditmill accounts list --limit 100
    """
    from billing.ledger import accounts
    from config.database import transaction
    from workers import bootstrap

    bootstrap.connect("accounts")
    with transaction() as session:
        page = accounts.newest(session, limit=limit, after=after)
    if as_json:
        print_page("accounts", page)
        return
    columns = ["id", "name", "balance", "reserved", "available", "frozen", "e-mail", "time zone"]
    console().print(table("Accounts", columns, [list(vars(account).values()) for account in page.rows], left=2))
    tell_more(page)


@group.command()
@click.argument("account_id", type=int)
@click.option("--reason", required=True, help="Why: it is shown with the account.")
def freeze(account_id: int, reason: str) -> None:
    """Let an account start no new jobs; its open jobs come to their end.

    \b
    Example:  creditmill accounts freeze 1 --reason "chargeback of 20 November"
    """
    from billing.ledger import accounts
    from config.database import transaction
    from workers import bootstrap

    bootstrap.connect("accounts")
    with transaction() as session:
        changed = accounts.freeze(session, account_id, reason)
    click.echo(f"Account {account_id} {'is' if changed else 'was already'} frozen.")


@group.command()
@click.argument("account_id", type=int)
def unfreeze(account_id: int) -> None:
    """Let an account start jobs again, once somebody has looked into it.

    \b
    Example:  creditmill accounts unfreeze 1
    """
    from billing.ledger import accounts
    from config.database import transaction
    from workers import bootstrap

    bootstrap.connect("accounts")
    with transaction() as session:
        changed = accounts.unfreeze(session, account_id)
    click.echo(f"Account {account_id} {'starts jobs again' if changed else 'was not frozen'}.")


@group.command()
@click.argument("account_id", type=int)
@click.option(
    "--months",
    default=14,
    show_default=True,
    type=click.IntRange(1, periods.FORECAST_MONTHS_MAX),
    help="How many months to look ahead.",
)
@as_json
def simulate(account_id: int, months: int, as_json: bool) -> None:
    """Show what would happen to an account if nobody did anything: renewals, credits, limits, ends. Writes nothing.

    Days are those of the account's time zone. Credits are granted, or withheld from an account that is past due, or
    released by jobs that nobody calls before their deadline.

    \b
    Example:  creditmill accounts simulate 1
              creditmill accounts simulate 1 --months 120 --json
    """
    from billing.ledger import accounts
    from billing.reports import forecast
    from config.database import database_now, transaction
    from workers import bootstrap

    bootstrap.connect("accounts")
    with transaction(read_only=True, isolation="REPEATABLE READ") as session:
        account = accounts.get(session, account_id)
        expected = forecast.simulate(session, account_id, months=months, now=database_now(session))
    if as_json:
        for each in expected:
            print_json(vars(each))
        return
    if account.frozen_reason:
        click.echo(
            f"Account {account_id} is frozen ({account.frozen_reason}): it starts no jobs and renews all the same."
        )
    if not expected:
        span = "a month" if months == 1 else f"{months:,} months"
        click.echo(f"Nothing would happen to account {account_id} within {span}.")
        return
    amounts = [name for name in ("granted", "withheld", "released") if _any_credits(expected, name)]
    rows = [
        (
            f"{each.day}",
            each.event.replace("_", " "),
            each.plan,
            each.period_end,
            ", ".join(f"{name} {units:,}" for name, units in each.limits.items()) or None,
            *(getattr(each, f"credits_{name}") for name in amounts),
            each.balance,
        )
        for each in expected
    ]
    columns = ["day", "event", "plan", "up to", "limits begin anew", *amounts, "balance if unused"]
    console().print(table(f"What account {account_id} can expect", columns, rows, left=5))


def _any_credits(expected: Sequence[Expected], name: str) -> bool:
    return any(getattr(each, f"credits_{name}") for each in expected)


def _show(account: AccountView, as_json: bool) -> None:
    if as_json:
        print_json(vars(account))
        return
    click.echo(f"Account {account.id}: {account.name}")
    for name in ("balance", "reserved", "available"):
        click.echo(f"  {name:<10}{getattr(account, name):>14,} credits")
    if account.frozen_reason:
        click.echo(f"  frozen: {account.frozen_reason}")
