"""The fields of the catalogue that an operator can change, and how each is read from what was typed.

Prices are read by the rules for prices; everything else by its type. Nothing is written here.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from billing.catalog.price_rules import CHANGE_MAX, PER_1M, PER_CREDIT, PER_IMAGE, ImplausiblePrice, Unit, price
from billing.catalog.pricing import PricedBy
from billing.catalog.rates import RATE_COLUMNS
from billing.errors import InvalidRequest
from billing.money import Rounding
from config.database import Base
from config.providers import KnownProvider

CLEARED = "none"
"""Typed as a value, it empties the field."""


def _printable(given: str) -> str:
    # Refuses line breaks, colour codes, and characters that reverse the direction of the text beside them.
    if not given.isprintable():
        raise ValueError("only printable characters are allowed, on one line")
    return given


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@/-]{0,99}$")]
Shown = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), AfterValidator(_printable)
]
Prose = Annotated[str, StringConstraints(max_length=2_000), AfterValidator(_printable)]
Count = Annotated[int, Field(ge=1, le=100_000_000)]
OperationName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@/-]{0,49}$")]
Kind = Literal["text", "image", "embedding"]
Sizes = Annotated[str, StringConstraints(pattern=r"^[0-9]{2,5}x[0-9]{2,5}(,[0-9]{2,5}x[0-9]{2,5})*$")]
SizeOrAny = Annotated[str, StringConstraints(pattern=r"^([0-9]{2,5}x[0-9]{2,5}|\*)$")]
TierFactors = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z]{1,20}=[0-9]{1,2}(\.[0-9]{1,4})?(,[a-z]{1,20}=[0-9]{1,2}(\.[0-9]{1,4})?)*$"),
]
Words = Annotated[str, StringConstraints(pattern=r"^[a-z]{1,20}(,[a-z]{1,20})*$")]
QualityOrAny = Annotated[str, StringConstraints(pattern=r"^([a-z]{1,20}|\*)$")]

Number = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,6}(\.[0-9]{1,4})?$")]
"""A number that is no price, with four decimals at most."""

UNITS: Mapping[str, Unit] = {
    "input_cost_per_1m": PER_1M,
    "cached_input_cost_per_1m": PER_1M,
    "output_cost_per_1m": PER_1M,
    "reasoning_cost_per_1m": PER_1M,
    **dict.fromkeys((name for name in RATE_COLUMNS if name.endswith("_cost_per_1m")), PER_1M),
    "cost_per_image_usd": PER_IMAGE,
    "price_per_credit_usd": PER_CREDIT,
    "default_credit_price_usd": PER_CREDIT,
}
"""The fields that are prices, each with its unit."""
RATIOS = (*("tokens_per_credit", "default_tokens_per_credit", "credits_per_image", "output_weight", "markup_percent"),)
"""The fields that decide how many credits are charged."""
NUMBERS = ("output_weight", "markup_percent")
"""The fields that are numbers, and no prices."""
LISTS = ("valid_sizes", "valid_qualities", "valid_styles")
"""The fields that are typed with commas and kept as lists."""
MIN_CREDITS_DOUBTED = 1_000
MARKUP_LOW, MARKUP_HIGH = 5, 1_000
"""A markup outside of this, in percent, is more likely a slip: 1.5 for 150, or 15000."""
FEW = 12
"""As many names can be read in one sentence."""


class Fields(BaseModel):
    """Fields as they are typed on a command line; prices are read by the rules for prices."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class ModelFields(Fields):
    """What can be changed of a model."""

    display_name: Shown | None = None
    input_cost_per_1m: Any = None
    cached_input_cost_per_1m: Any = None
    output_cost_per_1m: Any = None
    reasoning_cost_per_1m: Any = None
    cache_write_cost_per_1m: Any = None
    cache_write_1h_cost_per_1m: Any = None
    image_input_cost_per_1m: Any = None
    image_output_cost_per_1m: Any = None
    audio_input_cost_per_1m: Any = None
    audio_output_cost_per_1m: Any = None
    long_context_above: Count | None = None
    long_context_input_cost_per_1m: Any = None
    long_context_cached_input_cost_per_1m: Any = None
    long_context_output_cost_per_1m: Any = None
    service_tier_factors: TierFactors | None = None
    context_window: Count | None = None
    max_output_tokens: Count | None = None
    tokenizer: Name | None = None
    valid_sizes: Sizes | None = None
    valid_qualities: Words | None = None
    valid_styles: Words | None = None
    unknown_style: Literal["prompt", "refuse"] | None = None
    response_format: Literal["url", "b64_json"] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    max_images: Annotated[int, Field(ge=1, le=1_000)] | None = None
    images_per_call: Annotated[int, Field(ge=1, le=1_000)] | None = None
    limit_type: Name | None = None
    supports_json_mode: bool | None = None
    supports_vision: bool | None = None
    supports_function_calling: bool | None = None
    supports_temperature: bool | None = None
    is_active: bool | None = None
    is_default: bool | None = None
    sort_order: Annotated[int, Field(ge=-1_000_000, le=1_000_000)] | None = None
    description: Prose | None = None
    release_date: date | None = None
    deprecation_date: date | None = None


class NewModelFields(ModelFields):
    """The further fields of a new model."""

    model_type: Kind
    provider: KnownProvider
    api: Literal["responses", "chat_completions", "images", "embeddings"] | None = None


class ImagePriceFields(Fields):
    """The amounts of an image price."""

    cost_per_image_usd: Any = None
    credits_per_image: Annotated[int, Field(ge=1, le=100_000)] | None = None


class RuleFields(Fields):
    """What can be changed of the rule by which usage becomes credits."""

    priced_by: PricedBy | None = None
    tokens_per_credit: Count | None = None
    output_weight: Number | None = None
    markup_percent: Number | None = None
    min_credits: Annotated[int, Field(ge=0, le=100_000)] | None = None


class OperationFields(RuleFields):
    """What can be changed of an operation."""

    display_name: Shown | None = None
    description: Prose | None = None
    price_per_credit_usd: Any = None
    limit_type: Name | None = None
    limit_unit: Literal["requests", "words", "images"] | None = None
    is_active: bool | None = None


class NewOperationFields(OperationFields):
    """The further fields of a new operation."""

    model_type: Kind


class DefaultsFields(Fields):
    """What can be changed of the platform's defaults."""

    default_tokens_per_credit: Count | None = None
    default_credit_price_usd: Any = None
    credit_rounding_mode: Rounding | None = None
    enable_token_based_reporting: bool | None = None
    words_per_100_tokens: Annotated[int, Field(ge=1, le=1_000)] | None = None
    typical_output_percent: Annotated[int, Field(ge=1, le=100)] | None = None
    min_margin_percent: Annotated[int, Field(ge=0, le=99)] | None = None
    wanted_markup_percent: Annotated[int, Field(ge=0, le=100_000)] | None = None
    deprecation_notice_days: Annotated[int, Field(ge=0, le=3_650)] | None = None
    past_due_grace_days: Annotated[int, Field(ge=0, le=366)] | None = None
    max_open_jobs_per_account: Count | None = None
    max_open_jobs: Count | None = None


def read(
    shape: type[Fields],
    given: Mapping[str, Any],
    row: Base | None,
    *,
    force: bool,
    usual: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The given fields as the values of columns; `row` is what they change, None for something new.

    `usual` holds what applies where the row's own field is empty; a change is compared with it, too.
    Raises InvalidRequest, InvalidPrice, or ImplausiblePrice unless forced, for the first field that is wrong.
    """
    for name in given:
        if name not in shape.model_fields:
            raise InvalidRequest(_unknown_field(str(name)[:40], list(shape.model_fields)), code="unknown_field")
    kept = {name: value for name, value in given.items() if not is_cleared(value)}
    if not given:
        raise InvalidRequest("There is nothing to change: give a field and its value.", code="nothing_to_change")
    values = _validated(shape, kept) | {name: None for name in given if name not in kept}
    for name, unit in UNITS.items():
        if values.get(name) is not None:
            values[name] = price(name, values[name], unit, current=_current(row, name, usual), force=force)
    values |= {name: Decimal(values[name]) for name in NUMBERS if values.get(name) is not None}
    values |= {name: values[name].split(",") for name in LISTS if values.get(name) is not None}
    if values.get("service_tier_factors") is not None:
        values["service_tier_factors"] = _factors(values["service_tier_factors"])
    if not force:
        _check_ratios(values, row, usual)
        check_cached_is_cheaper(values, row)
    return values


def _unknown_field(name: str, known: list[str]) -> str:
    """One sentence, with the names that are near; with all of them only where they are few."""
    near = get_close_matches(name.lower(), known, n=2)
    if near:
        return f"There is no field {name!r}. The nearest: {', '.join(near)}."
    told = f"Known: {', '.join(known)}." if len(known) <= FEW else "The how-to of prices lists the fields."
    return f"There is no field {name!r}. {told}"


def one_of(pattern: Any, name: str, given: str) -> str:
    """The given text, if it is of this form; raises InvalidRequest if it is not."""
    try:
        checked: str = TypeAdapter(pattern).validate_python(given)
    except ValidationError:
        raise InvalidRequest(f"{name} is not of its form: {given[:40]!r}.", code="invalid_field") from None
    return checked


def is_text(given: str) -> bool:
    """Whether a query can take this text: bytes that are not UTF-8 arrive from a shell as lone surrogates."""
    return given.isprintable()


def is_cleared(value: object) -> bool:
    """Whether what was typed empties its field."""
    return value is None or (isinstance(value, str) and value.strip().lower() in ("", CLEARED))


def _validated(shape: type[Fields], given: dict[str, Any]) -> dict[str, Any]:
    try:
        return shape.model_validate(given).model_dump(include=set(given))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        what = first["msg"].removeprefix("Value error, ")
        raise InvalidRequest(f"{place}: {what}.", code="invalid_field") from None


def _current(row: Base | None, name: str, usual: Mapping[str, Any] | None) -> Any:
    own = getattr(row, name, None)
    return (usual or {}).get(name) if own is None else own


def _factors(typed: str) -> dict[str, str]:
    """Factors typed as `priority=2,flex=0.5`; raises InvalidRequest for a factor of 0."""
    found = dict(each.split("=") for each in typed.split(","))
    if not all(Decimal(factor) for factor in found.values()):
        raise InvalidRequest("service_tier_factors: a factor is more than 0.", code="invalid_field")
    return found


def _check_ratios(values: Mapping[str, Any], row: Base | None, usual: Mapping[str, Any] | None) -> None:
    if (values.get("min_credits") or 0) >= MIN_CREDITS_DOUBTED:
        raise ImplausiblePrice(
            f"min_credits is {values['min_credits']:,}: the smallest job would cost as much. "
            "If it is right all the same, use --force."
        )
    _check_markup(values.get("markup_percent"))
    for name in RATIOS:
        new, current = values.get(name), _current(row, name, usual)
        if new and current and not current / CHANGE_MAX < new < current * CHANGE_MAX:
            raise ImplausiblePrice(
                f"{name} is {new:,} and was {_short(current)}: a change of {CHANGE_MAX} times or more. "
                "If it is right all the same, use --force."
            )


def _check_markup(markup: Decimal | None) -> None:
    if markup is not None and not MARKUP_LOW <= markup <= MARKUP_HIGH:
        meant = f" Was {_short(markup * 100)} meant?" if 0 < markup < MARKUP_LOW else ""
        raise ImplausiblePrice(
            f"markup_percent is {_short(markup)}, in percent: expected {MARKUP_LOW} to {MARKUP_HIGH:,}.{meant} "
            "If it is right all the same, use --force."
        )


def _short(number: Decimal | int) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number.normalize():,f}"


def check_cached_is_cheaper(values: Mapping[str, Any], row: Base | None) -> None:
    """Raise ImplausiblePrice when cached input would cost more than fresh input, these values replacing the row's."""
    plain, cached = (
        values.get(name, getattr(row, name, None)) for name in ("input_cost_per_1m", "cached_input_cost_per_1m")
    )
    if plain is not None and cached is not None and cached > plain:
        raise ImplausiblePrice(
            f"Cached input at {cached.normalize():f} USD per 1,000,000 tokens would be dearer than fresh input at "
            f"{plain.normalize():f}. "
            "If it is right, use --force."
        )
