"""Reading the catalogue: the price of an operation on a model, and whether a request may use it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

from sqlalchemy.orm import Session

from billing.catalog import catalog_queries
from billing.catalog.pricing import ImagePrice, Price
from billing.catalog.tables import AIModelConfig, BillingConfiguration, CreditCostConfig
from billing.errors import InvalidRequest, PriceNotConfigured, UnknownThing
from billing.money import Rounding
from config.integrations import platform_settings

PriceOf = Callable[[str, str, str, str], Price]


def operation_named(session: Session, operation_type: str) -> CreditCostConfig:
    """The active operation; raises UnknownThing when there is none of that name, InvalidRequest when it is off."""
    found = catalog_queries.operation(session, operation_type)
    if found is not None and not found.is_active:
        raise InvalidRequest(f"The operation {found.operation_type} is switched off.", code="operation_inactive")
    if found is None:
        known = tuple(row.operation_type for row in catalog_queries.operations(session) if row.is_active)
        raise UnknownThing("operation", operation_type, choices=known)
    return found


def model_for(session: Session, operation: CreditCostConfig, name: str | None, *, today: date) -> AIModelConfig:
    """The model to use for an operation: the one asked for, or the default of the operation's type.

    Raises UnknownThing, or InvalidRequest when the model is inactive, of another type, or past its deprecation date.
    """
    found = (
        catalog_queries.model(session, name) if name else catalog_queries.default_model(session, operation.model_type)
    )
    fitting = tuple(
        m.model_name for m in catalog_queries.models(session) if m.model_type == operation.model_type and m.is_active
    )
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
    if found.is_deprecated(today):
        raise InvalidRequest(
            f"The provider has taken {found.model_name} away on {found.deprecation_date}. Use another model.",
            code="model_deprecated",
        )
    return found


def defaults(session: Session) -> BillingConfiguration:
    """The platform's billing defaults and bounds."""
    return catalog_queries.defaults(session)


def limit_types(session: Session) -> tuple[str, ...]:
    """The names of all plan limits, in order."""
    return catalog_queries.limit_types(session)


def lock_changes(session: Session) -> None:
    """Lock the catalogue and the plans for one change at a time: each reads what the one before it wrote."""
    catalog_queries.lock(session)


def api_of(session: Session, model_name: str) -> str:
    """Which of its provider's interfaces this model uses; a model that a job names is never deleted."""
    model = catalog_queries.model(session, model_name)
    assert model is not None, "a job's model is never deleted"
    return model.api


def active_models(session: Session) -> list[AIModelConfig]:
    """Every active model, in the order in which it is offered."""
    return [model for model in catalog_queries.models(session) if model.is_active]


def types_without_default(session: Session) -> list[str]:
    """The types of the active operations for which no model is the default."""
    wanted = {operation.model_type for operation in catalog_queries.operations(session) if operation.is_active}
    return sorted(kind for kind in wanted if catalog_queries.default_model(session, kind) is None)


def deprecation_warning(session: Session, model: AIModelConfig, *, today: date) -> str | None:
    """One sentence when the model's deprecation date is near or past, else None."""
    day = model.deprecation_date
    if day is None or (day - today).days > catalog_queries.defaults(session).deprecation_notice_days:
        return None
    gone = day <= today
    return f"The provider {'has taken' if gone else 'takes'} {model.model_name} away on {day}: use another model."


def price_of(
    session: Session, operation: CreditCostConfig, model: AIModelConfig, *, size: str = "", quality: str = ""
) -> Price:
    """The price of this operation on this model now, and for images of this size and quality.

    Raises PriceNotConfigured when there is none: a request without a price is refused, never given away.
    """
    image = image_price_of(session, model, size, quality) if model.bills_images else None
    if image is None and model.rates is None:
        raise PriceNotConfigured(f"{model.model_name} has no token rates.")
    return price_from(operation, model, catalog_queries.defaults(session), image)


def price_of_past(session: Session, operation_type: str, model_name: str, size: str, quality: str) -> Price | None:
    """Today's price of past usage, even if its operation or model is inactive by now; None when it has no price."""
    operation, model = catalog_queries.operation(session, operation_type), catalog_queries.model(session, model_name)
    if operation is None or model is None:
        return None
    try:
        return price_of(session, operation, model, size=size, quality=quality)
    except PriceNotConfigured:
        return None


def image_price_of(session: Session, model: AIModelConfig, size: str, quality: str) -> ImagePrice:
    """The price of one image of this size and quality; raises PriceNotConfigured when no row covers it."""
    row = catalog_queries.image_price(session, model.model_name, size, quality)
    if row is None:
        raise PriceNotConfigured(f"{model.model_name} has no price for images of {size} in {quality} quality.")
    return ImagePrice(size=size, quality=quality, cost_usd=row.cost_per_image_usd, credits=row.credits_per_image)


def price_from(
    operation: CreditCostConfig, model: AIModelConfig, defaults: BillingConfiguration, image: ImagePrice | None
) -> Price:
    """Build a price from these rows: the image's price or the model's token rates, and the operation's credits."""
    return Price(
        model_name=model.model_name,
        kind=model.model_type,
        tokens_per_credit=operation.tokens_per_credit or defaults.default_tokens_per_credit,
        min_credits=operation.min_credits,
        rounding=Rounding(defaults.credit_rounding_mode),
        price_per_credit_usd=operation.price_per_credit_usd or defaults.default_credit_price_usd,
        rates=model.rates if image is None else None,
        image=image,
    )


def price_finder(session: Session, *, today: date) -> PriceOf:
    """A function (operation, model, size, quality) -> Price that reads each combination once: for batches."""
    found: dict[tuple[str, str, str, str], Price] = {}

    def find(operation_type: str, model_name: str, size: str, quality: str) -> Price:
        key = (operation_type, model_name, size, quality)
        if key not in found:
            operation = operation_named(session, operation_type)
            model = model_for(session, operation, model_name, today=today)
            found[key] = price_of(session, operation, model, size=size, quality=quality)
        return found[key]

    return find


def image_defaults(session: Session, model: AIModelConfig) -> tuple[str | None, str]:
    """The size and quality of an image that asks for neither: the model's first size, the platform's quality."""
    return (model.valid_sizes or [None])[0], platform_settings(session).image_quality
