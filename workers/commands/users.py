"""Commands about users: the people who belong to accounts."""

from __future__ import annotations

import click

from workers.commands.output import as_json, console, print_json, table
from workers.commands.pages import in_pages, print_page, tell_more


@click.group()
def users() -> None:
    """Add users to accounts, and list them."""


@users.command()
@click.argument("account_id", type=int)
@click.option("--email", required=True, help="By this address the user is told from all others.")
@click.option("--name", default="", help="What the user is called.")
@as_json
def create(account_id: int, email: str, name: str, as_json: bool) -> None:
    """Add a user to an account.

    \b
    Example:  creditmill users create 1 --email ada@example.com --name Ada
    """
    from billing.ledger import users
    from config.database import transaction
    from workers import bootstrap

    bootstrap.connect("users")
    with transaction() as session:
        user = users.create(session, account_id, email, name=name)
    if as_json:
        print_json(vars(user))
    else:
        click.echo(f"User {user.id} belongs to account {user.account_id}: {user.email}")


@users.command("list")
@click.option("--account", "account_id", type=int, help="Only the users of this account.")
@in_pages
@as_json
def list_(account_id: int | None, limit: int, after: str | None, as_json: bool) -> None:
    """List users, the newest first.

    \b
    Example:  creditmill users list --account 1
    """
    from billing.ledger import users
    from config.database import transaction
    from workers import bootstrap

    bootstrap.connect("users")
    with transaction() as session:
        page = users.newest(session, account_id=account_id, limit=limit, after=after)
    if as_json:
        print_page("users", page)
        return
    rows = [(user.id, user.account_id, user.email, user.name, f"{user.created_at:%Y-%m-%d}") for user in page.rows]
    console().print(table("Users", ["id", "account", "e-mail", "name", "since"], rows, left=2))
    tell_more(page)
