"""What a request may cost at most, what its usage is charged, and what the provider is paid for it.

A Price is a frozen snapshot that is stored on the job when its credits are reserved; everything here is computed from
that snapshot, so a later change of prices never touches an open or finished job. Token counts are disjoint buckets: a
cached input token is not also an input token, and a reasoning token is not also an output token.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any

from billing.money import Rounding, divide, usd

ANY = "*"
"""In an image price: any size, or any quality."""
TOKENS_PER_RATE = 1_000_000
"""Token rates are in USD per 1,000,000 tokens."""


USAGE_MAX = 2**31 - 1
"""The most tokens or images of one request: a larger count is a provider's mistake, and must not overflow a column."""


@dataclass(frozen=True)
class Work:
    """The most that a request can use: its counted input, its limit on output, the images it asks for."""

    input_tokens: int = 0
    max_output_tokens: int = 0
    images: int = 0


@dataclass(frozen=True)
class Usage:
    """What a provider reports that it did, in disjoint buckets of tokens, or in images delivered."""

    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    images: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= USAGE_MAX:
                raise ValueError(f"{field.name} must be a whole number of 0 or more, and at most {USAGE_MAX}")

    @property
    def total_input_tokens(self) -> int:
        """Input tokens, cached or not."""
        return self.input_tokens + self.cached_input_tokens

    @property
    def total_output_tokens(self) -> int:
        """Output tokens, visible or spent on reasoning."""
        return self.output_tokens + self.reasoning_tokens

    @property
    def total_tokens(self) -> int:
        """Tokens of every bucket."""
        return self.total_input_tokens + self.total_output_tokens

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Usage:
        """Read what `to_json` wrote."""
        return cls(**data)

    def to_json(self) -> dict[str, int]:
        """As stored beside the provider call."""
        return asdict(self)


@dataclass(frozen=True)
class ImagePrice:
    """One image of one size and quality: what the provider is paid in USD, what the customer pays in credits."""

    size: str
    quality: str
    cost_usd: Decimal
    credits: int


@dataclass(frozen=True)
class TokenRates:
    """What the provider is paid, in USD per 1,000,000 tokens of each bucket."""

    input: Decimal
    cached_input: Decimal
    output: Decimal
    reasoning: Decimal


def token_rates(
    input: Decimal | None, cached_input: Decimal | None, output: Decimal | None, reasoning: Decimal | None
) -> TokenRates | None:
    """The rates of a model whose input costs this; None for a model without any.

    Cached input costs as much as input, and reasoning as much as output, unless they have rates of their own.
    """
    if input is None:
        return None
    # An embedding model writes nothing, so it has no output to pay for.
    output = Decimal(0) if output is None else output
    return TokenRates(
        input=input,
        cached_input=input if cached_input is None else cached_input,
        output=output,
        reasoning=output if reasoning is None else reasoning,
    )


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
            rates=rates and TokenRates(**{name: Decimal(rate) for name, rate in rates.items()}),
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


def cost_of_tokens(usage: Usage, rates: TokenRates) -> Decimal:
    """What the provider is paid for the tokens of this usage, each bucket at its own rate, in USD."""
    exact = (
        usage.input_tokens * Fraction(rates.input)
        + usage.cached_input_tokens * Fraction(rates.cached_input)
        + usage.output_tokens * Fraction(rates.output)
        + usage.reasoning_tokens * Fraction(rates.reasoning)
    )
    return usd(exact / TOKENS_PER_RATE)


def worst_cost(work: Work, price: Price) -> Decimal:
    """The most that the provider could be owed for this request, in USD: the exposure of an unknown outcome."""
    if price.image is not None:
        return cost(Usage(images=work.images), price)
    assert price.rates is not None
    dearest_input = max(price.rates.input, price.rates.cached_input)
    dearest_output = max(price.rates.output, price.rates.reasoning)
    exact = work.input_tokens * Fraction(dearest_input) + work.max_output_tokens * Fraction(dearest_output)
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
    found: dict[str, Any] = _strings(asdict(price))
    return found


def _strings(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _strings(item) for name, item in value.items()}
    return str(value) if isinstance(value, Decimal) else value
