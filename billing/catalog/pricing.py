"""What a request may cost at most, what its usage is charged, and what the provider is paid for it.

A Price is a frozen snapshot that is stored on the job when its credits are reserved; everything here is computed from
that snapshot, so a later change of prices never touches an open or finished job.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any

from billing.catalog.rates import TOKENS_PER_RATE, TokenRates, cost_of_tokens
from billing.catalog.usage import INPUT_BUCKETS, OUTPUT_BUCKETS, Usage, Work, used_by
from billing.money import Rounding, divide, usd

ANY = "*"
"""In an image price: any size, or any quality."""


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
    text, image or embedding.
    """

    model_name: str
    kind: str
    tokens_per_credit: int
    min_credits: int
    rounding: Rounding
    price_per_credit_usd: Decimal
    rates: TokenRates | None = None
    image: ImagePrice | None = None

    def __post_init__(self) -> None:
        if (self.rates is None) == (self.image is None):
            raise ValueError("a price has either token rates or an image price")

    def to_json(self) -> dict[str, Any]:
        """As stored on the job: decimals are strings, so that nothing becomes a float on the way."""
        return dict(_json_of(self))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Price:
        """Read what `to_json` wrote."""
        rates, image = data["rates"], data["image"]
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
        )


@dataclass(frozen=True)
class Charge:
    """What the customer pays, in credits, and what the usage was worth beyond the reservation."""

    credits: int
    overrun: int


def estimate(work: Work, price: Price) -> int:
    """The most credits that this request can be charged: what is reserved for it."""
    if price.image is not None:
        return max(price.min_credits, work.images * price.image.credits)
    return _for_tokens(work.input_tokens + work.max_output_tokens, price)


def charge(usage: Usage, price: Price, *, held: int) -> Charge:
    """The credits to charge for this usage, never more than the `held` credits; the rest is the platform's loss."""
    due = _due(usage, price)
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


def _due(usage: Usage, price: Price) -> int:
    if price.kind == "image" and not usage.images:
        # Nothing is charged when nothing was delivered; the minimum applies as soon as anything was.
        return 0
    if price.image is not None:
        return max(price.min_credits, usage.images * price.image.credits)
    return _for_tokens(usage.total_tokens, price)


def _for_tokens(tokens: int, price: Price) -> int:
    return max(price.min_credits, divide(tokens, price.tokens_per_credit, rounding=price.rounding))


@lru_cache(maxsize=256)
def _json_of(price: Price) -> dict[str, Any]:
    # The jobs of a batch have few prices.
    image = price.image and {**vars(price.image), "cost_usd": str(price.image.cost_usd)}
    return {
        **vars(price),
        "price_per_credit_usd": str(price.price_per_credit_usd),
        "rates": price.rates and price.rates.to_json(),
        "image": image,
    }
