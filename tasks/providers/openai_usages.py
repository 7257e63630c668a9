"""Where servers that speak OpenAI's interfaces put the counts of an answer's usage, under which of their names.

Names: OpenAI's API reference (chat completions, responses, images, embeddings); DeepSeek (`prompt_cache_hit_tokens`),
Moonshot (`cached_tokens`), OpenRouter (`cost`, `cache_write_tokens`) and LiteLLM (`cache_read_input_tokens`,
`cache_creation_input_tokens`) where theirs are others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from billing.jobs.mending import Mended, Reported, Text, mend
from tasks.providers.base import clean_json, safe_code

COST_MAX = Decimal(1_000_000)
"""USD: a reported cost beyond this is no cost of one call."""
_USUAL_TIERS = ("default", "auto", "standard", "scale")


def usage_of(answer: Mapping[str, Any], count: Callable[[], Text], *, images: int = 0) -> Mended:
    """The usage of an answer, mended where it has to be."""
    return mend(_reported(_usage(answer)), count, images=images, service_tier=_service_tier(answer))


def uses_nothing(answer: Mapping[str, Any]) -> bool:
    """Whether the answer reports no output at all: no usage, or one whose output is 0 or not told."""
    reported = _reported(_usage(answer))
    return not any(_is_some(value) for value in (reported.output, reported.reasoning))


def tells_usage(answer: Mapping[str, Any]) -> bool:
    """Whether the answer reports any tokens."""
    reported = _reported(_usage(answer))
    return any(_is_some(value) for value in (reported.input, reported.output, reported.reasoning, reported.total))


def raw_usage(answer: Mapping[str, Any]) -> dict[str, Any] | None:
    """The usage as the answer has it; None where it has none."""
    raw = answer.get("usage")
    if raw is None:
        return None
    found: dict[str, Any] = clean_json(raw if isinstance(raw, dict) else {"usage": raw})
    return found


def reported_cost(answer: Mapping[str, Any]) -> Decimal | None:
    """What the answer says that the call cost, in USD; None where it says nothing."""
    value = _usage(answer).get("cost")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    cost = Decimal(repr(value))
    return cost if 0 <= cost < COST_MAX else None


def _usage(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    usage = answer.get("usage")
    return usage if isinstance(usage, dict) else {}


def _reported(usage: Mapping[str, Any]) -> Reported:
    of_input = _object(usage, "input_tokens_details", "prompt_tokens_details")
    of_output = _object(usage, "output_tokens_details", "completion_tokens_details")
    created = _object(usage, "cache_creation")
    return Reported(
        input=_first((usage, "input_tokens", "prompt_tokens")),
        cached=_first(
            (of_input, "cached_tokens"),
            (usage, "prompt_cache_hit_tokens", "cached_tokens", "cache_read_input_tokens"),
        ),
        cache_write=_first(
            (of_input, "cache_write_tokens", "cache_creation_tokens"),
            (usage, "cache_write_tokens", "cache_creation_input_tokens"),
        ),
        cache_write_1h=_first((created, "ephemeral_1h_input_tokens")),
        image_input=_first((of_input, "image_tokens")),
        audio_input=_first((of_input, "audio_tokens")),
        output=_first((usage, "output_tokens", "completion_tokens")),
        reasoning=_first((of_output, "reasoning_tokens"), (usage, "reasoning_tokens")),
        image_output=_first((of_output, "image_tokens")),
        audio_output=_first((of_output, "audio_tokens")),
        total=_first((usage, "total_tokens")),
    )


def _first(*places: Any) -> Any:
    """The first count above 0 in these places, each an object and the names to look for; else the first value."""
    found = [place.get(name) for place, *names in places for name in names if place.get(name) is not None]
    return next((value for value in found if _is_some(value)), found[0] if found else None)


def _is_some(value: Any) -> bool:
    return value not in (None, 0, "0", False, "") and not (isinstance(value, float) and value == 0)


def _object(holder: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    return next((holder[name] for name in names if isinstance(holder.get(name), dict)), {})


def _service_tier(answer: Mapping[str, Any]) -> str:
    tier = answer.get("service_tier")
    named = safe_code(tier if tier is not None else _usage(answer).get("service_tier"))
    return "" if named is None or named.lower() in _USUAL_TIERS else named.lower()[:20]
