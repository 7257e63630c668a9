"""The catalogue as it is shown: models, operations and the platform's defaults, each as plain data."""

from __future__ import annotations

from datetime import date
from typing import Any

from sqlalchemy.orm import Session

from billing.catalog import catalog_queries, changing, current
from billing.catalog.snapshot import Catalog
from billing.catalog.tables import AIModelConfig, BillingConfiguration, CreditCostConfig
from config.database import Base

Facts = dict[str, Any]
"""Names and values, in the order of the table's columns. Rates are USD per 1,000,000 tokens."""


def models(session: Session, *, today: date) -> list[Facts]:
    """Every model, in the order in which it is offered."""
    catalog = current.read(session)
    return [_model(session, row, catalog, today) for row in catalog_queries.models(session)]


def model(session: Session, name: str, *, today: date) -> Facts:
    """Everything about one model, its image prices too; raises UnknownThing when there is none of that name."""
    return _model(session, changing.model_named(session, name), current.read(session), today)


def operations(session: Session) -> list[Facts]:
    """Every operation, by name."""
    return [_columns(row, CreditCostConfig, "id", "updated_by") for row in catalog_queries.operations(session)]


def operation(session: Session, operation_type: str) -> Facts:
    """Everything about one operation; raises UnknownThing when there is none of that name."""
    return _columns(changing.operation_named(session, operation_type), CreditCostConfig, "id", "updated_by")


def defaults(session: Session) -> Facts:
    """The platform's billing defaults."""
    return _columns(catalog_queries.defaults(session), BillingConfiguration, "id", "updated_by")


def _model(session: Session, row: AIModelConfig, catalog: Catalog, today: date) -> Facts:
    return {
        **_columns(row, AIModelConfig, "updated_by"),
        "cost_per_image": row.cost_per_image,
        "display_with_pricing": row.get_display_with_pricing(),
        "image_prices": [
            {
                "size": price.size,
                "quality": price.quality,
                "cost_per_image_usd": price.cost_per_image_usd,
                "credits_per_image": price.credits_per_image,
            }
            for price in catalog_queries.image_prices(session, row.model_name)
        ],
        "warning": catalog.deprecation_warning(catalog.models[row.model_name], today=today),
    }


def _columns(row: Base, table: type[Base], *but: str) -> Facts:
    return {column.name: getattr(row, column.name) for column in table.__table__.columns if column.name not in but}
