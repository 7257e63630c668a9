"""Commands about models and what they cost: list and change them, check margins, try prices out, see the history."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from billing.catalog.pricing import ANY
from billing.errors import InvalidRequest
from workers.commands.assignments import acting, fields_argument, force_option, poor_margins, show_changes, warn_of
from workers.commands.model_tables import compared_facts, differences, margins_table, show_comparison
from workers.commands.output import as_json, console, plain, print_json, table, usd
from workers.commands.pages import in_pages

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


DAY = click.DateTime(["%Y-%m-%d"])
size_option = click.option("--size", default=ANY, show_default=True, help="Width x height in pixels; * for any.")
quality_option = click.option("--quality", default=ANY, show_default=True, help="The model's own word; * for any.")


@click.group()
def models() -> None:
    """List and change models and their prices, check what they earn, try prices out."""


@models.command("list")
@as_json
def list_(as_json: bool) -> None:
    """List every model with its price.

    \b
    Example:  creditmill models list --json
    """
    from billing.catalog import views
    from config.database import database_now, transaction
    from workers import bootstrap

    bootstrap.connect("models")
    with transaction() as session:
        found = views.models(session, today=database_now(session).date())
    if as_json:
        for facts in found:
            print_json(facts)
        return
    columns = ["model", "type", "provider", "price", "default", "active", "limit", "taken away"]
    rows = [
        (
            *(facts[name] for name in ("model_name", "model_type", "provider", "display_with_pricing", "is_default")),
            *(facts[name] for name in ("is_active", "limit_type", "deprecation_date")),
        )
        for facts in found
    ]
    console().print(table("Models", columns, rows, left=8))


@models.command()
@click.argument("name")
@as_json
def show(name: str, as_json: bool) -> None:
    """Show everything about one model, its image prices too.

    \b
    Example:  creditmill models show dall-e-3
    """
    from config.database import transaction
    from workers import bootstrap

    bootstrap.connect("models")
    with transaction() as session:
        facts = _facts(session, name)
    _show(facts, as_json)


@models.command()
@click.argument("name")
@fields_argument()
@force_option
@as_json
def add(name: str, fields: dict[str, str], force: bool, as_json: bool) -> None:
    """Add a model; it needs model_type, provider, and for tokens its rates in USD per 1,000,000 tokens and its limits.

    \b
    Example:  creditmill models add gpt-4.1 model_type=text provider=openai input_cost_per_1m=2 \\
                output_cost_per_1m=8 context_window=1047576 max_output_tokens=32768 tokenizer=o200k_base
    """
    from billing.catalog import changing
    from workers import bootstrap

    bootstrap.connect("models")
    with acting() as session:
        changing.add_model(session, name, fields, force=force)
        facts = _facts(session, name)
        poor = poor_margins(session, model=name)
    _show(facts, as_json)
    warn_of(poor)


@models.command("set")
@click.argument("name")
@fields_argument()
@force_option
@as_json
def set_(name: str, fields: dict[str, str], force: bool, as_json: bool) -> None:
    """Change a model; rates are in USD per 1,000,000 tokens, and `none` empties a field.

    Open and finished jobs keep the price that they were reserved at.

    \b
    Example:  creditmill models set gpt-4o input_cost_per_1m=2.5 output_cost_per_1m=10
              creditmill models set gpt-4o deprecation_date=2027-03-31
    """
    from billing.catalog import changing
    from workers import bootstrap

    bootstrap.connect("models")
    with acting() as session:
        changing.set_model(session, name, fields, force=force)
        facts = _facts(session, name)
        poor = poor_margins(session, model=name)
    _show(facts, as_json)
    warn_of(poor)


@models.command()
@click.argument("name")
@size_option
@quality_option
@click.option("--remove", is_flag=True, help="Take this price away; what has no price is refused.")
@fields_argument(required=False)
@force_option
@as_json
def price(name: str, size: str, quality: str, remove: bool, fields: dict[str, str], force: bool, as_json: bool) -> None:
    """Set the price of an image: cost_per_image_usd is what the provider is paid, credits_per_image the charge.

    \b
    Example:  creditmill models price dall-e-3 --size 1024x1024 --quality hd \\
                cost_per_image_usd=0.08 credits_per_image=10
    """
    from billing.catalog import changing
    from workers import bootstrap

    if remove == bool(fields):
        raise click.UsageError("Give either fields or --remove.")
    bootstrap.connect("models")
    with acting() as session:
        if remove:
            changing.remove_image_price(session, name, size, quality)
        else:
            changing.set_image_price(session, name, size, quality, fields, force=force)
        facts = _facts(session, name)
        poor = poor_margins(session, model=name)
    _show(facts, as_json)
    warn_of(poor)


@models.command()
@click.option("--floor", type=click.IntRange(0, 99), help="The least margin in percent, instead of the platform's.")
@click.option("--all", "all_", is_flag=True, help="Show what earns enough, too.")
@as_json
def check(floor: int | None, all_: bool, as_json: bool) -> None:
    """Find every price that loses money or earns too little, for each operation at its worst; exits with 1 if any.

    A price that marks its cost up by less than is wanted is shown, and is no failure.
    Models whose provider reported another cost than ours in the last 30 days are found, too.

    \b
    Example:  creditmill models check --floor 30
    """
    from billing.catalog import current, margins
    from billing.jobs import call_checks
    from config.database import transaction
    from workers import bootstrap

    bootstrap.connect("models")
    with transaction() as session:
        at = current.moment(session)
        found = margins.check(at.catalog, floor_percent=floor)
        differing = call_checks.cost_differences(session, now=at.now)
    poor = [margin for margin in found if margin.problem]
    shown = [margin for margin in found if all_ or margin.problem or margin.warning]
    if as_json:
        for margin in shown:
            print_json(vars(margin))
        for difference in differing:
            print_json({**vars(difference), "percent": difference.percent, "problem": "reported cost differs"})
    elif shown:
        console().print(margins_table("Margins", shown))
    if not as_json:
        if differing:
            console().print(differences(differing))
        warned = sum(margin.warning is not None for margin in found)
        click.echo(
            f"{len(found)} prices checked, {len(poor)} earn too little"
            f"{f', {warned} are marked up by less than is wanted' if warned else ''}."
        )
    if poor or differing:
        raise click.exceptions.Exit(1)


@models.command()
@click.option("--since", type=DAY, required=True, help="The first day (UTC).")
@click.option("--until", type=DAY, help="The day after the last one (UTC); today is included unless given.")
@click.option("--model", help="Only usage of this model, which the fields may change.")
@click.option("--operation", help="Only usage of this operation, which the fields may change.")
@size_option
@quality_option
@fields_argument(required=False)
@force_option
@as_json
def reprice(
    since: datetime,
    until: datetime | None,
    model: str | None,
    operation: str | None,
    size: str,
    quality: str,
    fields: dict[str, str],
    force: bool,
    as_json: bool,
) -> None:
    """Recompute past usage at proposed prices, or at today's, and show the difference. Nothing is written.

    The fields are those of `models set`, `models price`, `operations set` and `operations defaults`.

    \b
    Example:  creditmill models reprice --since 2026-11-01 --model gpt-4o output_cost_per_1m=12
              creditmill models reprice --since 2026-11-01 --operation clustering tokens_per_credit=80 --json
    """
    from billing.reports import repricing
    from billing.reports.repricing import Proposal
    from config.database import database_now, transaction
    from workers import bootstrap

    bootstrap.connect("models")
    proposal = Proposal(model=model, operation=operation, size=size, quality=quality, fields=fields)
    with transaction(isolation="REPEATABLE READ") as session:
        begin, end = since.replace(tzinfo=UTC), until.replace(tzinfo=UTC) if until else database_now(session)
        if end < begin:
            raise InvalidRequest("The span ends before it begins.", code="invalid_span")
        found = repricing.reprice(session, since=begin, until=end, proposal=proposal, force=force)
    whole = repricing.total(found)
    if as_json:
        print_json({"since": begin, "until": end, "total": whole.facts(), "usage": [each.facts() for each in found]})
        return
    rows = [
        (
            *(each.operation, each.model, each.jobs, each.credits_before, each.credits_after),
            *(usd(amount) for amount in (each.margin_before_usd, each.margin_after_usd)),
            usd(each.margin_after_usd - each.margin_before_usd),
        )
        for each in [*found, whole]
    ]
    columns = ["operation", "model", "jobs", "credits", "then", "margin", "then", "difference"]
    console().print(table("Usage, repriced (nothing was written)", columns, rows, left=2))
    if whole.unpriced:
        click.echo(f"{whole.unpriced} jobs have no price any more and count as before.")


@models.command()
@click.option("--yes", is_flag=True, help="Write the changes without asking.")
@force_option
@as_json
def sync(yes: bool, force: bool, as_json: bool) -> None:
    """Compare token rates with published ones (genai-prices) and, once confirmed, take them over.

    Each kind of rate is compared with its own: cached input, cache writes, images, audio, long requests. What is not
    published stays as it is.

    Without a terminal to ask on, nothing is written unless --yes is given. Exits with 1 when differences remain.

    \b
    Example:  creditmill models sync
              creditmill models sync --json
    """
    from billing.catalog import price_sync
    from config.database import database_now, transaction
    from workers import bootstrap

    bootstrap.connect("models")
    with transaction() as session:
        compared = price_sync.compare(session, now=database_now(session))
    wanted = [change for change in compared.changes if force or change.objection is None]
    if not as_json:
        show_comparison(compared)
    # No transaction is open while a person thinks.
    write = bool(wanted) and (yes or (not as_json and _confirmed(len(wanted))))
    if write:
        with acting() as session:
            price_sync.apply(session, wanted, force=force)
    if as_json:
        print_json({"source": compared.source, **compared_facts(compared), "written": len(wanted) if write else 0})
    elif compared.changes:
        click.echo(f"{len(wanted)} rates were changed." if write else "Nothing was changed.")
    if len(compared.changes) > (len(wanted) if write else 0):
        raise click.exceptions.Exit(1)


@models.command("history")
@click.argument("name")
@in_pages
@as_json
def history_(name: str, limit: int, after: str | None, as_json: bool) -> None:
    """Show every change of a model and its image prices: old and new values, time, and who made it.

    \b
    Example:  creditmill models history dall-e-3
    """
    from billing.catalog import changing, history
    from config.database import transaction
    from workers import bootstrap

    bootstrap.connect("models")
    with transaction() as session:
        changing.model_named(session, name)
        page = history.changes(session, history.MODEL, name, limit=limit, after=after)
    show_changes(page, as_json)


def _facts(session: Session, name: str) -> dict[str, Any]:
    from billing.catalog import views
    from config.database import database_now

    return views.model(session, name, today=database_now(session).date())


def _show(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        if value not in (None, "", []) and name not in ("id", "image_prices"):
            click.echo(f"{name:<26} {plain(value)}")
    if facts["image_prices"]:
        rows = [tuple(price.values()) for price in facts["image_prices"]]
        console().print(table("Image prices", ["size", "quality", "USD to the provider", "credits"], rows, left=2))


def _confirmed(changes: int) -> bool:
    return sys.stdin.isatty() and click.confirm(f"Take over these {changes} rates?")
