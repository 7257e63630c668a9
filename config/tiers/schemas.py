"""The shape of each setting's value, and which tiers may set it.

Nothing here is read or written, and no message repeats what was given: it may hold a key.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, RootModel, StringConstraints, ValidationError
from pydantic.types import Strict

from config.tiers.keylike import is_named_like_a_key, is_shaped_like_a_key, without_keys
from config.tiers.merging import EMPTY, Tier
from config.tiers.naming import BOUND, CHOICES, IMAGE_QUALITY, IMAGE_STYLE, INTEGRATIONS, NAMES, PARAMETERS

VALUE_MAX_BYTES = 10_000
"""How long a value may be, as JSON."""
NOT_PLAIN = "A setting is plain JSON, and not deeply nested."

_Model = Annotated[str, Strict(), StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@/-]{0,99}$")]
_Temperature = Annotated[float, Strict(), Field(ge=0, le=2, allow_inf_nan=False)]
_MaxTokens = Annotated[int, Strict(), Field(ge=16, le=10_000_000)]
_Size = Annotated[str, Strict(), StringConstraints(pattern=r"^[0-9]{2,5}x[0-9]{2,5}$")]
_Word = Annotated[str, Strict(), StringConstraints(pattern=r"^[a-z]{1,20}$")]
_Images = Annotated[int, Strict(), Field(ge=1, le=1_000)]

_SHAPES: Mapping[str, Any] = {
    CHOICES["text"]: Literal["openai", "anthropic", "google"],
    CHOICES["image"]: Literal["openai", "runware"],
    IMAGE_QUALITY: _Word,
    IMAGE_STYLE: _Word,
    BOUND: _Images,
    "model": _Model,
    "temperature": _Temperature,
    "max_tokens": _MaxTokens,
    "size": _Size,
}


def _schema(shape: Any) -> type[RootModel[Any]]:
    made: Any = RootModel.__class_getitem__(shape)
    return made


SETTINGS_SCHEMAS: Mapping[str, type[RootModel[Any]]] = MappingProxyType(
    {name: _schema(_SHAPES[name.rpartition(".")[2]]) for name in NAMES}
)
"""The shape of each setting's value, by its name: a save is checked by it before anything is written."""


class SettingRefused(Exception):
    """A setting cannot be saved: why, in a code and one sentence that repeats nothing of what was given."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def settable(tier: Tier) -> tuple[str, ...]:
    """The names of the settings that this tier may set."""
    return tuple(name for name in NAMES if tier is not Tier.USER or name != BOUND)


def check_name(name: str, tier: Tier) -> None:
    """Raise SettingRefused unless a setting has this name and this tier may set it."""
    if name in SETTINGS_SCHEMAS:
        if name not in settable(tier):
            raise SettingRefused("setting_not_yours", f"{name} is set for the account or for the platform, by no user.")
        return
    if is_named_like_a_key(name) or is_shaped_like_a_key(name):
        raise SettingRefused(
            "key_refused", "API keys are the platform's only: store one with `creditmill integrations set PROVIDER`."
        )
    raise SettingRefused("unknown_setting", f"There is no such setting.{nearest(name, settable(tier))}")


def read(name: str, value: Any) -> Any:
    """The value of a known setting, given as plain data as from JSON; raises SettingRefused when it does not fit."""
    check_size(value)
    if value in EMPTY or (isinstance(value, str) and not value.strip()):
        raise SettingRefused("empty_value", f"{name} has no empty value: unset it, and the tier below holds.")
    if is_shaped_like_a_key(value):
        raise SettingRefused("key_refused", f"{name} is given what looks like an API key, which no setting holds.")
    try:
        return SETTINGS_SCHEMAS[name].model_validate(value).root
    except ValidationError as error:
        raise _refused(name, error) from None


def read_text(name: str, text: str) -> Any:
    """The value of a known setting, as it was typed; raises SettingRefused when it does not fit."""
    if len(text) > VALUE_MAX_BYTES or not text.strip() or is_shaped_like_a_key(text):
        return read(name, text)
    try:
        return SETTINGS_SCHEMAS[name].model_validate_strings(text).root
    except ValidationError as error:
        raise _refused(name, error) from None


def read_config(integration: str, config: Any) -> tuple[dict[str, Any], int]:
    """What an account may set of an integration, by the setting's full name, and how much was stripped as a key.

    Raises SettingRefused for what is no setting of the integration, or when nothing is left.
    """
    if integration not in INTEGRATIONS:
        raise SettingRefused(
            "unknown_integration", f"There is no such integration.{nearest(integration, INTEGRATIONS)}"
        )
    check_size(config)
    parameters = INTEGRATIONS[integration].parameters
    try:
        kept, stripped = without_keys(config, PARAMETERS)
    except RecursionError:
        raise SettingRefused("invalid_value", NOT_PLAIN) from None
    if not isinstance(config, dict):
        raise SettingRefused("invalid_value", f"The settings of {integration} are a JSON object.")
    for name in kept or ():
        if name not in parameters:
            raise SettingRefused("unknown_setting", f"{integration} has no such setting.{nearest(name, parameters)}")
    if not kept:
        raise SettingRefused("empty_value", f"No setting of {integration} is given that an account may set.")
    return {f"{integration}.{name}": read(f"{integration}.{name}", value) for name, value in kept.items()}, stripped


def nearest(name: str, known: Collection[str]) -> str:
    """A sentence with the known name that is nearest to this one, or with all of them."""
    close = get_close_matches(name[:100].casefold(), known, n=1, cutoff=0.6)
    return f" Did you mean {close[0]}?" if close else f" Known: {', '.join(known)}."


def check_size(value: Any) -> None:
    """Raise SettingRefused for a value that is too long, too deep, or not plain JSON."""
    try:
        size = len(json.dumps(value, allow_nan=False, ensure_ascii=False).encode(errors="surrogatepass"))
    except (TypeError, ValueError, RecursionError):
        raise SettingRefused("invalid_value", NOT_PLAIN) from None
    if size > VALUE_MAX_BYTES:
        raise SettingRefused("value_too_large", f"A setting may have {VALUE_MAX_BYTES:,} bytes at most.")


def _refused(name: str, error: ValidationError) -> SettingRefused:
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    return SettingRefused("invalid_value", f"{name}: {first['msg']}.")
