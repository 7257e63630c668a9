"""Changing the catalogue: models, image prices, operations, the platform's defaults.

Every change is checked in full before it is made, and the database keeps the former values (see `history`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from billing.catalog import catalog_queries
from billing.catalog.fields import (
    DefaultsFields,
    ImagePriceFields,
    ModelFields,
    Name,
    NewModelFields,
    NewOperationFields,
    OperationFields,
    OperationName,
    QualityOrAny,
    RuleFields,
    SizeOrAny,
    is_text,
    one_of,
    read,
)
from billing.catalog.pricing import ANY
from billing.catalog.tables import (
    AIModelConfig,
    BillingConfiguration,
    CreditCostConfig,
    CreditCostOverride,
    ImagePriceRow,
)
from billing.catalog.tokens import TOKENIZERS
from billing.errors import InvalidRequest, PriceNotConfigured, UnknownThing

Row = TypeVar("Row", AIModelConfig, ImagePriceRow, CreditCostConfig, CreditCostOverride, BillingConfiguration)

REFUSALS: Mapping[str, str] = {
    "ck_ai_model_config_text_has_rates_and_limits": "A text model needs input_cost_per_1m, output_cost_per_1m, "
    "context_window and max_output_tokens.",
    "ck_ai_model_config_token_images_have_rates": "An image model that bills by tokens needs input_cost_per_1m, "
    "output_cost_per_1m and max_output_tokens, the most that one image takes.",
    "ck_ai_model_config_default_is_active": "The default model of a type is an active one: make another one the "
    "default first.",
    "ck_ai_model_config_api_fits_type": "A text model speaks responses or chat_completions, an image model images, an "
    "embedding model embeddings.",
    "ck_credit_cost_config_limit_unit_fits_type": "Words are counted of texts, images of images, requests of anything.",
    "ck_credit_cost_config_cost_has_markup": "An operation that is priced by cost needs markup_percent.",
    "ck_credit_cost_overrides_cost_has_markup": "An operation that is priced by cost needs markup_percent.",
    "ck_credit_cost_config_output_weight": "output_weight is more than 0 and 1,000 at most.",
    "ck_credit_cost_overrides_output_weight": "output_weight is more than 0 and 1,000 at most.",
    "ck_credit_cost_config_markup_percent": "markup_percent is 100,000 at most.",
    "ck_credit_cost_overrides_markup_percent": "markup_percent is 100,000 at most.",
    "ck_ai_model_config_long_context_is_whole": "Rates for long requests need all of long_context_above, "
    "long_context_input_cost_per_1m and long_context_output_cost_per_1m.",
    "ck_ai_model_config_parameters_fit_type": "Qualities, styles and response_format are of image models, "
    "encoding_format is of embedding models.",
    "ck_ai_model_config_embedding_has_rate_and_limit": "An embedding model needs input_cost_per_1m and context_window.",
}
"""The CHECKs of the database that an operator's change can break, each with its sentence."""

APIS = {"text": "responses", "image": "images", "embedding": "embeddings"}
"""The interface that a new model of a type uses, unless another one is given."""


def lock(session: Session) -> None:
    """Lock the catalogue and the plans for one change at a time: each reads what the one before it wrote."""
    catalog_queries.lock(session)


def model_named(session: Session, name: str) -> AIModelConfig:
    """The model, active or not; raises UnknownThing when there is none of that name."""
    found = catalog_queries.model(session, name) if is_text(name) else None
    if found is None:
        raise UnknownThing("model", name, choices=tuple(model.model_name for model in catalog_queries.models(session)))
    return found


def operation_named(session: Session, operation_type: str) -> CreditCostConfig:
    """The operation, active or not; raises UnknownThing when there is none of that name."""
    found = catalog_queries.operation(session, operation_type) if is_text(operation_type) else None
    if found is None:
        known = tuple(operation.operation_type for operation in catalog_queries.operations(session))
        raise UnknownThing("operation", operation_type, choices=known)
    return found


def add_model(session: Session, name: str, fields: Mapping[str, Any], *, force: bool = False) -> AIModelConfig:
    """Add a model. Raises a BillingError, InvalidPrice and ImplausiblePrice among them, and then adds nothing."""
    one_of(Name, "the name", name)
    catalog_queries.lock(session)
    if catalog_queries.model(session, name) is not None:
        raise InvalidRequest(f"There is a model {name} already.", code="model_exists")
    values = read(NewModelFields, fields, None, force=force)
    values["api"] = values.get("api") or APIS[values["model_type"]]
    row = AIModelConfig(model_name=name, model_type=values["model_type"])
    return _save(session, row, {"display_name": name, **values})


def set_model(session: Session, name: str, fields: Mapping[str, Any], *, force: bool = False) -> AIModelConfig:
    """Change a model's fields; raises a BillingError and then changes nothing. Rates are USD per 1,000,000 tokens."""
    catalog_queries.lock(session)
    row = model_named(session, name)
    values = read(ModelFields, fields, row, force=force)
    if row.is_default and values.get("is_default") is False:
        raise InvalidRequest(
            f"{name} is the default {row.model_type} model: make another one the default instead.",
            code="default_needed",
        )
    return _save(session, row, values)


def set_image_price(
    session: Session, name: str, size: str, quality: str, fields: Mapping[str, Any], *, force: bool = False
) -> ImagePriceRow:
    """Set what an image of this model, size and quality costs in USD and is charged in credits; `*` means any."""
    catalog_queries.lock(session)
    model = model_named(session, name)
    if not model.bills_images:
        raise InvalidRequest(f"{name} is not billed by the image.", code="not_billed_by_image")
    one_of(SizeOrAny, "size", size)
    one_of(QualityOrAny, "quality", quality)
    if size != ANY and not model.validate_size(size):
        raise InvalidRequest(
            f"{name} makes no images of {size}. Known: {', '.join(model.valid_sizes or [])}.", code="invalid_size"
        )
    if quality != ANY and model.valid_qualities and quality not in model.valid_qualities:
        # A request that names it would be refused: the price would never be found.
        raise InvalidRequest(
            f"{name} takes no quality {quality}. Known: {', '.join(model.valid_qualities)}.", code="invalid_quality"
        )
    row = catalog_queries.exact_image_price(session, name, size, quality)
    values = read(ImagePriceFields, fields, row, force=force)
    if row is None:
        if len(values) < 2:
            raise InvalidRequest(
                f"A new price needs cost_per_image_usd and credits_per_image: {name} has none for images of {size} in "
                f"{quality} quality.",
                code="invalid_price",
            )
        row = ImagePriceRow(model_name=name, size=size, quality=quality)
    return _save(session, row, values)


def remove_image_price(session: Session, name: str, size: str, quality: str) -> None:
    """Remove an image price; raises PriceNotConfigured when there is none of exactly this size and quality."""
    catalog_queries.lock(session)
    model_named(session, name)
    one_of(SizeOrAny, "size", size)
    one_of(QualityOrAny, "quality", quality)
    row = catalog_queries.exact_image_price(session, name, size, quality)
    if row is None:
        raise PriceNotConfigured(f"{name} has no price for exactly this size and quality.")
    session.delete(row)
    session.flush()


def add_operation(
    session: Session, operation_type: str, fields: Mapping[str, Any], *, force: bool = False
) -> CreditCostConfig:
    """Add an operation; raises a BillingError and then adds nothing."""
    one_of(OperationName, "the name", operation_type)
    catalog_queries.lock(session)
    if catalog_queries.operation(session, operation_type) is not None:
        raise InvalidRequest(f"There is an operation {operation_type} already.", code="operation_exists")
    values = read(NewOperationFields, fields, None, force=force)
    row = CreditCostConfig(operation_type=operation_type)
    return _save(session, row, {"display_name": operation_type, **values})


def set_operation(
    session: Session, operation_type: str, fields: Mapping[str, Any], *, force: bool = False
) -> CreditCostConfig:
    """Change an operation's fields; raises a BillingError and then changes nothing."""
    catalog_queries.lock(session)
    row = operation_named(session, operation_type)
    defaults = catalog_queries.defaults(session)
    usual = {
        "tokens_per_credit": defaults.default_tokens_per_credit,
        "price_per_credit_usd": defaults.default_credit_price_usd,
    }
    return _save(session, row, read(OperationFields, fields, row, force=force, usual=usual))


def set_override(
    session: Session, operation_type: str, model_name: str, fields: Mapping[str, Any], *, force: bool = False
) -> CreditCostOverride:
    """Change how an operation is charged on one model; what is not given stays as it is charged now.

    Raises a BillingError and then changes nothing.
    """
    catalog_queries.lock(session)
    operation, model = operation_named(session, operation_type), model_named(session, model_name)
    if operation.model_type != model.model_type:
        raise InvalidRequest(
            f"{operation_type} needs a model for {operation.model_type}; {model_name} is for {model.model_type}.",
            code="model_type_mismatch",
        )
    row = catalog_queries.override(session, operation_type, model_name)
    if row is None:
        usual = catalog_queries.defaults(session).default_tokens_per_credit
        row = CreditCostOverride(
            operation_type=operation_type,
            model_name=model_name,
            **{name: getattr(operation, name) for name in RuleFields.model_fields if name != "tokens_per_credit"},
            tokens_per_credit=operation.tokens_per_credit or usual,
        )
    return _save(session, row, read(RuleFields, fields, row, force=force))


def remove_override(session: Session, operation_type: str, model_name: str) -> None:
    """Let an operation be charged on this model by its own rule again; raises PriceNotConfigured when it is already."""
    catalog_queries.lock(session)
    operation_named(session, operation_type)
    model_named(session, model_name)
    row = catalog_queries.override(session, operation_type, model_name)
    if row is None:
        raise PriceNotConfigured(f"{operation_type} has no rule of its own on {model_name}.")
    session.delete(row)
    session.flush()


def set_defaults(session: Session, fields: Mapping[str, Any], *, force: bool = False) -> BillingConfiguration:
    """Change the platform's defaults; raises a BillingError and then changes nothing."""
    catalog_queries.lock(session)
    row = catalog_queries.defaults(session)
    return _save(session, row, read(DefaultsFields, fields, row, force=force))


def _save(session: Session, row: Row, values: Mapping[str, Any]) -> Row:
    """Write the values to the row; a refusal of the database undoes them and becomes one sentence."""
    limit_type, tokenizer = values.get("limit_type"), values.get("tokenizer")
    if limit_type is not None and limit_type not in catalog_queries.limit_types(session):
        raise UnknownThing("plan limit", limit_type, choices=catalog_queries.limit_types(session))
    if limit_type is not None and not _carries_limit(row, values):
        raise InvalidRequest(
            "The limit of images stands on their model, that of everything else on the operation.",
            code="limit_elsewhere",
        )
    if tokenizer is not None and tokenizer not in TOKENIZERS:
        raise UnknownThing("tokenizer", tokenizer, choices=tuple(sorted(TOKENIZERS)))
    empty = [name for name, value in values.items() if value is None and not row.__table__.c[name].nullable]
    if empty:
        raise InvalidRequest(f"{empty[0]} cannot be empty.", code="invalid_field")
    try:
        with session.begin_nested():
            if isinstance(row, AIModelConfig) and values.get("is_default"):
                catalog_queries.unset_default(session, row.model_type, but=row)
            for name, value in values.items():
                setattr(row, name, value)
            session.add(row)
            session.flush()
    except IntegrityError as error:
        constraint = getattr(getattr(error.orig, "diag", None), "constraint_name", None) or ""
        sentence = REFUSALS.get(constraint, f"The database refuses this: it would break its rule {constraint}.")
        raise InvalidRequest(sentence, code="invalid_field") from None
    session.refresh(row)
    return row


def _carries_limit(row: Row, values: Mapping[str, Any]) -> bool:
    kind = values.get("model_type") or getattr(row, "model_type", None)
    return (kind == "image") == isinstance(row, AIModelConfig)
