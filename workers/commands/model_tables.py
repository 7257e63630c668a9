"""What the commands about models print: margins, costs that differ, and rates that are published otherwise."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from workers.commands.output import console, table, usd

if TYPE_CHECKING:
    from billing.catalog.margins import Margin
    from billing.catalog.price_sync import Comparison
    from billing.jobs.call_checks import CostDifference


def differences(found: list[CostDifference]) -> Any:
    """The models whose provider reports another cost than ours, as a table."""
    rows = [(each.model, each.calls, usd(each.ours_usd), usd(each.reported_usd), each.percent) for each in found]
    columns = ["model", "calls", "our cost", "reported", "difference %"]
    return table("Costs that the provider reports as others, last 30 days", columns, rows)


def margins_table(title: str, found: list[Margin]) -> Any:
    """What prices earn, as a table."""
    rows = [
        (
            *(margin.operation, margin.model, margin.worst, margin.credits),
            *(usd(amount) for amount in (margin.revenue_usd, margin.cost_usd, margin.margin_usd)),
            *("–" if share is None else f"{share} %" for share in (margin.margin_percent, margin.markup_percent)),
            margin.problem or margin.warning or "",
        )
        for margin in found
    ]
    columns = [
        "operation",
        "model",
        "at its worst",
        "credits",
        "revenue",
        "cost",
        "margin",
        "share",
        "markup",
        "problem",
    ]
    return table(title, columns, rows, left=3)


def compared_facts(compared: Comparison) -> dict[str, Any]:
    """A comparison with published rates, as plain data."""
    return {
        "changes": [vars(change) for change in compared.changes],
        "agreeing": list(compared.agreeing),
        "left_out": compared.left_out,
    }


def show_comparison(compared: Comparison) -> None:
    """Print a comparison with published rates."""
    click.echo(f"Compared with {compared.source}: {len(compared.agreeing)} models agree.")
    for model, reason in compared.left_out.items():
        click.echo(f"  left out: {model} {reason}")
    if compared.changes:
        rows = [
            (change.model, change.field, _rate(change.current), _rate(change.published), change.objection or "")
            for change in compared.changes
        ]
        title = "Published otherwise (USD per 1,000,000 tokens)"
        console().print(table(title, ["model", "rate", "ours", "published", "needs --force"], rows, left=5))


def _rate(amount: Decimal | int | None) -> str:
    if isinstance(amount, Decimal):
        return format(amount.normalize(), "f")
    return "–" if amount is None else f"{amount:,}"
