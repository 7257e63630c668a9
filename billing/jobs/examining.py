"""Examining a request: whether it can be done by the catalogue, what it can use at most, and its price.

Nothing is read from the database: the catalogue is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from billing.catalog import choosing, tokens
from billing.catalog.choosing import Filled
from billing.catalog.pricing import Price, estimate
from billing.catalog.snapshot import Catalog, Model, Operation
from billing.catalog.usage import Work
from billing.errors import InvalidRequest
from billing.jobs import parts
from billing.jobs.requests import EmbeddingParams, ImageParams, Submission, TextParams, styled, validated
from config.tiers.merging import Settings, Tier
from config.tiers.naming import BOUND, IMAGE_STYLE


@dataclass(frozen=True)
class Examined:
    """A request that was understood: its model, its whole parameters, what it can use at most, and its price."""

    submission: Submission
    params: dict[str, Any]
    model: Model
    operation: Operation
    work: Work
    price: Price
    # What the request left open, each with the tier that filled it in, or "model" for the model's own row.
    settings_used: dict[str, str]
    warning: str | None = None

    @property
    def credits_estimated(self) -> int:
        """The most credits that it can be charged."""
        return estimate(self.work, self.price)

    @property
    def limit_type(self) -> str | None:
        """The plan limit that it uses: for images the one of the model, otherwise the one of the operation."""
        return self.model.limit_type if self.model.model_type == "image" else self.operation.limit_type


@dataclass(frozen=True)
class _Asked:
    """A request that is being understood, and the settings that hold for who makes it."""

    catalog: Catalog
    submission: Submission
    operation: Operation
    model: Model
    settings: Settings


Understood = tuple[dict[str, Filled | None], Work, Price]
"""What is filled in of the parameters, the most that the whole can use, and the price."""


def examine(catalog: Catalog, submission: Submission, settings: Settings, *, today: date) -> Examined:
    """Check a request against the catalogue, and fill in what it leaves open by the settings that hold.

    Raises a BillingError with one sentence when it cannot be done.
    """
    operation = catalog.operation_named(submission.operation)
    named, chosen = submission.model, {}
    if named is None:
        usual, tier = choosing.choose_model(catalog, operation.model_type, settings, today=today)
        named, chosen = None if usual is None else usual.model_name, {"model": str(tier)}
    model = catalog.model_for(operation, named, today=today)
    understand = {"image": _image, "text": _text, "embedding": _embedding}[operation.model_type]
    filled, work, price = understand(_Asked(catalog, submission, operation, model, settings))
    return Examined(
        submission=submission,
        params=_whole(submission.params, model, filled),
        model=model,
        operation=operation,
        work=work,
        price=price,
        settings_used=chosen | {name: str(each.by) for name, each in filled.items() if each is not None and each.by},
        warning=catalog.deprecation_warning(model, today=today),
    )


def _text(asked: _Asked) -> Understood:
    model, params = asked.model, validated(TextParams, asked.submission.params, "invalid_params")
    assert model.max_output_tokens is not None
    most = params.max_output_tokens
    if most is not None and most > model.max_output_tokens:
        raise InvalidRequest(
            f"max_output_tokens is {most}; {model.model_name} gives {model.max_output_tokens} at most.",
            code="invalid_params",
        )
    if params.temperature is not None and not model.supports_temperature:
        raise InvalidRequest(f"{model.model_name} takes no temperature.", code="invalid_params")
    if params.json_mode and not model.supports_json_mode:
        raise InvalidRequest(f"{model.model_name} has no JSON mode.", code="invalid_params")
    filled: dict[str, Filled | None] = {}
    if most is None:
        filled["max_output_tokens"] = usual = choosing.max_output_tokens(model, asked.settings)
        most = usual.value
    if params.temperature is None:
        filled["temperature"] = choosing.temperature(model, asked.settings)
    work = Work(input_tokens=_count_what_fits(params.texts(), model, output=most), max_output_tokens=most)
    return filled, work, asked.catalog.price_of(asked.operation, model)


def _image(asked: _Asked) -> Understood:
    model, params = asked.model, validated(ImageParams, asked.submission.params, "invalid_params")
    _check_count(asked, params.n)
    _check_taken(model, "quality", params.quality, model.valid_qualities)
    filled = _look(asked, params)
    size, quality = (
        given or (other and other.value)
        for given, other in ((params.size, filled.get("size")), (params.quality, filled.get("quality")))
    )
    if size is None:
        raise InvalidRequest(f"{model.model_name} has no usual size: give one.", code="invalid_size")
    if not model.makes_size(size):
        raise InvalidRequest(
            f"{model.model_name} makes no images of {size}. Known: {', '.join(model.valid_sizes)}.",
            code="invalid_size",
        )
    price = asked.catalog.price_of(asked.operation, model, size=size, quality=quality or "")
    work = Work(images=params.n, images_per_call=model.images_per_call or 0)
    if model.bills_images:
        return filled, work, price
    assert model.max_output_tokens is not None
    style = filled.get("style_in_prompt")
    # Each call is sent the prompt anew.
    counted = _count_what_fits([styled(params.prompt, style and style.value)], model, output=0) * parts.count(work)
    return filled, replace(work, input_tokens=counted, max_output_tokens=model.max_output_tokens * params.n), price


def _look(asked: _Asked, params: ImageParams) -> dict[str, Filled | None]:
    """What settings, or the model's own row, say of images where the request does not."""
    model, filled = asked.model, {}
    if params.size is None:
        filled["size"] = choosing.image_size(model, asked.settings)
    if params.quality is None:
        filled["quality"] = choosing.image_quality(model, asked.settings)
    style = choosing.image_style(asked.settings) if params.style is None else Filled(params.style, "")
    if style is None or style.value in model.valid_styles:
        filled["style"] = style if params.style is None else None
        return filled
    if model.unknown_style == "refuse":
        source = f" ({IMAGE_STYLE} of the {style.by})" if style.by else ""
        raise InvalidRequest(_untaken(model, "style", style.value, model.valid_styles, source), code="invalid_style")
    filled["style_in_prompt"] = style
    return filled


def _embedding(asked: _Asked) -> Understood:
    model, params = asked.model, validated(EmbeddingParams, asked.submission.params, "invalid_params")
    # The model reads each text by itself, so its limit applies to each.
    counted = sum(_count_what_fits([each], model, output=0) for each in params.input)
    return {}, Work(input_tokens=counted), asked.catalog.price_of(asked.operation, model)


def _whole(params: dict[str, Any], model: Model, filled: Mapping[str, Filled | None]) -> dict[str, Any]:
    """The params of the job: those given, what is filled in, and the formats of its model's row.

    They stay as they are, whatever is set later, so that a request that is sent again is the same request.
    """
    formats = {"response_format": model.response_format, "encoding_format": model.encoding_format}
    whole = params | {name: each.value for name, each in filled.items() if each is not None}
    if "style_in_prompt" in whole:
        whole.pop("style", None)
    return whole | {name: value for name, value in formats.items() if value is not None}


def _check_count(asked: _Asked, n: int) -> None:
    """Raise InvalidRequest when more images are asked for than the model makes, or than the settings allow."""
    name, most = asked.model.model_name, asked.model.max_images or 1
    if n > most:
        raise InvalidRequest(f"n is {n}; {name} makes {most} images a request at most.", code="invalid_params")
    bound = asked.settings.get(BOUND)
    if bound is not None and n > bound.value:
        whose = "the platform" if bound.tier is Tier.PLATFORM else "the account"
        raise InvalidRequest(
            f"n is {n}; {BOUND} of {whose} allows {bound.value} images a request. An operator raises it with "
            f"`creditmill settings set {BOUND} {n}{'' if bound.tier is Tier.PLATFORM else ' --account ID'}`.",
            code="too_many_images",
        )


def _check_taken(model: Model, name: str, given: str | None, known: tuple[str, ...]) -> None:
    """Raise InvalidRequest when a quality is given that the model does not take."""
    if given is not None and given not in known:
        raise InvalidRequest(_untaken(model, name, given, known), code=f"invalid_{name}")


def _untaken(model: Model, name: str, given: str, known: tuple[str, ...], source: str = "") -> str:
    told = f"takes no {name} {given}{source}. Known: {', '.join(known)}" if known else f"takes no {name}{source}"
    return f"{model.model_name} {told}."


def _count_what_fits(texts: list[str], model: Model, *, output: int) -> int:
    counted = tokens.count_input(texts, model.tokenizer)
    if model.context_window is not None and counted + output > model.context_window:
        more = f" and asks for up to {output} more" if output else ""
        raise InvalidRequest(
            f"The request has about {counted} input tokens{more}; {model.model_name} holds {model.context_window} "
            "in all.",
            code="input_too_long",
        )
    return counted
