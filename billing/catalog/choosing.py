"""Choosing what a request leaves open: its model, and the size and quality of its images, by the settings that hold.

Pure: the catalogue and the settings are given.
"""

from __future__ import annotations

from datetime import date
from typing import Any, NamedTuple

from billing.catalog.snapshot import Catalog, Model
from config.tiers.merging import Setting, Settings, Tier
from config.tiers.naming import CHOICES, IMAGE_QUALITY, IMAGE_STYLE, integration_of


class Filled(NamedTuple):
    """What a parameter that a request left open is filled in with, and by which tier, or by the model's own row."""

    value: Any
    by: str


BY_MODEL = "model"
NO_STYLE = "none"
"""As a setting: images are asked for without a style."""


class Choice(NamedTuple):
    """A model for a request that names none, and the tier that chose it; None where there is none."""

    model: Model | None
    tier: Tier


def is_offered(catalog: Catalog, model: Model, *, today: date) -> bool:
    """Whether requests may use this model: it is active, has a price, and the provider has not taken it away."""
    gone = model.deprecation_date is not None and model.deprecation_date <= today
    priced = model.rates is not None or any(name == model.model_name for name, _, _ in catalog.image_prices)
    return model.is_active and priced and not gone


def first_offered(catalog: Catalog, kind: str, provider: str, *, today: date) -> Model | None:
    """The model of this kind that a provider is used with: the default if it is the provider's, else the first one."""
    default = catalog.default_model(kind)
    mine = [model for model in catalog.models.values() if (model.model_type, model.provider) == (kind, provider)]
    ordered = sorted(mine, key=lambda model: model is not default)
    return next((model for model in ordered if is_offered(catalog, model, today=today)), None)


def choose_model(catalog: Catalog, kind: str, settings: Settings, *, today: date) -> Choice:
    """The model for a request of this kind that names none.

    The platform's choice is the default model of the kind. An account or a user may choose another provider, or another
    model of it: that holds if the model can be used, and otherwise the platform's choice does.
    """
    default = catalog.default_model(kind)
    chosen = settings.get(CHOICES.get(kind, ""))
    own_choice = chosen is not None and chosen.tier is not Tier.PLATFORM
    if not own_choice and default is None:
        return Choice(None, Tier.PLATFORM)
    provider = chosen.value if own_choice and chosen is not None else default.provider if default is not None else ""
    named = settings.get(f"{integration_of(kind, provider)}.model")
    model = catalog.models.get(named.value) if named is not None else None
    if (
        named is not None
        and model is not None
        and _fits(model, kind, provider)
        and is_offered(catalog, model, today=today)
    ):
        return Choice(model, named.tier)
    first = first_offered(catalog, kind, provider, today=today) if own_choice else None
    if first is None or first is default or chosen is None:
        return Choice(default, Tier.PLATFORM)
    return Choice(first, chosen.tier)


def image_size(model: Model, settings: Settings) -> Filled | None:
    """The size of an image that names none: the setting's if the model makes it, else the model's first; or None."""
    wanted = _parameter(model, settings, "size")
    if wanted is not None and model.makes_size(wanted.value):
        return Filled(wanted.value, wanted.tier)
    return Filled(model.valid_sizes[0], BY_MODEL) if model.valid_sizes else None


def image_quality(model: Model, settings: Settings) -> Filled | None:
    """The quality of an image that names none: the setting's if the model takes it, else the model's first; or None."""
    wanted = settings.get(IMAGE_QUALITY)
    if wanted is not None and wanted.value in model.valid_qualities:
        return Filled(wanted.value, wanted.tier)
    return Filled(model.valid_qualities[0], BY_MODEL) if model.valid_qualities else None


def max_output_tokens(model: Model, settings: Settings) -> Filled:
    """The most tokens of an answer that names no limit: the setting's, and never more than the model gives."""
    most = model.max_output_tokens
    assert most is not None
    wanted = _parameter(model, settings, "max_tokens")
    return Filled(most, BY_MODEL) if wanted is None or wanted.value > most else Filled(wanted.value, wanted.tier)


def temperature(model: Model, settings: Settings) -> Filled | None:
    """The temperature of a request that names none, if the model takes one."""
    wanted = _parameter(model, settings, "temperature") if model.supports_temperature else None
    return None if wanted is None else Filled(wanted.value, wanted.tier)


def image_style(settings: Settings) -> Filled | None:
    """The style of an image that names none, whether its model knows it or not; None where the setting says `none`."""
    wanted = settings.get(IMAGE_STYLE)
    return None if wanted is None or wanted.value == NO_STYLE else Filled(wanted.value, wanted.tier)


def _parameter(model: Model, settings: Settings, name: str) -> Setting | None:
    return settings.get(f"{integration_of(model.model_type, model.provider)}.{name}")


def _fits(model: Model, kind: str, provider: str) -> bool:
    return (model.model_type, model.provider) == (kind, provider)
