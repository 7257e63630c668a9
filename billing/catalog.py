"""Prices and models by one short path: what an operation on a model costs, and whether it may be asked for."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy.orm import Session

from billing.domain.errors import InvalidRequest, PriceNotConfigured, UnknownThing
from billing.domain.money import Rounding
from billing.domain.pricing import ImagePrice, Price, TokenRates
from billing.store import catalog as store
from billing.store.catalog_tables import AIModelConfig, CreditCostConfig

PriceOf = Callable[[str, str, str, str], Price]


def operation_named(session: Session, operation_type: str) -> CreditCostConfig:
    """The active operation; raises UnknownThing when there is none of that name."""
    found = store.operation(session, operation_type)
    if found is None or not found.is_active:
        known = tuple(row.operation_type for row in store.operations(session) if row.is_active)
        raise UnknownThing("operation", operation_type, choices=known)
    return found


def model_for(session: Session, operation: CreditCostConfig, name: str | None) -> AIModelConfig:
    """The model to use for an operation: the one asked for, or the default of the operation's type.

    Raises UnknownThing, or InvalidRequest when the model is inactive or of another type.
    """
    found = store.model(session, name) if name else store.default_model(session, operation.model_type)
    fitting = tuple(m.model_name for m in store.models(session) if m.model_type == operation.model_type and m.is_active)
    if found is None:
        if name is None:
            raise InvalidRequest(f"No default {operation.model_type} model is set.", code="no_default_model")
        raise UnknownThing("model", name, choices=fitting)
    if not found.is_active:
        raise InvalidRequest(f"The model {found.model_name} is switched off.", code="model_inactive")
    if found.model_type != operation.model_type:
        raise InvalidRequest(
            f"{operation.operation_type} needs a model for {operation.model_type}; {found.model_name} is for "
            f"{found.model_type}. Known: {', '.join(fitting)}.",
            code="model_type_mismatch",
        )
    return found


def price_of(
    session: Session, operation: CreditCostConfig, model: AIModelConfig, *, size: str = "", quality: str = ""
) -> Price:
    """The price of this operation on this model now, and for images of this size and quality.

    Raises PriceNotConfigured: what has no price is refused, never given away.
    """
    defaults = store.defaults(session)
    image, rates = None, None
    if model.model_type == "image" and model.output_cost_per_1m is None:
        row = store.image_price(session, model.model_name, size, quality)
        if row is None:
            raise PriceNotConfigured(f"{model.model_name} has no price for images of {size} in {quality} quality.")
        image = ImagePrice(size=size, quality=quality, cost_usd=row.cost_per_image_usd, credits=row.credits_per_image)
    else:
        rates = _rates(model)
    return Price(
        model_name=model.model_name,
        tokens_per_credit=operation.tokens_per_credit or defaults.default_tokens_per_credit,
        min_credits=operation.min_credits,
        rounding=Rounding(defaults.credit_rounding_mode),
        price_per_credit_usd=operation.price_per_credit_usd or defaults.default_credit_price_usd,
        rates=rates,
        image=image,
    )


def price_finder(session: Session) -> PriceOf:
    """A function (operation, model, size, quality) -> Price that reads each combination once: for batches."""
    found: dict[tuple[str, str, str, str], Price] = {}

    def find(operation_type: str, model_name: str, size: str, quality: str) -> Price:
        key = (operation_type, model_name, size, quality)
        if key not in found:
            operation = operation_named(session, operation_type)
            model = model_for(session, operation, model_name)
            found[key] = price_of(session, operation, model, size=size, quality=quality)
        return found[key]

    return find


def _rates(model: AIModelConfig) -> TokenRates:
    if model.input_cost_per_1m is None or (model.output_cost_per_1m is None and model.model_type != "embedding"):
        raise PriceNotConfigured(f"{model.model_name} has no token rates.")
    output = model.output_cost_per_1m if model.output_cost_per_1m is not None else model.input_cost_per_1m
    cached, reasoning = model.cached_input_cost_per_1m, model.reasoning_cost_per_1m
    return TokenRates(
        input=model.input_cost_per_1m,
        cached_input=model.input_cost_per_1m if cached is None else cached,
        output=output,
        reasoning=output if reasoning is None else reasoning,
    )
