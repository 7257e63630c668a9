"""Commands about operations and the platform's billing defaults: what a credit buys, and which plan limit is used."""

from __future__ import annotations

from typing import Any

import click

from workers.commands.assignments import acting, fields_argument, force_option, poor_margins, show_changes, warn_of
from workers.commands.output import as_json, console, plain, print_json, table
from workers.commands.pages import in_pages

DEFAULTS = "defaults"
"""In the history, the name of the platform's defaults."""


@click.group()
def operations() -> None:
    """List and change what operations cost in credits, and the platform's defaults."""


@operations.command("list")
@as_json
def list_(as_json: bool) -> None:
    """List every operation: how many tokens make a credit, its minimum, its price, its plan limit.

    \b
    Example:  creditmill operations list --json
    """
    from billing.catalog import views
    from config.database import transaction
    from workers import bootstrap

    bootstrap.connect("operations")
    with transaction() as session:
        found = views.operations(session)
    if as_json:
        for facts in found:
            print_json(facts)
        return
    columns = ["operation", "type", "limit", "unit", "priced by", "least credits", "USD a credit", "active"]
    names = ("operation_type", "model_type", "limit_type", "limit_unit")
    rows = []
    for facts in found:
        own = (_rule(facts), facts["min_credits"], facts["price_per_credit_usd"], facts["is_active"])
        rows.append((*(facts[name] for name in names), *own))
        rows += [
            (f"  on {each['model_name']}", *("",) * 3, _rule(each), each["min_credits"]) for each in facts["on_models"]
        ]
    console().print(table("Operations", columns, [(*row, *("",) * (len(columns) - len(row))) for row in rows], left=5))


@operations.command()
@click.argument("name")
@fields_argument()
@force_option
@as_json
def add(name: str, fields: dict[str, str], force: bool, as_json: bool) -> None:
    """Add an operation; it needs model_type (text, image or embedding).

    \b
    Example:  creditmill operations add translation model_type=text tokens_per_credit=100 min_credits=1
    """
    from billing.catalog import changing, views
    from workers import bootstrap

    bootstrap.connect("operations")
    with acting() as session:
        changing.add_operation(session, name, fields, force=force)
        facts = views.operation(session, name)
        poor = poor_margins(session, operation=name)
    _show(facts, as_json)
    warn_of(poor)


@operations.command("set")
@click.argument("name")
@fields_argument()
@force_option
@as_json
def set_(name: str, fields: dict[str, str], force: bool, as_json: bool) -> None:
    """Change an operation; `none` empties a field, which then takes the platform's default.

    \b
    Example:  creditmill operations set clustering tokens_per_credit=80
              creditmill operations set linking limit_type=content_ideas limit_unit=requests
    """
    from billing.catalog import changing, views
    from workers import bootstrap

    bootstrap.connect("operations")
    with acting() as session:
        changing.set_operation(session, name, fields, force=force)
        facts = views.operation(session, name)
        poor = poor_margins(session, operation=name)
    _show(facts, as_json)
    warn_of(poor)


@operations.command()
@click.argument("name")
@click.argument("model")
@click.option("--remove", is_flag=True, help="Charge the operation on this model by its own rule again.")
@fields_argument(required=False)
@force_option
@as_json
def price(name: str, model: str, remove: bool, fields: dict[str, str], force: bool, as_json: bool) -> None:
    """Charge an operation otherwise on one model: by other tokens, or by cost with a markup.

    \b
    Example:  creditmill operations price clustering gpt-4o priced_by=cost markup_percent=150
              creditmill operations price clustering gpt-4o --remove
    """
    from billing.catalog import changing, views
    from workers import bootstrap

    if remove == bool(fields):
        raise click.UsageError("Give either fields or --remove.")
    bootstrap.connect("operations")
    with acting() as session:
        if remove:
            changing.remove_override(session, name, model)
        else:
            changing.set_override(session, name, model, fields, force=force)
        facts = views.operation(session, name)
        poor = poor_margins(session, operation=name, model=model)
    _show(facts, as_json)
    warn_of(poor)


@operations.command()
@fields_argument(required=False)
@force_option
@as_json
def defaults(fields: dict[str, str], force: bool, as_json: bool) -> None:
    """Show the platform's defaults, or change them.

    \b
    Example:  creditmill operations defaults credit_rounding_mode=nearest
    """
    from billing.catalog import changing, views
    from workers import bootstrap

    bootstrap.connect("operations")
    with acting() as session:
        if fields:
            changing.set_defaults(session, fields, force=force)
        facts = views.defaults(session)
        poor = poor_margins(session) if fields else []
    _show(facts, as_json)
    warn_of(poor)


@operations.command("history")
@click.argument("name")
@in_pages
@as_json
def history_(name: str, limit: int, after: str | None, as_json: bool) -> None:
    """Show every change of an operation, or of the platform's `defaults`: old and new values, time, and who made it.

    \b
    Example:  creditmill operations history clustering
    """
    from billing.catalog import changing, history
    from config.database import transaction
    from workers import bootstrap

    bootstrap.connect("operations")
    with transaction() as session:
        if name == DEFAULTS:
            page = history.changes(session, history.DEFAULTS, "1", limit=limit, after=after)
        else:
            changing.operation_named(session, name)
            page = history.changes(session, history.OPERATION, name, limit=limit, after=after)
    show_changes(page, as_json)


def _show(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        if value not in (None, "") and name != "on_models":
            click.echo(f"{name:<28} {plain(value)}")
    for each in facts.get("on_models", []):
        click.echo(f"{'on ' + each['model_name']:<28} {_rule(each)}, at least {each['min_credits']}")


def _rule(facts: dict[str, Any]) -> str:
    """How usage becomes credits, in a few words."""
    if facts["priced_by"] == "cost":
        return f"cost + {facts['markup_percent'].normalize():f} %"
    weight = facts["output_weight"].normalize()
    weighted = f", output x {weight:f}" if weight != 1 else ""
    tokens = facts["tokens_per_credit"]
    return f"{'the usual' if tokens is None else tokens} tokens{weighted}"
