"""Examining a request: whether it can be done by the catalogue, what it can use at most, and its price.

Nothing is read from the database: the catalogue is given.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from billing.catalog import tokens
from billing.catalog.pricing import Price, estimate
from billing.catalog.snapshot import Catalog, Model, Operation
from billing.catalog.usage import Work
from billing.errors import InvalidRequest
from billing.jobs import parts
from billing.jobs.requests import EmbeddingParams, ImageParams, Submission, TextParams, validated


@dataclass(frozen=True)
class Examined:
    """A request that was understood: its model, its whole parameters, what it can use at most, and its price."""

    submission: Submission
    params: dict[str, Any]
    model: Model
    operation: Operation
    work: Work
    price: Price
    warning: str | None = None

    @property
    def credits_estimated(self) -> int:
        """The most credits that it can be charged."""
        return estimate(self.work, self.price)

    @property
    def limit_type(self) -> str | None:
        """The plan limit that it uses: for images the one of the model, otherwise the one of the operation."""
        return self.model.limit_type if self.model.model_type == "image" else self.operation.limit_type


Understood = tuple[dict[str, Any], Work, Price]
"""Whole parameters, the most that they can use, and the price."""


def examine(catalog: Catalog, submission: Submission, *, today: date) -> Examined:
    """Check a request against the catalogue; raises a BillingError with one sentence when it cannot be done."""
    operation = catalog.operation_named(submission.operation)
    model = catalog.model_for(operation, submission.model, today=today)
    understand = {"image": _image, "text": _text, "embedding": _embedding}[operation.model_type]
    params, work, price = understand(catalog, submission, operation, model)
    warning = catalog.deprecation_warning(model, today=today)
    return Examined(submission, params, model, operation, work, price, warning)


def _text(catalog: Catalog, submission: Submission, operation: Operation, model: Model) -> Understood:
    params = validated(TextParams, submission.params, "invalid_params")
    assert model.max_output_tokens is not None
    asked = params.max_output_tokens
    if asked is not None and asked > model.max_output_tokens:
        raise InvalidRequest(
            f"max_output_tokens is {asked}; {model.model_name} gives {model.max_output_tokens} at most.",
            code="invalid_params",
        )
    if params.temperature is not None and not model.supports_temperature:
        raise InvalidRequest(f"{model.model_name} takes no temperature.", code="invalid_params")
    if params.json_mode and not model.supports_json_mode:
        raise InvalidRequest(f"{model.model_name} has no JSON mode.", code="invalid_params")
    limit = asked or min(catalog.defaults.openai_max_tokens, model.max_output_tokens)
    work = Work(input_tokens=_count_what_fits(params.texts(), model, output=limit), max_output_tokens=limit)
    return submission.params, work, catalog.price_of(operation, model)


def _image(catalog: Catalog, submission: Submission, operation: Operation, model: Model) -> Understood:
    params = validated(ImageParams, submission.params, "invalid_params")
    if params.n > (model.max_images or 1):
        raise InvalidRequest(
            f"n is {params.n}; {model.model_name} makes {model.max_images or 1} images a request at most.",
            code="invalid_params",
        )
    _check_taken(model, "quality", params.quality, model.valid_qualities)
    _check_taken(model, "style", params.style, model.valid_styles)
    usual_size, usual_quality = catalog.image_defaults(model)
    size, quality = params.size or usual_size, params.quality or usual_quality
    if size is None:
        raise InvalidRequest(f"{model.model_name} has no usual size: give one.", code="invalid_size")
    if not model.makes_size(size):
        raise InvalidRequest(
            f"{model.model_name} makes no images of {size}. Known: {', '.join(model.valid_sizes)}.",
            code="invalid_size",
        )
    price = catalog.price_of(operation, model, size=size, quality=quality or "")
    whole = _whole(submission.params, size=size, quality=quality, response_format=model.response_format)
    asked = Work(images=params.n, images_per_call=model.images_per_call or 0)
    if model.bills_images:
        return whole, asked, price
    assert model.max_output_tokens is not None
    # Each call is sent the prompt anew.
    counted = _count_what_fits([params.prompt], model, output=0) * parts.count(asked)
    return whole, replace(asked, input_tokens=counted, max_output_tokens=model.max_output_tokens * params.n), price


def _embedding(catalog: Catalog, submission: Submission, operation: Operation, model: Model) -> Understood:
    params = validated(EmbeddingParams, submission.params, "invalid_params")
    # The model reads each text by itself, so its limit applies to each.
    counted = sum(_count_what_fits([each], model, output=0) for each in params.input)
    whole = _whole(submission.params, encoding_format=model.encoding_format)
    return whole, Work(input_tokens=counted), catalog.price_of(operation, model)


def _whole(params: dict[str, Any], **filled_in: str | None) -> dict[str, Any]:
    """The params of the job: those given, and what is filled in. They stay as they are, whatever the model's row says
    later, so that a request that is sent again is the same request.
    """
    return {**params, **{name: value for name, value in filled_in.items() if value is not None}}


def _check_taken(model: Model, name: str, given: str | None, known: tuple[str, ...]) -> None:
    """Raise InvalidRequest when a quality or a style is given that the model does not take."""
    if given is not None and given not in known:
        told = f"takes no {name} {given}. Known: {', '.join(known)}" if known else f"takes no {name}"
        raise InvalidRequest(f"{model.model_name} {told}.", code=f"invalid_{name}")


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
