"""Queries over the catalogue: models, image prices, operations, defaults."""

from __future__ import annotations

from sqlalchemy import case, select, text
from sqlalchemy.orm import Session

from billing.catalog.pricing import ANY
from billing.catalog.tables import AIModelConfig, BillingConfiguration, CreditCostConfig, ImagePriceRow, PlanLimitType


def model(session: Session, name: str) -> AIModelConfig | None:
    """The model of this name."""
    return session.scalar(select(AIModelConfig).where(AIModelConfig.model_name == name))


def default_model(session: Session, model_type: str) -> AIModelConfig | None:
    """The default model of this type."""
    return session.scalar(select(AIModelConfig).where(AIModelConfig.model_type == model_type, AIModelConfig.is_default))


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


def image_price(session: Session, model_name: str, size: str, quality: str) -> ImagePriceRow | None:
    """The most specific price for this size and quality; an exact size counts for more than an exact quality."""
    exact_size = case((ImagePriceRow.size == size, 2), else_=0)
    exact_quality = case((ImagePriceRow.quality == quality, 1), else_=0)
    return session.scalar(
        select(ImagePriceRow)
        .where(
            ImagePriceRow.model_name == model_name,
            ImagePriceRow.size.in_([size, ANY]),
            ImagePriceRow.quality.in_([quality, ANY]),
        )
        .order_by((exact_size + exact_quality).desc())
        .limit(1)
    )


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
