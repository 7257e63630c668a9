"""Saving a setting of the platform, an account or a user: checked first, then written by one upsert.

Nothing that looks like an API key is kept, whatever it is called and however deep it is nested: keys are the platform's
only, and are stored by `config.integrations`. What was stripped is logged without its value.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy.orm import Session

from billing.catalog import changing, choosing, current
from billing.catalog.snapshot import Catalog
from billing.errors import InvalidRequest
from billing.ledger import accounts
from billing.settings import tier_queries
from config.logging import get_logger
from config.tiers import schemas
from config.tiers.merging import Tier
from config.tiers.naming import CHOICES, INTEGRATIONS, PLATFORM_COLUMNS
from config.tiers.schemas import SettingRefused

log = get_logger(__name__)


@dataclass(frozen=True)
class Owner:
    """Whose setting it is: a user's of an account, an account's, or with neither the platform's."""

    account_id: int | None = None
    user_id: int | None = None

    @property
    def tier(self) -> Tier:
        """The tier of the setting."""
        if self.account_id is None:
            return Tier.PLATFORM
        return Tier.ACCOUNT if self.user_id is None else Tier.USER


def save(session: Session, owner: Owner, name: str, value: Any, *, today: date) -> Any:
    """Create or update one setting, given as plain data as from JSON; returns its value as it is kept.

    Raises a BillingError, and then nothing is saved.
    """
    with _refusals():
        schemas.check_name(name, owner.tier)
        kept = schemas.read(name, value)
    return _save(session, owner, name, kept, today=today)


def save_text(session: Session, owner: Owner, name: str, text: str, *, today: date) -> Any:
    """As `save`, of a value as it was typed."""
    with _refusals():
        schemas.check_name(name, owner.tier)
        kept = schemas.read_text(name, text)
    return _save(session, owner, name, kept, today=today)


def save_integration(session: Session, account_id: int, integration: str, config: Any, *, today: date) -> int:
    """Create or update what an account sets of an integration, all of it or nothing; returns how much was stripped.

    Whatever looks like a key is stripped, and the rest is saved. Raises a BillingError, and then nothing is saved.
    """
    with _refusals():
        kept, stripped = schemas.read_config(integration, config)
    if stripped:
        log.warning("keys_stripped", account_id=account_id, integration=integration, stripped=stripped)
    _check_owner(session, Owner(account_id))
    catalog = current.read(session)
    for name, value in kept.items():
        _check_model(catalog, name, value, today=today)
    plain = {name.partition(".")[2]: value for name, value in kept.items()}
    tier_queries.save_of_integration(session, account_id, integration, plain)
    return stripped


def unset(session: Session, owner: Owner, name: str) -> bool:
    """Remove one setting, so that the tier below holds; False when there was none. The platform's cannot be removed."""
    with _refusals():
        schemas.check_name(name, owner.tier)
    if owner.account_id is None:
        raise InvalidRequest(
            f"{name} always has a value on the platform: set another one.", code="platform_setting_needed"
        )
    _check_owner(session, owner)
    if owner.user_id is not None:
        return tier_queries.unset_of_user(session, owner.account_id, owner.user_id, name)
    integration, _, parameter = name.rpartition(".")
    if integration:
        return tier_queries.unset_of_integration(session, owner.account_id, integration, parameter)
    return tier_queries.unset_of_account(session, owner.account_id, name)


def _save(session: Session, owner: Owner, name: str, value: Any, *, today: date) -> Any:
    _check_owner(session, owner)
    catalog = current.read(session)
    _check_model(catalog, name, value, today=today)
    integration, _, parameter = name.rpartition(".")
    if owner.account_id is None:
        _save_of_platform(session, catalog, name, value, today=today)
    elif owner.user_id is not None:
        tier_queries.save_of_user(session, owner.account_id, owner.user_id, name, value)
    elif integration:
        tier_queries.save_of_integration(session, owner.account_id, integration, {parameter: value})
    else:
        tier_queries.save_of_account(session, owner.account_id, name, value)
    return value


def _save_of_platform(session: Session, catalog: Catalog, name: str, value: Any, *, today: date) -> None:
    """Set one setting for everybody. Its models and its choice of provider are the default models of the catalogue."""
    kind = next((kind for kind, choice in CHOICES.items() if choice == name), None)
    if kind is not None:
        model = choosing.first_offered(catalog, kind, value, today=today)
        if model is None:
            raise InvalidRequest(f"{value} has no active {kind} model with a price.", code="no_such_model")
        _make_default(session, catalog, kind, model.model_name)
    elif name.endswith(".model"):
        kind, provider, _ = INTEGRATIONS[name.partition(".")[0]]
        default = catalog.default_model(kind)
        if default is not None and default.provider != provider:
            raise InvalidRequest(
                f"The platform's {kind} models are those of {default.provider}: set {CHOICES[kind]} to {provider} "
                f"first, or put the model first of its provider's with `creditmill models set MODEL sort_order=...`.",
                code="not_the_platforms_provider",
            )
        _make_default(session, catalog, kind, value)
    else:
        tier_queries.save_of_platform(session, PLATFORM_COLUMNS[name], value)


def _make_default(session: Session, catalog: Catalog, kind: str, model_name: str) -> None:
    default = catalog.default_model(kind)
    if default is None or default.model_name != model_name:
        changing.set_model(session, model_name, {"is_default": True})


def _check_owner(session: Session, owner: Owner) -> None:
    if owner.account_id is not None:
        accounts.get(session, owner.account_id)
        accounts.check_user(session, owner.account_id, owner.user_id)


def _check_model(catalog: Catalog, name: str, value: Any, *, today: date) -> None:
    """Raise InvalidRequest for the name of a model that the integration does not have, or that cannot be used."""
    integration, _, parameter = name.rpartition(".")
    if parameter != "model":
        return
    kind, provider, _ = INTEGRATIONS[integration]
    usable = tuple(
        model.model_name
        for model in catalog.models.values()
        if (model.model_type, model.provider) == (kind, provider) and choosing.is_offered(catalog, model, today=today)
    )
    if value not in usable:
        # Not the value itself: somebody may have given a key.
        told = f"Known: {', '.join(usable)}." if usable else "There is none yet."
        raise InvalidRequest(
            f"{name} is an active {kind} model of {provider} with a price. {told}", code="no_such_model"
        )


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except SettingRefused as refused:
        raise InvalidRequest(refused.message, code=refused.code) from None
