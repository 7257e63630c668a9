"""Which parameters the simulated models take: those of OpenAI's reference, by endpoint and by model.

What a model does not take is refused as OpenAI refuses it: a client that sends it to everybody is found out here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workers.simulator.faults import Refusal

# In one text each, for they are many.
_RESPONSES = """
    background context_management conversation include input instructions max_output_tokens max_tool_calls metadata
    model moderation parallel_tool_calls previous_response_id prompt prompt_cache_key prompt_cache_options
    prompt_cache_retention reasoning safety_identifier service_tier store stream stream_options temperature text
    tool_choice tools top_logprobs top_p truncation user
"""
_CHAT = """
    audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens messages
    metadata modalities model moderation n parallel_tool_calls prediction presence_penalty prompt_cache_key
    prompt_cache_options prompt_cache_retention reasoning_effort response_format safety_identifier seed service_tier
    stop store stream stream_options temperature tool_choice tools top_logprobs top_p user verbosity web_search_options
"""
_IMAGES = """
    background model moderation n output_compression output_format partial_images prompt quality response_format
    safety_identifier size stream style user
"""
_EMBEDDINGS = "dimensions encoding_format input model user"
KNOWN: Mapping[str, frozenset[str]] = {
    "responses": frozenset(_RESPONSES.split()),
    "chat/completions": frozenset(_CHAT.split()),
    "images/generations": frozenset(_IMAGES.split()),
    "embeddings": frozenset(_EMBEDDINGS.split()),
}
"""The parameters of each endpoint."""


@dataclass(frozen=True)
class Images:
    """What one family of image models takes, by parameter; one without a choice is not known to it, None is any."""

    models: re.Pattern[str]
    choices: Mapping[str, tuple[str, ...] | None]
    # How many images one request may ask for.
    most: int = 10


FORMATS = ("url", "b64_json")
FAMILIES = (
    Images(
        re.compile(r"gpt-image-1"),
        {
            "quality": ("low", "medium", "high", "auto"),
            "size": ("1024x1024", "1024x1536", "1536x1024", "auto"),
            "style": (),
            "response_format": (),
        },
    ),
    Images(
        re.compile(r"gpt-image-"),
        {
            "quality": ("low", "medium", "high", "xhigh", "max", "auto"),
            "size": None,
            "style": (),
            "response_format": (),
        },
    ),
    Images(
        re.compile(r"dall-e-2"),
        {
            "quality": ("standard", "auto"),
            "size": ("256x256", "512x512", "1024x1024"),
            "style": (),
            "response_format": FORMATS,
        },
    ),
    Images(
        re.compile(r"dall-e-3"),
        {
            "quality": ("standard", "hd", "auto"),
            "size": ("1024x1024", "1792x1024", "1024x1792"),
            "style": ("vivid", "natural"),
            "response_format": FORMATS,
        },
        most=1,
    ),
)
"""The families of OpenAI's image models; the first that fits counts."""

WITHOUT_TEMPERATURE = re.compile(r"o[134]|gpt-5(?!\.)")
"""Models that always reason; from gpt-5.1 on, models take a temperature while they do not."""


def refusal_of(endpoint: str, model: str, body: Mapping[str, Any]) -> Refusal | None:
    """The refusal of the first parameter that the model does not take as it is; None when it takes all of this body."""
    unknown = next((name for name in body if name not in KNOWN[endpoint]), None)
    if unknown is not None:
        return _unknown(unknown)
    if body.get("temperature") is not None and WITHOUT_TEMPERATURE.match(model):
        message = "Unsupported parameter: 'temperature' is not supported with this model."
        return Refusal(400, "unsupported_parameter", message, param="temperature")
    if endpoint != "images/generations":
        return None
    family = next((family for family in FAMILIES if family.models.match(model)), None)
    return None if family is None else _refusal_of_images(family, body)


def _refusal_of_images(family: Images, body: Mapping[str, Any]) -> Refusal | None:
    for name, choices in family.choices.items():
        value = body.get(name)
        if value is None or choices is None or value in choices:
            continue
        if not choices:
            return _unknown(name)
        *others, last = (f"'{choice}'" for choice in choices)
        message = f"Invalid value: '{value}'. Supported values are: {', '.join(others)}, and {last}."
        return Refusal(400, "invalid_value", message, param=name)
    asked = body.get("n") or 1
    if asked > family.most:
        message = (
            f"Invalid 'n': integer above maximum value. Expected a value <= {family.most}, but got {asked} instead."
        )
        return Refusal(400, "integer_above_max_value", message, param="n")
    return None


def _unknown(name: str) -> Refusal:
    # A name may be as long as a prompt, or one.
    return Refusal(400, "unknown_parameter", f"Unknown parameter: '{name[:100]}'.", param=name[:100])
