"""The catalogue as it is shown: models, operations and the platform's defaults, each as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

from sqlalchemy.orm import Session

from billing.catalog import catalog_queries, changing, current
from billing.catalog.snapshot import Catalog
from billing.catalog.tables import AIModelConfig, BillingConfiguration, CreditCostConfig, CreditCostOverride
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
    overrides = catalog_queries.overrides(session)
    return [
        _operation(row, [each for each in overrides if each.operation_type == row.operation_type])
        for row in catalog_queries.operations(session)
    ]


def operation(session: Session, operation_type: str) -> Facts:
    """Everything about one operation; raises UnknownThing when there is none of that name."""
    row = changing.operation_named(session, operation_type)
    return _operation(row, catalog_queries.overrides(session, operation_type))


def defaults(session: Session) -> Facts:
    """The platform's billing defaults."""
    return _columns(catalog_queries.defaults(session), BillingConfiguration, "id", "updated_by")


def _operation(row: CreditCostConfig, overrides: Sequence[CreditCostOverride]) -> Facts:
    """An operation, with the rules that it has of its own on some models."""
    return {
        **_columns(row, CreditCostConfig, "id", "updated_by"),
        "on_models": [_columns(each, CreditCostOverride, "operation_type") for each in overrides],
    }


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
