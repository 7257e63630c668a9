"""The catalogue as it is now: read whole by one statement, and kept by this process until its version changes.

A trigger gives the catalogue a new random version with each change, also with one made by hand in psql. So the first
statement of a transaction tells, with the time, whether what this process keeps still holds.
"""

from __future__ import annotations

import json
from dataclasses import fields, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy.orm import Session

from billing.catalog import catalog_queries
from billing.catalog.pricing import ANY, ImagePrice, PricedBy, Rule
from billing.catalog.rates import token_rates
from billing.catalog.snapshot import NO_SETTINGS, Catalog, Defaults, Model, Moment, Operation
from billing.money import Rounding
from config.tiers.merging import OwnSettings, Setting, Settings
from config.tiers.naming import PLATFORM_COLUMNS

_kept: Catalog | None = None


def moment(session: Session) -> Moment:
    """The present instant by the database's clock and the catalogue that holds at it; a transaction's first statement.

    A price that was changed a moment ago, by whatever means, is in it.
    """
    now, version, changed_here = catalog_queries.clock_and_version(session)
    return moment_of(session, now, version, changed_here=changed_here)


def moment_of(
    session: Session, now: datetime, version: str, *, changed_here: bool, own: OwnSettings = NO_SETTINGS
) -> Moment:
    """The instant of a first statement that has read the clock, the catalogue's version, and whether it changed here.

    `own` are the settings of accounts and users that it has read as well.
    """
    catalog = _at(session, version, changed_here=changed_here)
    return Moment(now, catalog, version=None if changed_here else version, own=own)


def kept(now: datetime) -> Moment | None:
    """The catalogue that this process keeps, at this instant; None while it keeps none.

    It may have changed since: whoever goes by it writes by a statement that makes sure of its version.
    """
    return None if _kept is None else Moment(now, _kept, version=_kept.version)


def read(session: Session) -> Catalog:
    """The catalogue as this transaction sees it."""
    return moment(session).catalog


def _at(session: Session, version: str, *, changed_here: bool) -> Catalog:
    global _kept
    kept = _kept
    if kept is not None and kept.version == version and not changed_here:
        return kept
    loaded = _built(*catalog_queries.everything(session))
    if not changed_here:
        # What this transaction itself has changed is not true for others yet, and perhaps never will be.
        _kept = loaded
    return loaded


def _built(version: str, body: str) -> Catalog:
    # Decimals are read from the text itself: a float would round them.
    rows = json.loads(body, parse_float=Decimal)
    defaults, settings = rows["defaults"], rows["settings"]
    return Catalog(
        version=version,
        models={row["model_name"]: _model(row, taken_away=not settings["simulated"]) for row in rows["models"]},
        operations={row["operation_type"]: _operation(row, defaults) for row in rows["operations"]},
        rules={
            **{(row["operation_type"], ANY): _rule(row, defaults) for row in rows["operations"]},
            **{(row["operation_type"], row["model_name"]): _rule(row, defaults) for row in rows["overrides"]},
        },
        image_prices={(row["model_name"], row["size"], row["quality"]): _image(row) for row in rows["image_prices"]},
        defaults=_defaults(defaults),
        settings=_settings(settings),
        limit_types=tuple(rows["limit_types"]),
    )


def _model(row: dict[str, Any], *, taken_away: bool) -> Model:
    # A simulated provider takes no model away.
    gone = row["deprecation_date"] if taken_away else None
    derived: dict[str, Any] = {
        "rates": token_rates(row),
        "bills_images": row["model_type"] == "image" and row["output_cost_per_1m"] is None,
        **{name: tuple(row[name] or ()) for name in ("valid_sizes", "valid_qualities", "valid_styles")},
        "deprecation_date": gone and date.fromisoformat(gone),
    }
    plain = {field.name: row[field.name] for field in fields(Model) if field.name not in derived}
    return Model(**plain, **derived)


def _operation(row: dict[str, Any], defaults: dict[str, Any]) -> Operation:
    whole = Operation(**{field.name: row[field.name] for field in fields(Operation)})
    return replace(whole, price_per_credit_usd=whole.price_per_credit_usd or defaults["default_credit_price_usd"])


def _rule(row: dict[str, Any], defaults: dict[str, Any]) -> Rule:
    model = row.get("model_name")
    markup = row["markup_percent"]
    return Rule(
        row=row["operation_type"] + (f" on {model}" if model else ""),
        priced_by=PricedBy(row["priced_by"]),
        tokens_per_credit=row["tokens_per_credit"] or defaults["default_tokens_per_credit"],
        min_credits=row["min_credits"],
        output_weight=_short(row["output_weight"]),
        markup_percent=None if markup is None else _short(markup),
    )


def _short(number: Decimal | int) -> Decimal:
    # The column has ten decimals; 150 is stored on a job as 150.
    return Decimal(format(Decimal(number).normalize(), "f"))


def _image(row: dict[str, Any]) -> ImagePrice:
    return ImagePrice(row["size"], row["quality"], cost_usd=row["cost_per_image_usd"], credits=row["credits_per_image"])


def _defaults(row: dict[str, Any]) -> Defaults:
    found = {**row, "credit_rounding_mode": Rounding(row["credit_rounding_mode"])}
    return Defaults(**{field.name: found[field.name] for field in fields(Defaults)})


def _settings(row: dict[str, Any]) -> Settings:
    # No price is among them, so a number with decimals is what JSON makes of it.
    return {
        name: Setting(float(value) if isinstance(value := row[column], Decimal) else value)
        for name, column in PLATFORM_COLUMNS.items()
    }
