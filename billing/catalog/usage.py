"""What a request can use at most, and what a provider reports that it used.

Token counts are disjoint buckets: a cached input token is not also an input token, and a reasoning token is not also an
output token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

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


def used_by(kind: str, buckets: Iterable[str]) -> list[str]:
    """Those of these buckets that a request of this kind can use: none of ours sends or asks for audio."""
    return [
        each for each in buckets if not each.startswith(("audio", "image")) or (kind, each[:5]) == ("image", "image")
    ]
