"""Commands of `creditmill plans` that act on a plan: what it includes and limits, and what is left of the limits.

Those that act on a subscription are in `subscriptions`.
"""

from __future__ import annotations

from typing import Any

import click

from workers.commands.assignments import acting, fields_argument, show_changes
from workers.commands.output import as_json, console, plain, print_json, printable, table
from workers.commands.pages import in_pages


@click.group("plans")
def group() -> None:
    """List and change plans, subscribe accounts to them, and see what is left of their limits."""


@group.command("list")
@as_json
def list_(as_json: bool) -> None:
    """List every plan with its limits; a limit that is not named is unlimited.

    \b
    Example:  creditmill plans list
    """
    from billing.plans import plans
    from config.database import transaction
    from workers import bootstrap

    bootstrap.connect("plans")
    with transaction() as session:
        found = [vars(plan) for plan in plans.all_plans(session)]
    if as_json:
        for facts in found:
            print_json(facts)
        return
    rows = [
        (
            *(facts[name] for name in ("slug", "name", "is_active")),
            _limits(facts),
            *(facts[name] for name in ("billing_interval", "price", "included_credits")),
        )
        for facts in found
    ]
    columns = ["plan", "name", "active", "limits", "period", "USD a period", "credits included"]
    console().print(table("Plans", columns, rows, left=5))


@group.command("set")
@click.argument("slug")
@fields_argument()
@as_json
def set_(slug: str, fields: dict[str, str], as_json: bool) -> None:
    """Add or change a plan: name, price (USD a period), included_credits, billing_interval, is_active, and its limits.

    Limits are in units a period; a period is a month unless billing_interval=year. What a plan includes and its
    interval change with the next period. A new limit holds at once, for what the period has already used too; `none`
    makes it unlimited.

    \b
    Example:  creditmill plans set starter name=Starter price=29 images_basic=100 content_words=50000
              creditmill plans set starter images_premium=0
    """
    from billing.plans import plans
    from workers import bootstrap

    bootstrap.connect("plans")
    with acting() as session:
        facts = vars(plans.view(plans.set_plan(session, slug, fields)))
    if as_json:
        print_json(facts)
        return
    for name, value in {**facts, "limits": _limits(facts)}.items():
        click.echo(f"{name:<18} {plain(value)}")


@group.command()
@click.argument("account_id", type=int)
@as_json
def usage(account_id: int, as_json: bool) -> None:
    """Show what an account has used, and may still use, of each limit of its plan in the current period.

    \b
    Example:  creditmill plans usage 1
    """
    from billing.plans import plans
    from config.database import database_now, transaction
    from workers import bootstrap

    bootstrap.connect("plans")
    with transaction() as session:
        found = plans.usage(session, account_id, now=database_now(session))
    if as_json:
        for each in found:
            print_json(vars(each))
    elif not found:
        click.echo(f"Account {account_id} has no plan with limits.")
    else:
        rows = [
            (each.limit_type, each.allowed, each.used, each.reserved, each.remaining, f"{each.percentage_used} %")
            for each in found
        ]
        title = f"From {found[0].period_start} up to {found[0].period_end}"
        console().print(table(title, ["limit", "allowed", "used", "held", "left", "share used"], rows))
        for each in found:
            for label, used in sorted(each.by_label.items()):
                click.echo(f"Of {each.limit_type}, {printable(label)} used {used:,}.")


@group.command("history")
@click.argument("slug")
@in_pages
@as_json
def history_(slug: str, limit: int, after: str | None, as_json: bool) -> None:
    """Show every change of a plan: old and new values, time, and who made it.

    \b
    Example:  creditmill plans history starter
    """
    from billing.catalog import history
    from billing.plans import plans
    from config.database import transaction
    from workers import bootstrap

    bootstrap.connect("plans")
    with transaction() as session:
        plans.named(session, slug)
        page = history.changes(session, history.PLAN, slug, limit=limit, after=after)
    show_changes(page, as_json)


def _limits(facts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {units:,}" for name, units in sorted(facts["limits"].items())) or "none"
