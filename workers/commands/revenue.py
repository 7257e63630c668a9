"""Commands about revenue: a report as a table, JSON, CSV or a chart, and computing the roll-ups anew."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from billing.errors import InvalidRequest
from billing.reports.figures import By, Figures, Report, Row
from workers.commands.output import as_json, console, print_json, printable, table, usd

DATE = click.DateTime(["%Y-%m-%d"])
LAST_DAY = date(9998, 12, 31)
"""Years have four digits, and the month after it is looked at too."""
FORMULA = tuple("=+-@＝＋－＠")
"""The characters that begin a cell which a spreadsheet would compute."""


@click.group("revenue")
def group() -> None:
    """Report what came in and what it cost, and compute the roll-ups anew."""


@group.command()
@click.option("--from", "first", type=DATE, help="The first day (UTC); else the first of the last day's month.")
@click.option("--to", "last", type=DATE, help="The last day (UTC), included; else today.")
@click.option(
    "--by",
    type=click.Choice([str(by) for by in By]),
    default=str(By.DAY),
    show_default=True,
    help="What each row stands for.",
)
@click.option("--account", "account_id", type=int, help="Only this account's jobs.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV with every decimal, for spreadsheets.")
@click.option("--chart", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw a chart into this file.")
@as_json
def report(
    first: datetime | None,
    last: datetime | None,
    by: str,
    account_id: int | None,
    as_csv: bool,
    chart: Path | None,
    as_json: bool,
) -> None:
    """Report revenue, provider cost and margin of a span of days, by default of this month so far.

    A job counts on the day (UTC) on which it finished. Exposure is the part of the cost that no customer pays for.
    Deferred credits are those that all accounts had not spent by the end of the last day, at today's price of a credit.

    \b
    Example:  creditmill revenue report
              creditmill revenue report --from 2026-10-01 --to 2026-10-31 --by account --csv > october.csv
              creditmill revenue report --by model --chart models.png
              creditmill revenue report --account 7 --by operation
    """
    from billing.ledger import accounts
    from billing.reports import revenue_reports
    from config.database import database_now, transaction
    from workers import bootstrap

    if as_json + as_csv + (chart is not None) > 1:
        raise click.UsageError("Choose one of --json, --csv and --chart.")
    if chart is not None and chart.suffix.lower() != ".png":
        raise click.UsageError("The chart is a PNG: let its name end in .png.")
    bootstrap.connect("revenue")
    with transaction(isolation="REPEATABLE READ", read_only=True) as session:
        until = last.date() if last is not None else database_now(session).date()
        since = first.date() if first is not None else until.replace(day=1)
        _check_span(since, until)
        asked = None if account_id is None else [accounts.get(session, account_id).id]
        found = revenue_reports.report(session, since, until, by=By(by), account_ids=asked)
    if as_json:
        _print_json(found)
    elif as_csv:
        _print_csv(found)
    elif not found.rows:
        click.echo(f"No job finished {_span(found)}. {_deferred(found)}")
    elif chart is not None:
        _draw(found, chart)
        click.echo(f"The chart of revenue by {by} is in {chart}.", err=True)
    else:
        _print_table(found)


@group.command()
@click.option("--from", "first", type=DATE, help="The first day (UTC); else the first with any job.")
@click.option("--to", "last", type=DATE, help="The last day (UTC), included; else the last with any job.")
@as_json
def rebuild(first: datetime | None, last: datetime | None, as_json: bool) -> None:
    """Compute roll-ups anew from the jobs, their usage and their calls; by default those of all days.

    It is never needed, unless the audit finds a roll-up that differs. Work may go on meanwhile; each month is one
    transaction.

    \b
    Example:  creditmill revenue rebuild
              creditmill revenue rebuild --from 2026-10-01 --to 2026-10-31
    """
    from rich.console import Console
    from rich.progress import Progress

    from billing.reports import revenue
    from config.database import database_now, transaction
    from workers import bootstrap

    bootstrap.connect("revenue")
    with transaction() as session:
        whole, now = revenue.days(session), database_now(session)
    since = first.date() if first is not None else whole and whole[0]
    until = last.date() if last is not None else whole and whole[1]
    if since is not None and until is not None:
        _check_span(since, until)
    rows = 0
    months = list(_months(since, until)) if since is not None and until is not None else []
    stderr = Console(stderr=True)
    with Progress(console=stderr, disable=not stderr.is_terminal, transient=True) as progress:
        for begin, end in progress.track(months, description="Computing roll-ups anew"):
            with transaction(isolation="REPEATABLE READ") as session:
                rows += revenue.rebuild(session, begin, end, now=now)
    if as_json:
        print_json({"from": since, "to": until, "rollups": rows})
    elif months:
        click.echo(f"{rows:,} roll-ups were computed anew, of the days from {since} to {until}.")
    else:
        click.echo("There is nothing to compute: no job has finished.")


def _check_span(first: date, last: date) -> None:
    if last < first:
        raise InvalidRequest(f"The span ends on {last}, before it begins on {first}.", code="invalid_span")
    if last > LAST_DAY:
        raise InvalidRequest(f"The last day is {LAST_DAY} at most.", code="invalid_span")


def _months(first: date, last: date) -> Iterator[tuple[date, date]]:
    begin = first
    while begin <= last:
        next_month = (begin.replace(day=1) + timedelta(days=32)).replace(day=1)
        yield begin, min(last, next_month - timedelta(days=1))
        begin = next_month


def _print_json(found: Report) -> None:
    for row in found.rows:
        print_json({**_key(found.by, row), **row.figures.facts(found.columns)})
    print_json(
        {
            "total": True,
            "from": found.first,
            "to": found.last,
            "by": found.by,
            **found.total.facts(found.columns),
            "deferred_credits": found.deferred.credits,
            "deferred_price_per_credit_usd": found.deferred.price_per_credit_usd,
            "deferred_usd": found.deferred.value_usd,
        }
    )


def _key(by: By, row: Row) -> dict[str, Any]:
    return {"account_id": row.key, "account": row.name} if by is By.ACCOUNT else {str(by): row.key}


def _print_csv(found: Report) -> None:
    # No row of totals: a spreadsheet that sums a column would count everything twice.
    keys = ["account_id", "account"] if found.by is By.ACCOUNT else [str(found.by)]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([*keys, *found.columns])
    for row in found.rows:
        facts = [*_key(found.by, row).values(), *row.figures.facts(found.columns).values()]
        writer.writerow([_cell(value) for value in facts])


def _cell(value: object) -> str:
    """A value as a spreadsheet may read it: a text is never a formula, an amount keeps every decimal."""
    if value is None:
        return ""
    if isinstance(value, Decimal):
        return format(value, "f")
    if not isinstance(value, str):
        return str(value)
    text = printable(value)
    return f"'{text}" if text.lstrip().startswith(FORMULA) else text


def _print_table(found: Report) -> None:
    label = ["account", "name"] if found.by is By.ACCOUNT else [str(found.by)]
    rows = [
        [
            *([str(row.key), printable(row.name)] if found.by is By.ACCOUNT else [printable(row.name)]),
            *_shown(row.figures),
        ]
        for row in found.rows
    ]
    rows.append(["total", *[""] * (len(label) - 1), *_shown(found.total)])
    columns = ["jobs", "settled", "credits", "revenue", "cost", "of it exposure", "margin", "margin %", "markup %"]
    made = table(f"Revenue by {found.by} {_span(found)}", [*label, *columns], rows, left=len(label))
    made.rows[-2].end_section = True
    console().print(made)
    used = found.total
    tokens = (
        f"Tokens: {used.tokens_input:,} input, {used.tokens_input_cached:,} cached input, "
        f"{used.tokens_output:,} output, {used.tokens_reasoning:,} reasoning. "
    )
    click.echo(f"{tokens if found.shows_tokens else ''}Images: {used.images:,}.")
    if used.credits_overrun:
        click.echo(f"Overrun: {used.credits_overrun:,} credits were used beyond what was held, and not charged.")
    click.echo(_deferred(found))


def _shown(found: Figures) -> list[object]:
    shares = [None if share is None else f"{share} %" for share in (found.margin_percent, found.markup_percent)]
    amounts = (found.revenue_usd, found.cost_usd, found.exposure_usd, found.margin_usd)
    return [found.jobs, found.jobs_settled, found.credits, *(usd(amount) for amount in amounts), *shares]


def _span(found: Report) -> str:
    return f"on {found.first}" if found.first == found.last else f"from {found.first} to {found.last}"


def _deferred(found: Report) -> str:
    owed = found.deferred
    return f"Deferred at the end of {found.last}: {owed.credits:,} unspent credits, worth {usd(owed.value_usd, 2)}."


def _draw(found: Report, file: Path) -> None:
    # A heavy library that only this option needs.
    from workers.commands.revenue_chart import draw

    try:
        file.write_bytes(draw(found))
    except OSError as error:
        raise click.UsageError(f"{file} cannot be written: {error.strerror}.") from None
