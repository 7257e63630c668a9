"""Commands about revenue: a report as a table, JSON, CSV or a chart, and computing the roll-ups anew."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from billing.errors import InvalidRequest
from billing.reports.figures import By, Figures, Report, Row, Sort
from workers.commands.output import as_json, console, csv_cell, print_json, printable, table, usd

DATE = click.DateTime(["%Y-%m-%d"])
DIMENSIONS_MAX = 2
LAST_DAY = date(9998, 12, 31)
"""Years have four digits, and the month after it is looked at too."""


@click.group("revenue")
def group() -> None:
    """Report what came in and what it cost, and compute the roll-ups anew."""


@group.command()
@click.option("--from", "first", type=DATE, help="The first day (UTC); else the first of the last day's month.")
@click.option("--to", "last", type=DATE, help="The last day (UTC), included; else today.")
@click.option(
    "--by",
    "dimensions",
    type=click.Choice([str(by) for by in By]),
    multiple=True,
    default=[str(By.DAY)],
    show_default=True,
    help="What each row stands for; give it twice for two dimensions.",
)
@click.option("--sort", type=click.Choice([str(each) for each in Sort]), help="Order the rows, the largest first.")
@click.option("--account", "account_id", type=int, help="Only this account's jobs.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV with every decimal, for spreadsheets.")
@click.option("--chart", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw a chart into this file.")
@as_json
def report(
    first: datetime | None,
    last: datetime | None,
    dimensions: Sequence[str],
    sort: str | None,
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
              creditmill revenue report --by operation --by model --sort margin
    """
    from billing.ledger import accounts
    from billing.reports import revenue_reports
    from config.database import database_now, transaction
    from workers import bootstrap

    if as_json + as_csv + (chart is not None) > 1:
        raise click.UsageError("Choose one of --json, --csv and --chart.")
    if len(dimensions) > DIMENSIONS_MAX or len(set(dimensions)) < len(dimensions):
        raise click.UsageError("Give --by once, or twice with two different dimensions.")
    by, and_by = (By(each) for each in [*dimensions, *dimensions][:2])
    if chart is not None and len(dimensions) > 1:
        raise click.UsageError("A chart shows one dimension.")
    if chart is not None and chart.suffix.lower() != ".png":
        raise click.UsageError("The chart is a PNG: let its name end in .png.")
    bootstrap.connect("revenue")
    with transaction(isolation="REPEATABLE READ", read_only=True) as session:
        until = last.date() if last is not None else database_now(session).date()
        since = first.date() if first is not None else until.replace(day=1)
        _check_span(since, until)
        asked = None if account_id is None else [accounts.get(session, account_id).id]
        found = revenue_reports.report(
            session,
            since,
            until,
            by=by,
            and_by=and_by if len(dimensions) > 1 else None,
            sort=None if sort is None else Sort(sort),
            account_ids=asked,
        )
    if as_json:
        _print_json(found)
    elif as_csv:
        _print_csv(found)
    elif not found.rows:
        click.echo(f"No job finished {_span(found)}. {_deferred(found)}")
    elif chart is not None:
        _draw(found, chart)
        click.echo(f"The chart of revenue by {found.by} is in {chart}.", err=True)
    else:
        _print_table(found)


@group.command("credits")
@click.option("--from", "first", type=DATE, help="The first day (UTC); else the first of the last day's month.")
@click.option("--to", "last", type=DATE, help="The last day (UTC), included; else today.")
@click.option("--account", "account_id", type=int, help="Only this account's credits.")
@as_json
def credits_(first: datetime | None, last: datetime | None, account_id: int | None, as_json: bool) -> None:
    """Report the credits that were put into accounts, by reason: sold, of a plan, given as goodwill, adjusted.

    Only what was sold was paid for by itself, and none of it is revenue before a job uses it: see `revenue report`.

    \b
    Example:  creditmill revenue credits --from 2026-10-01 --to 2026-10-31
    """
    from billing.ledger import accounts
    from billing.reports import revenue_reports
    from config.database import database_now, transaction
    from workers import bootstrap

    bootstrap.connect("revenue")
    with transaction() as session:
        until = last.date() if last is not None else database_now(session).date()
        since = first.date() if first is not None else until.replace(day=1)
        _check_span(since, until)
        if account_id is not None:
            accounts.get(session, account_id)
        found = revenue_reports.credits_put_in(session, since, until, account_id=account_id)
    if as_json:
        for each in found:
            print_json({"from": since, "to": until, "account_id": account_id, **vars(each)})
        return
    title = f"Credits put in from {since} to {until}"
    console().print(table(title, ["reason", "entries", "credits"], [tuple(vars(each).values()) for each in found]))


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
        print_json({**_keys(found, row), **row.figures.facts(found.columns)})
    print_json(
        {
            "total": True,
            "from": found.first,
            "to": found.last,
            "by": found.by if found.and_by is None else [found.by, found.and_by],
            **found.total.facts(found.columns),
            "deferred_credits": found.deferred.credits,
            "deferred_price_per_credit_usd": found.deferred.price_per_credit_usd,
            "deferred_usd": found.deferred.value_usd,
        }
    )


def _keys(found: Report, row: Row) -> dict[str, Any]:
    """By what a row is named, of each dimension."""
    first = _key(found.by, row.key, row.name)
    return first if found.and_by is None else first | _key(found.and_by, row.second, row.second_name)


def _key(by: By, key: object, name: str) -> dict[str, Any]:
    return {"account_id": key, "account": name} if by is By.ACCOUNT else {str(by): key}


def _print_csv(found: Report) -> None:
    # No row of totals: a spreadsheet that sums a column would count everything twice.
    empty = Row("", "", Figures(), "", "")
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([*_keys(found, empty), *found.columns])
    for row in found.rows:
        facts = [*_keys(found, row).values(), *row.figures.facts(found.columns).values()]
        writer.writerow([csv_cell(value) for value in facts])


def _print_table(found: Report) -> None:
    label = ["name" if name == "account" else name.removesuffix("_id") for name in _keys(found, Row("", "", Figures()))]
    rows = [[*(printable(str(key)) for key in _keys(found, row).values()), *_shown(row.figures)] for row in found.rows]
    rows.append(["total", *[""] * (len(label) - 1), *_shown(found.total)])
    columns = ["jobs", "settled", "credits", "revenue", "cost", "of it exposure", "margin", "margin %", "markup %"]
    by = str(found.by) if found.and_by is None else f"{found.by} and {found.and_by}"
    made = table(f"Revenue by {by} {_span(found)}", [*label, *columns], rows, left=len(label))
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
