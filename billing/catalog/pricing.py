"""What a request may cost at most, what its usage is charged, and what the provider is paid for it.

A Price is a frozen snapshot that is stored on the job when its credits are reserved; everything here is computed from
that snapshot, so a later change of prices never touches an open or finished job.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from functools import lru_cache
from typing import Any

from billing.catalog.rates import TOKENS_PER_RATE, TokenRates, cost_of_tokens
from billing.catalog.usage import INPUT_BUCKETS, OUTPUT_BUCKETS, Usage, Work, used_by
from billing.money import Rounding, round_credits, usd

ANY = "*"
"""In an image price: any size, or any quality."""


class PricedBy(StrEnum):
    """What the credits of a usage follow: its tokens or images, or what it costs us."""

    TOKENS = "tokens"
    COST = "cost"


@dataclass(frozen=True)
class Rule:
    """How usage becomes credits: the row of an operation, or the one of an operation on one model.

    By tokens, an output token counts as `output_weight` tokens. By cost, the customer pays the provider's cost and
    `markup_percent` of it on top. `row` names the row.
    """

    row: str
    priced_by: PricedBy
    tokens_per_credit: int
    min_credits: int
    output_weight: Decimal = Decimal(1)
    markup_percent: Decimal | None = None


@dataclass(frozen=True)
class ImagePrice:
    """One image of one size and quality: what the provider is paid in USD, what the customer pays in credits."""

    size: str
    quality: str
    cost_usd: Decimal
    credits: int


@dataclass(frozen=True)
class Price:
    """Everything that a job's charge and cost are computed from, as it was when its credits were reserved.

    Exactly one of `image` and `rates` is set: a model bills by the image or by the token. `kind` is what is delivered:
    text, image or embedding. The fields of its Rule say how usage becomes credits.
    """

    model_name: str
    kind: str
    tokens_per_credit: int
    min_credits: int
    rounding: Rounding
    price_per_credit_usd: Decimal
    rates: TokenRates | None = None
    image: ImagePrice | None = None
    priced_by: PricedBy = PricedBy.TOKENS
    output_weight: Decimal = Decimal(1)
    markup_percent: Decimal | None = None
    row: str = ""

    def __post_init__(self) -> None:
        if (self.rates is None) == (self.image is None):
            raise ValueError("a price has either token rates or an image price")
        if self.priced_by is PricedBy.COST and self.markup_percent is None:
            raise ValueError("a price by cost has a markup")

    def to_json(self) -> dict[str, Any]:
        """As stored on the job: decimals are strings, so that nothing becomes a float on the way."""
        return dict(_json_of(self))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Price:
        """Read what `to_json` wrote."""
        rates, image, markup = data["rates"], data["image"], data.get("markup_percent")
        return cls(
            model_name=data["model_name"],
            # Jobs from before image models could bill by tokens have no kind in their price.
            kind=data.get("kind", "image" if image else "text"),
            tokens_per_credit=data["tokens_per_credit"],
            min_credits=data["min_credits"],
            rounding=Rounding(data["rounding"]),
            price_per_credit_usd=Decimal(data["price_per_credit_usd"]),
            rates=rates and TokenRates.from_json(rates),
            image=image and ImagePrice(**{**image, "cost_usd": Decimal(image["cost_usd"])}),
            # Jobs from before there were two rules have none in their price: they were priced by tokens.
            priced_by=PricedBy(data.get("priced_by", PricedBy.TOKENS)),
            output_weight=Decimal(data.get("output_weight", 1)),
            markup_percent=None if markup is None else Decimal(markup),
            row=data.get("row", ""),
        )


@dataclass(frozen=True)
class Charge:
    """What the customer pays, in credits, and what the usage was worth beyond the reservation."""

    credits: int
    overrun: int


def estimate(work: Work, price: Price) -> int:
    """The most credits that this request can be charged: what is reserved for it.

    By cost, that is at the dearest rate, the dearest service tier and the dearest cache write that it can meet.
    """
    if price.priced_by is PricedBy.COST:
        return _for_cost(_dearest_cost(work, price), price)
    if price.image is not None:
        return max(price.min_credits, work.images * price.image.credits)
    return _for_tokens(work.input_tokens, work.max_output_tokens, price)


def charge(usage: Usage, price: Price, *, held: int, cost_usd: Decimal | None = None) -> Charge:
    """The credits to charge for this usage, never more than the `held` credits; the rest is the platform's loss.

    `cost_usd` is what the calls that delivered cost together; that of the usage as a whole unless given.
    """
    due = _due(usage, price, cost_usd)
    return Charge(credits=min(due, held), overrun=max(due - held, 0))


def cost(usage: Usage, price: Price) -> Decimal:
    """What the provider is paid for this usage, in USD with ten decimals."""
    if price.image is not None:
        return usd(Fraction(price.image.cost_usd) * usage.images)
    assert price.rates is not None
    return cost_of_tokens(usage, price.rates)


def worst_cost(work: Work, price: Price) -> Decimal:
    """The most that the provider could be owed for this request at the usual service tier, in USD.

    It is the exposure of an unknown outcome.
    """
    if price.image is not None:
        return cost(Usage(images=work.images), price)
    assert price.rates is not None
    long = price.rates.is_long(work.input_tokens)
    dearest_input = price.rates.dearest(used_by(price.kind, INPUT_BUCKETS), long=long)
    dearest_output = price.rates.dearest(used_by(price.kind, OUTPUT_BUCKETS), long=long)
    exact = work.input_tokens * dearest_input + work.max_output_tokens * dearest_output
    return usd(exact / TOKENS_PER_RATE)


def revenue(credits: int, price: Price) -> Decimal:
    """What these credits are worth in USD, at the job's price per credit."""
    return usd(credits * Fraction(price.price_per_credit_usd))


def _dearest_cost(work: Work, price: Price) -> Decimal:
    worst = worst_cost(work, price)
    return worst if price.rates is None else usd(Fraction(worst) * price.rates.dearest_factor)


def _due(usage: Usage, price: Price, cost_usd: Decimal | None) -> int:
    if price.kind == "image" and not usage.images:
        # Nothing is charged when nothing was delivered; the minimum applies as soon as anything was.
        return 0
    if price.priced_by is PricedBy.COST:
        return _for_cost(cost(usage, price) if cost_usd is None else cost_usd, price)
    if price.image is not None:
        return max(price.min_credits, usage.images * price.image.credits)
    return _for_tokens(usage.total_input_tokens, usage.total_output_tokens, price)


def _for_tokens(input_tokens: int, output_tokens: int, price: Price) -> int:
    weighted = input_tokens + output_tokens * Fraction(price.output_weight)
    return max(price.min_credits, round_credits(weighted / price.tokens_per_credit, price.rounding))


def _for_cost(cost_usd: Decimal, price: Price) -> int:
    assert price.markup_percent is not None
    marked_up = Fraction(cost_usd) * (100 + Fraction(price.markup_percent)) / 100
    return max(price.min_credits, round_credits(marked_up / Fraction(price.price_per_credit_usd), price.rounding))


@lru_cache(maxsize=256)
def _json_of(price: Price) -> dict[str, Any]:
    # The jobs of a batch have few prices.
    image = price.image and {**vars(price.image), "cost_usd": str(price.image.cost_usd)}
    usual = {name: default for name, default in _USUAL.items() if getattr(price, name) == default}
    told = {name: str(value) if isinstance(value, Decimal) else value for name, value in vars(price).items()}
    return {
        **{name: value for name, value in told.items() if name not in usual},
        "rates": price.rates and price.rates.to_json(),
        "image": image,
    }


_USUAL = {"priced_by": PricedBy.TOKENS, "output_weight": 1, "markup_percent": None, "row": ""}
"""What a stored price leaves out."""
