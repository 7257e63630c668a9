"""The names of the settings: the platform's choices, and the parameters of each integration. Pure.

An integration's settings are named after it: `openai.temperature` is the `temperature` of the integration `openai`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Integration(NamedTuple):
    """A kind of work, the provider whose models do it, and the names of what can be set of it."""

    kind: str
    provider: str
    parameters: tuple[str, ...]


_OF_TEXTS = ("model", "temperature", "max_tokens")
_OF_IMAGES = ("model", "size")
INTEGRATIONS: Mapping[str, Integration] = MappingProxyType(
    {
        "openai": Integration("text", "openai", _OF_TEXTS),
        "anthropic": Integration("text", "anthropic", _OF_TEXTS),
        "google": Integration("text", "google", _OF_TEXTS),
        "dalle": Integration("image", "openai", _OF_IMAGES),
        "runware": Integration("image", "runware", _OF_IMAGES),
    }
)
"""The integrations, by name."""

CHOICES: Mapping[str, str] = MappingProxyType({"text": "default_text_provider", "image": "default_image_service"})
"""The setting that chooses the provider, by kind of work."""
BOUND = "max_in_article_images"
"""The most images that one request may ask for: who is bound by it does not raise it, so no user sets it."""
IMAGE_QUALITY, IMAGE_STYLE = "image_quality", "image_style"

PLAIN: tuple[str, ...] = (*CHOICES.values(), IMAGE_QUALITY, IMAGE_STYLE, BOUND)
"""The settings of no integration."""
NAMES: tuple[str, ...] = (*PLAIN, *(f"{name}.{each}" for name, of in INTEGRATIONS.items() for each in of.parameters))
"""Every setting, in the order in which they are told."""
PARAMETERS = frozenset(each for of in INTEGRATIONS.values() for each in of.parameters)
"""What an account may set of some integration: its model and its parameters, and nothing else."""
PLATFORM_COLUMNS: Mapping[str, str] = MappingProxyType(
    {name: name.replace(".", "_") for name in NAMES if not name.endswith(".model")}
)
"""The column of the platform's row that holds each setting; its models are those of the catalogue's defaults."""


def integration_of(kind: str, provider: str) -> str | None:
    """The integration that holds the settings of this provider for this kind of work."""
    return next((name for name, of in INTEGRATIONS.items() if (of.kind, of.provider) == (kind, provider)), None)
