"""Commands about settings: what holds and which tier set it, changing it, and who changed it when."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from workers.commands.assignments import acting, show_changes
from workers.commands.output import as_json, console, plain, print_json, table
from workers.commands.pages import in_pages

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from billing.settings.saving import Owner

STDIN_MAX = 1_000_000
"""How much of stdin is read: more than any setting may have."""

of_account = click.option(
    "--account", "account_id", type=click.IntRange(1, 2**63 - 1), help="The settings of an account."
)
of_user = click.option("--user", "user_id", type=click.IntRange(1, 2**63 - 1), help="The settings of a user.")


@click.group()
def settings() -> None:
    """Show and change the settings of the platform, an account or a user, and which tier set each.

    What a user sets holds for the user, what an account sets for its users, what the platform sets for everybody else.
    API keys are no settings: see `creditmill integrations`.
    """


@settings.command()
@of_account
@of_user
@as_json
def show(account_id: int | None, user_id: int | None, as_json: bool) -> None:
    """Show each setting that holds, which tier set it, and since when.

    \b
    Example:  creditmill settings show
              creditmill settings show --account 1 --json
    """
    from billing.settings.effective import effective
    from config.database import transaction
    from workers import bootstrap

    bootstrap.connect("settings")
    with transaction() as session:
        owner = _owner(session, account_id, user_id)
        found = effective(session, owner.account_id, owner.user_id).facts()
    if as_json:
        print_json(found)
        return
    rows = [
        (name, plain(facts["value"]), facts["tier"], f"{facts['since']:%Y-%m-%d %H:%M:%S}" if facts["since"] else None)
        for name, facts in found.items()
    ]
    console().print(table("Settings", ["setting", "value", "set by", "since (UTC)"], rows, left=4))


@settings.command("set")
@click.argument("name")
@click.argument("value")
@of_account
@of_user
@as_json
def set_(name: str, value: str, account_id: int | None, user_id: int | None, as_json: bool) -> None:
    """Set one setting: of the platform, or of an account or a user.

    For an account, NAME may also be an integration, and VALUE what to set of it as a JSON object; `-` reads VALUE from
    stdin. Whatever looks like an API key is stripped.

    \b
    Example:  creditmill settings set openai.temperature 0.5
              creditmill settings set default_image_service runware --account 1
              creditmill settings set openai '{"temperature": 0.5, "max_tokens": 4096}' --account 1
    """
    from billing.settings import saving
    from billing.settings.effective import effective
    from config.database import database_now
    from config.tiers.naming import INTEGRATIONS
    from workers import bootstrap

    text = sys.stdin.read(STDIN_MAX) if value == "-" else value
    bootstrap.connect("settings")
    with acting() as session:
        owner, today = _owner(session, account_id, user_id), database_now(session).date()
        stripped = 0
        if name in INTEGRATIONS and owner.account_id is not None and owner.user_id is None:
            stripped = saving.save_integration(session, owner.account_id, name, _object(name, text), today=today)
        else:
            saving.save_text(session, owner, name, text, today=today)
        found = effective(session, owner.account_id, owner.user_id).facts()
    if stripped:
        click.echo(
            f"creditmill: {stripped} {'part looks' if stripped == 1 else 'parts look'} like an API key and was not "
            "saved: keys are the platform's only. [keys_stripped]",
            err=True,
        )
    told = {each: facts for each, facts in found.items() if each == name or each.startswith(f"{name}.")}
    if as_json:
        print_json(told)
        return
    for each, facts in told.items():
        click.echo(f"{each} is {plain(facts['value'])}, set by the {facts['tier']}.")


@settings.command()
@click.argument("name")
@of_account
@of_user
@as_json
def unset(name: str, account_id: int | None, user_id: int | None, as_json: bool) -> None:
    """Remove a setting of an account or a user, so that the tier below holds again.

    \b
    Example:  creditmill settings unset openai.temperature --account 1
    """
    from billing.settings import saving
    from billing.settings.effective import effective
    from workers import bootstrap

    bootstrap.connect("settings")
    with acting() as session:
        owner = _owner(session, account_id, user_id)
        removed = saving.unset(session, owner, name)
        holds = effective(session, owner.account_id, owner.user_id).facts().get(name)
    if as_json:
        print_json({"setting": name, "removed": removed, **(holds or {})})
        return
    told = f" {plain(holds['value'])} holds, set by the {holds['tier']}." if holds else ""
    click.echo(f"{name} {'was removed' if removed else 'was not set'}.{told}")


@settings.command("history")
@of_account
@of_user
@in_pages
@as_json
def history_(account_id: int | None, user_id: int | None, limit: int, after: str | None, as_json: bool) -> None:
    """Show every change of the platform's settings, or of an account's or a user's own: values, time, and who made it.

    \b
    Example:  creditmill settings history
              creditmill settings history --account 1 --limit 100
    """
    from billing.catalog import history
    from config.database import transaction
    from workers import bootstrap

    bootstrap.connect("settings")
    with transaction() as session:
        owner = _owner(session, account_id, user_id)
        tables: tuple[str, ...] = history.PLATFORM_SETTINGS
        name = "1"
        if owner.user_id is not None:
            tables, name = history.USER_SETTINGS, str(owner.user_id)
        elif owner.account_id is not None:
            tables, name = history.ACCOUNT_SETTINGS, str(owner.account_id)
        page = history.changes(session, tables, name, limit=limit, after=after)
    show_changes(page, as_json)


def _owner(session: Session, account_id: int | None, user_id: int | None) -> Owner:
    """Whose settings are meant; a user's account need not be named."""
    from billing.ledger import accounts
    from billing.settings.saving import Owner

    if user_id is not None and account_id is None:
        account_id = accounts.account_of(session, user_id)
    if account_id is not None:
        accounts.get(session, account_id)
        accounts.check_user(session, account_id, user_id)
    return Owner(account_id, user_id)


def _object(integration: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise click.UsageError(f"What to set of {integration} is not a JSON object.") from None
