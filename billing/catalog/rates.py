"""What the provider is paid for tokens: a model's rates, and what a usage costs at them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

from billing.catalog.usage import INPUT_BUCKETS, Usage
from billing.money import usd

TOKENS_PER_RATE = 1_000_000
"""Token rates are in USD per 1,000,000 tokens."""


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

    @property
    def dearest_factor(self) -> Fraction:
        """The highest factor of any service tier, the usual one among them."""
        return max([Fraction(1), *(Fraction(factor) for _, factor in self.tiers)])

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


def cost_of_tokens(usage: Usage, rates: TokenRates) -> Decimal:
    """What the provider is paid for the tokens of this usage, each bucket at its own rate, in USD."""
    long = rates.is_long(usage.total_input_tokens)
    counted = ((bucket, getattr(usage, bucket)) for bucket in RATES_OF)
    exact = sum((tokens * rates.of(bucket, long=long) for bucket, tokens in counted if tokens), Fraction(0))
    return usd(exact * rates.factor(usage.service_tier) / TOKENS_PER_RATE)
