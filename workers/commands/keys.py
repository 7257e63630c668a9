"""Commands about API keys: what apps call the HTTP API with."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import click

from workers.commands.assignments import actor
from workers.commands.output import as_json, console, print_json, printable, table
from workers.commands.pages import in_pages, print_page, tell_more

if TYPE_CHECKING:
    from billing.access.keys import NewKey

OVERLAP_MAX_H = 24 * 30


@click.group()
def keys() -> None:
    """Make, list, rotate and revoke the keys that apps call the HTTP API with."""


@keys.command()
@click.option("--account", "account_id", type=int, help="Whose key it is; without it, the key is the platform's.")
@click.option("--user", "user_id", type=int, help="The user of the account that its jobs are of.")
@click.option("--platform", is_flag=True, help="Make a platform key, which administers and submits nothing.")
@click.option("--scopes", help="What it allows, separated by commas; else all that such a key can.")
@click.option("--name", default="", help="By what you will know it again, such as the app that uses it.")
@click.option("--expires-in-days", type=click.IntRange(1, 3_650), help="How long it works; else until it is revoked.")
@click.option("--credit-cap", type=int, help="How many credits its jobs may cost in all.")
@as_json
def create(
    account_id: int | None,
    user_id: int | None,
    platform: bool,
    scopes: str | None,
    name: str,
    expires_in_days: int | None,
    credit_cap: int | None,
    as_json: bool,
) -> None:
    """Make a key and show it, once: only a hash of it is stored.

    \b
    Scopes of an account's key: jobs:write, jobs:read, balance:read, settings:read, settings:write,
                                webhooks:write.
    Scopes of a platform key: admin:read, admin:write, or both as admin:*.
    \b
    Example:  creditmill keys create --account 1 --name website
              creditmill keys create --account 1 --scopes jobs:write,balance:read --credit-cap 5000
              creditmill keys create --platform --scopes admin:read --expires-in-days 30
    """
    from billing.access import keys
    from config.database import database_now, transaction
    from workers import bootstrap

    if platform is (account_id is not None):
        raise click.UsageError("Give either --account or --platform.")
    bootstrap.connect("keys")
    with transaction() as session:
        now = database_now(session)
        made = keys.create(
            session,
            account_id,
            user_id=user_id,
            name=name,
            scopes=[scope.strip() for scope in scopes.split(",")] if scopes is not None else (),
            expires_at=None if expires_in_days is None else now + timedelta(days=expires_in_days),
            credit_cap=credit_cap,
            actor=actor(),
            now=now,
        )
    _show_once(made, as_json=as_json)


@keys.command("list")
@click.option("--account", "account_id", type=int, help="Only the keys of this account.")
@in_pages
@as_json
def list_(account_id: int | None, limit: int, after: str | None, as_json: bool) -> None:
    """List keys, the newest first: what may be shown of them, what they allow, and when they were used last.

    \b
    Example:  creditmill keys list --account 1
    """
    from billing.access import keys
    from config.database import database_now, transaction
    from workers import bootstrap

    bootstrap.connect("keys")
    with transaction() as session:
        page = keys.newest(session, account_id=account_id, now=database_now(session), limit=limit, after=after)
    if as_json:
        print_page("keys", page)
        return
    rows = [
        (
            *(key.id, key.account_id or "platform", key.name, f"{key.begins_with}...{key.ends_with}", key.state),
            *(", ".join(key.scopes), _cap(key.credit_cap, key.credits_used + key.credits_held)),
            *(_minute(key.expires_at), _minute(key.last_used_at)),
        )
        for key in page.rows
    ]
    columns = ["id", "account", "name", "key", "state", "scopes", "of cap used", "expires (UTC)", "last used (UTC)"]
    console().print(table("Keys", columns, rows, left=6))
    tell_more(page)


@keys.command()
@click.argument("key_id", type=int)
@click.option(
    "--overlap-hours",
    type=click.IntRange(0, OVERLAP_MAX_H),
    default=24,
    show_default=True,
    help="How long the old key goes on working.",
)
@as_json
def rotate(key_id: int, overlap_hours: int, as_json: bool) -> None:
    """Make a key that allows the same, show it once, and let the old one expire when the apps have changed over.

    \b
    Example:  creditmill keys rotate 1
              creditmill keys rotate 1 --overlap-hours 1
    """
    from billing.access import keys
    from config.database import database_now, transaction
    from workers import bootstrap

    bootstrap.connect("keys")
    with transaction() as session:
        overlap = timedelta(hours=overlap_hours)
        made = keys.rotate(session, key_id, overlap=overlap, actor=actor(), now=database_now(session))
    _show_once(made, as_json=as_json)


@keys.command()
@click.argument("key_id", type=int)
def revoke(key_id: int) -> None:
    """End a key: the next request that comes with it is refused.

    \b
    Example:  creditmill keys revoke 1
    """
    from billing.access import keys
    from config.database import database_now, transaction
    from workers import bootstrap

    bootstrap.connect("keys")
    with transaction() as session:
        new = keys.revoke(session, key_id, now=database_now(session))
    click.echo(f"Key {key_id} is revoked." if new else f"Key {key_id} was revoked before.")


def _show_once(made: NewKey, *, as_json: bool) -> None:
    if as_json:
        print_json({"key": made.key, **vars(made.view)})
        return
    key = made.view
    whose = "the platform" if key.account_id is None else f"account {key.account_id}"
    click.echo(f"Key {key.id} of {whose} allows {', '.join(key.scopes)}. It is shown only now:", err=True)
    click.echo(printable(made.key))


def _cap(cap: int | None, used: int) -> str | None:
    return None if cap is None else f"{used:,} of {cap:,}"


def _minute(at: datetime | None) -> str | None:
    return None if at is None else f"{at:%Y-%m-%d %H:%M}"
