"""Commands about what changes an account's credits by hand, and the statement of all that changed them."""

from __future__ import annotations

import csv
import re
import sys
from typing import Any
from uuid import uuid4

import click

from workers.commands.assignments import acting, actor
from workers.commands.output import as_json, console, csv_cell, print_json, printable, table
from workers.commands.pages import in_pages, print_page, tell_more

force = click.option("--force", is_flag=True, help="Accept an amount that is far out of the usual.")
key = click.option("--idempotency-key", help="Repeating the command with the same key changes the credits once.")
NEGATIVE = re.compile(r"^-(?=[0-9])")
COLUMNS = ("id", "created_at", "type", "reason", "credits", "balance_after", "actor", "description", "job_id",
           "subscription_id")  # fmt: skip


@click.command("top-up")
@click.argument("account_id", type=int)
@click.argument("credits", type=int)
@key
@click.option("--description", default="Top-up", show_default=True, help="What the ledger row says.")
@force
@as_json
def top_up(
    account_id: int, credits: int, idempotency_key: str | None, description: str, force: bool, as_json: bool
) -> None:
    """Put credits that were sold into an account.

    Far out of the usual are more than 1,000,000 credits at once that are more than ten times the most that the account
    got before: they ask for --force.

    \b
    Example:  creditmill accounts top-up 1 5000 --idempotency-key invoice-2026-117
    """
    from billing.ledger import by_hand
    from config.database import database_now
    from workers import bootstrap

    used = _key(idempotency_key, "top-up")
    bootstrap.connect("accounts")
    with acting() as session:
        now = database_now(session)
        row = by_hand.top_up(
            session,
            account_id,
            credits,
            idempotency_key=used,
            description=description,
            now=now,
            actor=actor(),
            force=force,
        )
    _tell(row, "got", created=row.created_at == now, as_json=as_json)


@click.command()
@click.argument("account_id", type=int)
@click.argument("credits", type=int)
@click.option("--reason", required=True, help="Why: the ledger row says it.")
@click.option("--by", required=True, help="Who decided it: the ledger row names the person.")
@key
@force
@as_json
def grant(
    account_id: int, credits: int, reason: str, by: str, idempotency_key: str | None, force: bool, as_json: bool
) -> None:
    """Give credits as goodwill. No report counts them as sold.

    \b
    Example:  creditmill accounts grant 1 200 --reason "two days of slow answers" --by anna
    """
    from billing.ledger import by_hand
    from config.database import database_now
    from workers import bootstrap

    used = _key(idempotency_key, "grant")
    bootstrap.connect("accounts")
    with acting() as session:
        now = database_now(session)
        row = by_hand.grant(
            session, account_id, credits, idempotency_key=used, description=reason, now=now, actor=by, force=force
        )
    _tell(row, "was given", created=row.created_at == now, as_json=as_json)


class WithNegativeNumber(click.Command):
    """A command of which -50 is an argument, not an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """The same, with a minus sign in place of the hyphen, which click takes for an option's."""
        before = ["", *args]
        return super().parse_args(
            ctx,
            [
                arg if previous.startswith("--") else NEGATIVE.sub("\N{MINUS SIGN}", arg)
                for previous, arg in zip(before, args, strict=False)
            ],
        )


class Amount(click.ParamType[int]):
    """A whole number, with a hyphen or a minus sign in front of it where it is negative."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number; a usage error for what is none."""
        typed: Any = str(value).replace("\N{MINUS SIGN}", "-")
        return int(click.INT.convert(typed, param, ctx))


@click.command(cls=WithNegativeNumber)
@click.argument("account_id", type=int)
@click.argument("credits", type=Amount())
@click.option("--reason", required=True, help="Why: the ledger row says it.")
@click.option("--by", required=True, help="Who decided it: the ledger row names the person.")
@key
@force
@as_json
def adjust(
    account_id: int, credits: int, reason: str, by: str, idempotency_key: str | None, force: bool, as_json: bool
) -> None:
    """Correct a balance: add credits, or take them back with a negative number. What open jobs hold stays.

    \b
    Example:  creditmill accounts adjust 1 -50 --reason "topped up twice" --by anna
    """
    from billing.ledger import by_hand
    from config.database import database_now
    from workers import bootstrap

    used = _key(idempotency_key, "adjust")
    bootstrap.connect("accounts")
    with acting() as session:
        now = database_now(session)
        row = by_hand.adjust(
            session, account_id, credits, idempotency_key=used, description=reason, now=now, actor=by, force=force
        )
    _tell(row, "got" if credits > 0 else "gave back", created=row.created_at == now, as_json=as_json)


@click.command("ledger")
@click.argument("account_id", type=int)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, for spreadsheets.")
@in_pages
@as_json
def statement(account_id: int, as_csv: bool, limit: int, after: str | None, as_json: bool) -> None:
    """Show every change of an account's balance, the newest first: why, by whom, and the balance that it left.

    \b
    Example:  creditmill accounts ledger 1
              creditmill accounts ledger 1 --csv --limit 10000 > statement.csv
    """
    from billing.ledger import statements
    from config.database import transaction
    from workers import bootstrap

    if as_csv and as_json:
        raise click.UsageError("Choose one of --json and --csv.")
    bootstrap.connect("accounts")
    with transaction() as session:
        page = statements.entries(session, account_id, limit=limit, after=after)
    if as_json:
        print_page("transactions", page)
        return
    if as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(COLUMNS)
        for entry in page.rows:
            writer.writerow([csv_cell(getattr(entry, name)) for name in COLUMNS])
    else:
        rows = [
            (
                entry.id,
                f"{entry.created_at:%Y-%m-%d %H:%M}",
                entry.reason,
                printable(entry.actor),
                printable(entry.description),
                entry.credits,
                entry.balance_after,
            )
            for entry in page.rows
        ]
        columns = ["id", "time (UTC)", "reason", "by", "what for", "credits", "balance"]
        console().print(table(f"Ledger of account {account_id}", columns, rows, left=5))
    tell_more(page)


def _key(given: str | None, command: str) -> str:
    if given is not None and not given.strip():
        raise click.UsageError("The idempotency key is empty: without a key, each repetition counts again.")
    return given or f"{command}:{uuid4()}"


def _tell(row: Any, verb: str, *, created: bool, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "account_id": row.account_id,
                "transaction_id": row.id,
                "credits": row.amount,
                "balance_after": row.balance_after,
                "reason": row.reason,
                "actor": row.actor,
                "idempotency_key": row.idempotency_key,
                "created": created,
            }
        )
    elif not created:
        click.echo(
            f"Nothing was changed: account {row.account_id} {verb} these {abs(row.amount):,} credits under the same "
            f"idempotency key on {row.created_at:%Y-%m-%d %H:%M} UTC."
        )
    else:
        click.echo(
            f"Account {row.account_id} {verb} {abs(row.amount):,} credits; its balance is {row.balance_after:,}."
        )
