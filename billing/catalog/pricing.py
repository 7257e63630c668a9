"""What a request may cost at most, what its usage is charged, and what the provider is paid for it.

A Price is a frozen snapshot that is stored on the job when its credits are reserved; everything here is computed from
that snapshot, so a later change of prices never touches an open or finished job. Token counts are disjoint buckets: a
cached input token is not also an input token, and a reasoning token is not also an output token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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
    """The most that a request can use: its counted input, its limit on output, the images it asks for.

    `images_per_call` is how many images its model makes by one call; 0 where one call makes them all.
    """

    input_tokens: int = 0
    max_output_tokens: int = 0
    images: int = 0
    images_per_call: int = 0


@dataclass(frozen=True)
class Usage:
    """What a provider reports that it did, in disjoint buckets of tokens, or in images delivered.

    `service_tier` is the tier at which it was served, where that is another than the usual one.
    """

    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    images: int = 0
    # Input that was written to the provider's cache, for five minutes and for an hour.
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    image_input_tokens: int = 0
    image_output_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0
    service_tier: str = ""

    def __post_init__(self) -> None:
        for name in COUNTS:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= USAGE_MAX:
                raise ValueError(f"{name} must be a whole number of 0 or more, and at most {USAGE_MAX}")

    @property
    def total_input_tokens(self) -> int:
        """Input tokens of every kind, cached or not."""
        return sum(getattr(self, bucket) for bucket in INPUT_BUCKETS)

    @property
    def total_output_tokens(self) -> int:
        """Output tokens of every kind, visible or spent on reasoning."""
        return sum(getattr(self, bucket) for bucket in OUTPUT_BUCKETS)

    @property
    def total_tokens(self) -> int:
        """Tokens of every bucket."""
        return self.total_input_tokens + self.total_output_tokens

    @property
    def particulars(self) -> dict[str, Any]:
        """What is told of this usage beyond the usual five counts: the special buckets that are used, and the tier."""
        found = {name: getattr(self, name) for name in SPECIAL_BUCKETS}
        return {name: value for name, value in {**found, "service_tier": self.service_tier}.items() if value}

    @classmethod
    def total(cls, usages: Sequence[Usage]) -> Usage:
        """What these calls of one job used together; the tier is that at which all were served, if it was one."""
        if len(usages) == 1:
            return usages[0]
        counts = {name: min(USAGE_MAX, sum(getattr(each, name) for each in usages)) for name in COUNTS}
        tiers = {each.service_tier for each in usages}
        return cls(**counts, service_tier=tiers.pop() if len(tiers) == 1 else "")

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Usage:
        """Read what `to_json` wrote."""
        return cls(**data)

    def to_json(self) -> dict[str, Any]:
        """As stored beside the provider call: the usual counts, and of the others those that are not 0."""
        return {name: getattr(self, name) for name in USUAL_COUNTS} | self.particulars


USUAL_COUNTS = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens", "images")
SPECIAL_BUCKETS = (
    *("cache_write_tokens", "cache_write_1h_tokens", "image_input_tokens", "image_output_tokens"),
    *("audio_input_tokens", "audio_output_tokens"),
)
COUNTS = (*USUAL_COUNTS, *SPECIAL_BUCKETS)
OUTPUT_BUCKETS = ("output_tokens", "reasoning_tokens", "image_output_tokens", "audio_output_tokens")
INPUT_BUCKETS = (
    *("input_tokens", "cached_input_tokens", "cache_write_tokens", "cache_write_1h_tokens"),
    *("image_input_tokens", "audio_input_tokens"),
)


@dataclass(frozen=True)
class ImagePrice:
    """One image of one size and quality: what the provider is paid in USD, what the customer pays in credits."""

    size: str
    quality: str
    cost_usd: Decimal
    credits: int


@dataclass(frozen=True)
class TokenRates:
    """What the provider is paid, in USD per 1,000,000 tokens of each bucket; None where no rate of its own is set.

    A bucket without a rate of its own costs as much as plain input or output. Above `long_context_above` input tokens
    the whole request costs the `long_` rates; a bucket without one rises in proportion. A service tier multiplies all.
    """

    input: Decimal
    cached_input: Decimal
    output: Decimal
    reasoning: Decimal
    cache_write: Decimal | None = None
    cache_write_1h: Decimal | None = None
    image_input: Decimal | None = None
    image_output: Decimal | None = None
    audio_input: Decimal | None = None
    audio_output: Decimal | None = None
    long_context_above: int | None = None
    long_input: Decimal | None = None
    long_cached_input: Decimal | None = None
    long_output: Decimal | None = None
    tiers: tuple[tuple[str, Decimal], ...] = ()

    def of(self, bucket: str, *, long: bool = False) -> Fraction:
        """The rate of this bucket of a Usage, for a long request or for any other."""
        own = next(rate for name in RATES_OF[bucket] if (rate := getattr(self, name)) is not None)
        if not long:
            return Fraction(own)
        if bucket == "cached_input_tokens" and self.long_cached_input is not None:
            return Fraction(self.long_cached_input)
        usual, higher = (self.input, self.long_input) if bucket in INPUT_BUCKETS else (self.output, self.long_output)
        return Fraction(own) if higher is None else Fraction(own) * Fraction(higher) / Fraction(usual)

    def is_long(self, input_tokens: int) -> bool:
        """Whether a request with so many input tokens, cached ones included, costs the higher rates."""
        return self.long_context_above is not None and input_tokens > self.long_context_above

    def factor(self, service_tier: str) -> Fraction:
        """By how much this service tier multiplies every rate; 1 for a tier without a factor."""
        return Fraction(dict(self.tiers).get(service_tier, Decimal(1)))

    def dearest(self, buckets: Iterable[str], *, long: bool = False) -> Fraction:
        """The highest rate of these buckets."""
        return max(self.of(bucket, long=long) for bucket in buckets)

    def to_json(self) -> dict[str, Any]:
        """As stored on the job: what is set, decimals as strings."""
        set_here = {name: value for name, value in vars(self).items() if value is not None and name != "tiers"}
        told = {name: str(value) if isinstance(value, Decimal) else value for name, value in set_here.items()}
        return told | ({"tiers": {name: str(factor) for name, factor in self.tiers}} if self.tiers else {})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TokenRates:
        """Read what `to_json` wrote."""
        tiers = tuple((name, Decimal(factor)) for name, factor in data.get("tiers", {}).items())
        found: dict[str, Any] = {
            name: Decimal(value) if isinstance(value, str) else value for name, value in data.items()
        }
        return cls(**{**found, "tiers": tiers})


RATES_OF: Mapping[str, tuple[str, ...]] = {
    "input_tokens": ("input",),
    "cached_input_tokens": ("cached_input",),
    "cache_write_tokens": ("cache_write", "input"),
    "cache_write_1h_tokens": ("cache_write_1h", "cache_write", "input"),
    "image_input_tokens": ("image_input", "input"),
    "audio_input_tokens": ("audio_input", "input"),
    "output_tokens": ("output",),
    "reasoning_tokens": ("reasoning",),
    "image_output_tokens": ("image_output", "output"),
    "audio_output_tokens": ("audio_output", "output"),
}
"""The rates that a bucket may be paid at, its own first: the first that is set counts."""
RATE_COLUMNS: Mapping[str, str] = {
    **{f"{name}_cost_per_1m": name for name in ("cache_write", "cache_write_1h", "image_input", "image_output")},
    **{f"{name}_cost_per_1m": name for name in ("audio_input", "audio_output")},
    "long_context_above": "long_context_above",
    **{f"long_context_{name}_cost_per_1m": f"long_{name}" for name in ("input", "cached_input", "output")},
}
"""The columns of a model's further rates, each with the field of TokenRates that it is."""


def token_rates(row: Mapping[str, Any]) -> TokenRates | None:
    """The rates of a model by the columns of its row; None for a model whose input costs nothing.

    Cached input costs as much as input, and reasoning as much as output, unless they have rates of their own.
    """
    input, output = row["input_cost_per_1m"], row["output_cost_per_1m"]
    if input is None:
        return None
    # An embedding model writes nothing, so it has no output to pay for.
    output = Decimal(0) if output is None else output
    cached, reasoning = row["cached_input_cost_per_1m"], row["reasoning_cost_per_1m"]
    tiers = row["service_tier_factors"] or {}
    return TokenRates(
        input=input,
        cached_input=input if cached is None else cached,
        output=output,
        reasoning=output if reasoning is None else reasoning,
        **{field: row[column] for column, field in RATE_COLUMNS.items()},
        tiers=tuple((name, Decimal(factor)) for name, factor in sorted(tiers.items())),
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


def cost_of_tokens(usage: Usage, rates: TokenRates) -> Decimal:
    """What the provider is paid for the tokens of this usage, each bucket at its own rate, in USD."""
    long = rates.is_long(usage.total_input_tokens)
    counted = ((bucket, getattr(usage, bucket)) for bucket in RATES_OF)
    exact = sum((tokens * rates.of(bucket, long=long) for bucket, tokens in counted if tokens), Fraction(0))
    return usd(exact * rates.factor(usage.service_tier) / TOKENS_PER_RATE)


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


def used_by(kind: str, buckets: Iterable[str]) -> list[str]:
    """Those of these buckets that a request of this kind can use: none of ours sends or asks for audio."""
    return [
        each for each in buckets if not each.startswith(("audio", "image")) or (kind, each[:5]) == ("image", "image")
    ]


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
