"""Queries over the catalogue: models, image prices, operations, defaults."""

from __future__ import annotations

from sqlalchemy import case, select
from sqlalchemy.orm import Session

from billing.store.catalog_tables import ANY, AIModelConfig, BillingConfiguration, CreditCostConfig, ImagePriceRow


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


def defaults(session: Session) -> BillingConfiguration:
    """The platform's billing defaults; the migrations put the one row there."""
    return session.scalars(select(BillingConfiguration)).one()
