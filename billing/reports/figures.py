"""What a revenue report is made of: its figures, its rows, and what is still owed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import date
from decimal import Decimal
from enum import StrEnum
from typing import Any

from billing.money import percent


class Sort(StrEnum):
    """By what the rows of a report are ordered, the largest first."""

    REVENUE = "revenue"
    COST = "cost"
    MARGIN = "margin"


class By(StrEnum):
    """What one row of a report sums up."""

    DAY = "day"
    ACCOUNT = "account"
    OPERATION = "operation"
    MODEL = "model"


SHOWN = (
    *("jobs", "jobs_settled", "credits", "credits_overrun", "revenue_usd", "cost_usd", "exposure_usd"),
    *("margin_usd", "margin_percent", "markup_percent"),
    *("tokens_input", "tokens_input_cached", "tokens_output", "tokens_reasoning", "images"),
)
"""A report's figures, in their order."""
TOKENS = frozenset(name for name in SHOWN if name.startswith("tokens_"))
"""Those that a platform without reports of tokens does not show."""


@dataclass(frozen=True)
class Figures:
    """Sums over finished jobs: their number, credits charged and overrun, USD earned and paid, tokens, images."""

    jobs: int = 0
    jobs_settled: int = 0
    credits: int = 0
    credits_overrun: int = 0
    revenue_usd: Decimal = Decimal(0)
    cost_usd: Decimal = Decimal(0)
    exposure_usd: Decimal = Decimal(0)
    tokens_input: int = 0
    tokens_input_cached: int = 0
    tokens_output: int = 0
    tokens_reasoning: int = 0
    images: int = 0

    @property
    def margin_usd(self) -> Decimal:
        """What remains of the revenue after the provider is paid, in USD."""
        return self.revenue_usd - self.cost_usd

    @property
    def margin_percent(self) -> Decimal | None:
        """The margin as a share of the revenue, in percent; None without revenue."""
        return percent(self.margin_usd, self.revenue_usd)

    @property
    def markup_percent(self) -> Decimal | None:
        """The margin as a share of the cost, in percent; None without cost."""
        return percent(self.margin_usd, self.cost_usd)

    def facts(self, names: Iterable[str]) -> dict[str, Any]:
        """The figures of these names."""
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Row:
    """The figures of one day, account, operation or model, or of two of these together.

    `name` is the account's, else the key once more; `second` and `second_name` are those of the second dimension.
    """

    key: date | int | str
    name: str
    figures: Figures
    second: date | int | str | None = None
    second_name: str = ""


@dataclass(frozen=True)
class Deferred:
    """Credits that accounts had not spent at the end of the report's last day, and their value: work still owed.

    They are valued at the platform's present default price of a credit.
    """

    credits: int
    price_per_credit_usd: Decimal

    @property
    def value_usd(self) -> Decimal:
        """What the credits are worth, in USD."""
        return self.credits * self.price_per_credit_usd


@dataclass(frozen=True)
class Report:
    """What the days (UTC) from `first` to `last`, both included, brought in and cost."""

    first: date
    last: date
    by: By
    rows: Sequence[Row]
    total: Figures
    deferred: Deferred
    shows_tokens: bool = True
    and_by: By | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the figures that it shows, in their order."""
        return tuple(name for name in SHOWN if self.shows_tokens or name not in TOKENS)


def total(figures: Iterable[Figures]) -> Figures:
    """The sum of all of them."""
    several = list(figures)
    return Figures(**{each.name: sum(getattr(one, each.name) for one in several) for each in fields(Figures)})
