"""Queries over the catalogue: models, image prices, operations, defaults."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from billing.catalog.tables import (
    AIModelConfig,
    BillingConfiguration,
    CreditCostConfig,
    CreditCostOverride,
    ImagePriceRow,
    PlanLimitType,
)
from config.tiers.naming import PLATFORM_COLUMNS

# The setting lives as long as the transaction whose change set it.
_CLOCK_AND_VERSION = text(
    "SELECT clock_timestamp(), version::text, coalesce(current_setting('creditmill.catalog_changed', true), '') <> '' "
    "FROM catalog_version"
)
# None of the columns that hold keys.
_SETTINGS = ", ".join(f"'{column}', g.{column}" for column in ("simulated", *PLATFORM_COLUMNS.values()))
_EVERYTHING = text(
    f"""
    SELECT version::text, json_build_object(
        'models', (SELECT coalesce(json_agg(m ORDER BY m.model_type, m.sort_order, m.model_name), '[]')
                   FROM ai_model_config m),
        'operations', (SELECT coalesce(json_agg(o ORDER BY o.operation_type), '[]') FROM credit_cost_config o),
        'overrides', (SELECT coalesce(json_agg(o), '[]') FROM credit_cost_overrides o),
        'image_prices', (SELECT coalesce(json_agg(p), '[]') FROM image_prices p),
        'defaults', (SELECT row_to_json(b) FROM billing_configuration b),
        'limit_types', (SELECT coalesce(json_agg(t.limit_type ORDER BY t.limit_type), '[]') FROM plan_limit_types t),
        'settings', (SELECT json_build_object({_SETTINGS}) FROM global_integration_settings g)
    )::text
    FROM catalog_version
    """  # noqa: S608 - names of our own columns
)


def clock_and_version(session: Session) -> tuple[datetime, str, bool]:
    """The database's clock, the catalogue's version, and whether this transaction itself has changed the catalogue."""
    now, version, changed_here = session.execute(_CLOCK_AND_VERSION).one()
    return now.astimezone(UTC), version, changed_here


def everything(session: Session) -> tuple[str, str]:
    """The catalogue's version, and all its rows of that version as one JSON object."""
    version, rows = session.execute(_EVERYTHING).one()
    return version, rows


def model(session: Session, name: str) -> AIModelConfig | None:
    """The model of this name."""
    return session.scalar(select(AIModelConfig).where(AIModelConfig.model_name == name))


def models(session: Session) -> list[AIModelConfig]:
    """Every model, in the order in which it is offered."""
    return list(
        session.scalars(
            select(AIModelConfig).order_by(AIModelConfig.model_type, AIModelConfig.sort_order, AIModelConfig.model_name)
        )
    )


def operation(session: Session, operation_type: str) -> CreditCostConfig | None:
    """The operation of this name."""
    return session.scalar(select(CreditCostConfig).where(CreditCostConfig.operation_type == operation_type))


def operations(session: Session) -> list[CreditCostConfig]:
    """Every operation, by name."""
    return list(session.scalars(select(CreditCostConfig).order_by(CreditCostConfig.operation_type)))


def override(session: Session, operation_type: str, model_name: str) -> CreditCostOverride | None:
    """The row of this operation on this model."""
    return session.get(CreditCostOverride, (operation_type, model_name), populate_existing=True)


def overrides(session: Session, operation_type: str | None = None) -> list[CreditCostOverride]:
    """Every row of an operation on a model, or those of one operation, by name."""
    statement = select(CreditCostOverride).order_by(CreditCostOverride.operation_type, CreditCostOverride.model_name)
    if operation_type is not None:
        statement = statement.where(CreditCostOverride.operation_type == operation_type)
    return list(session.scalars(statement))


def exact_image_price(session: Session, model_name: str, size: str, quality: str) -> ImagePriceRow | None:
    """The row of exactly this size and quality, `*` included."""
    return session.scalar(
        select(ImagePriceRow).where(
            ImagePriceRow.model_name == model_name, ImagePriceRow.size == size, ImagePriceRow.quality == quality
        )
    )


def image_prices(session: Session, model_name: str | None = None) -> list[ImagePriceRow]:
    """Every image price, or those of one model, by model, size and quality."""
    statement = select(ImagePriceRow).order_by(ImagePriceRow.model_name, ImagePriceRow.size, ImagePriceRow.quality)
    if model_name is not None:
        statement = statement.where(ImagePriceRow.model_name == model_name)
    return list(session.scalars(statement))


def lock(session: Session) -> None:
    """Lock the catalogue and the plans for one change at a time: each reads what the one before it wrote."""
    session.execute(text("SELECT pg_advisory_xact_lock(hashtext('creditmill.catalog'))"))
    session.expire_all()


def unset_default(session: Session, model_type: str, *, but: AIModelConfig) -> None:
    """Unset the default of this type, unless it is `but`; the caller sets the new default in the same transaction."""
    for row in session.scalars(
        select(AIModelConfig).where(AIModelConfig.model_type == model_type, AIModelConfig.is_default).with_for_update()
    ):
        row.is_default = row is but
    session.flush()


def limit_types(session: Session) -> tuple[str, ...]:
    """The names of all plan limits, in order."""
    return tuple(session.scalars(select(PlanLimitType.limit_type).order_by(PlanLimitType.limit_type)))


def defaults(session: Session) -> BillingConfiguration:
    """The platform's billing defaults; the migrations put the one row there."""
    return session.scalars(select(BillingConfiguration)).one()
