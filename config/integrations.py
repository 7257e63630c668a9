"""The platform's provider keys, addresses and defaults: one row, the top of the three tiers of settings.

Keys exist here and nowhere else (the product's specification, section 2); accounts and users may override models and
parameters, never keys.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import CheckConstraint, FetchedValue, Integer, Numeric, Text, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, Session, mapped_column

from config.addresses import PROVIDER, read_address
from config.database import Base
from config.logging import scrub
from config.providers import Connection, KnownProvider
from config.secrets import EncryptedText
from config.settings import ConfigurationError

SINGLETON = 1


class GlobalIntegrationSettings(Base):
    """The singleton row of platform-wide keys and defaults; keys are encrypted at rest."""

    __tablename__ = "global_integration_settings"
    __table_args__ = (
        CheckConstraint("id = 1", name="singleton"),
        *(
            CheckConstraint(f"{name}_temperature BETWEEN 0 AND 2", name=f"{name}_temperature")
            for name in ("openai", "anthropic", "google")
        ),
        *(
            CheckConstraint(f"{name}_max_tokens BETWEEN 16 AND 10000000", name=f"{name}_max_tokens")
            for name in ("openai", "anthropic", "google")
        ),
        *(
            CheckConstraint(f"{name}_size ~ '^[0-9]{{2,5}}x[0-9]{{2,5}}$'", name=f"{name}_size")
            for name in ("dalle", "runware")
        ),
        CheckConstraint("image_quality ~ '^[a-z]{1,20}$'", name="image_quality"),
        CheckConstraint("image_style ~ '^[a-z]{1,20}$'", name="image_style"),
        CheckConstraint("max_in_article_images BETWEEN 1 AND 1000", name="max_in_article_images"),
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False, default=SINGLETON)
    openai_api_key: Mapped[str | None] = mapped_column(EncryptedText)
    openai_base_url: Mapped[str | None] = mapped_column(Text)
    # OpenAI itself promises nothing about idempotency keys; a compatible server at that address may.
    openai_honours_keys: Mapped[bool] = mapped_column(server_default=text("false"))
    # The specification keeps a key of its own for DALL·E; without one, image calls use the OpenAI key.
    dalle_api_key: Mapped[str | None] = mapped_column(EncryptedText)
    anthropic_api_key: Mapped[str | None] = mapped_column(EncryptedText)
    anthropic_base_url: Mapped[str | None] = mapped_column(Text)
    runware_api_key: Mapped[str | None] = mapped_column(EncryptedText)
    runware_base_url: Mapped[str | None] = mapped_column(Text)
    google_api_key: Mapped[str | None] = mapped_column(EncryptedText)
    google_base_url: Mapped[str | None] = mapped_column(Text)
    openai_max_tokens: Mapped[int] = mapped_column(Integer, server_default="8192")
    openai_temperature: Mapped[Decimal] = mapped_column(Numeric(3, 2), server_default="0.7")
    anthropic_max_tokens: Mapped[int] = mapped_column(Integer, server_default="8192")
    anthropic_temperature: Mapped[Decimal] = mapped_column(Numeric(3, 2), server_default="0.7")
    google_max_tokens: Mapped[int] = mapped_column(Integer, server_default="8192")
    google_temperature: Mapped[Decimal] = mapped_column(Numeric(3, 2), server_default="0.7")
    dalle_size: Mapped[str] = mapped_column(Text, server_default=FetchedValue())
    runware_size: Mapped[str] = mapped_column(Text, server_default=FetchedValue())
    default_text_provider: Mapped[str] = mapped_column(Text, server_default="openai")
    default_image_service: Mapped[str] = mapped_column(Text, server_default="openai")
    image_quality: Mapped[str] = mapped_column(Text, server_default="standard")
    image_style: Mapped[str] = mapped_column(Text, server_default="photorealistic")
    max_in_article_images: Mapped[int] = mapped_column(Integer, server_default="2")
    # Whether the simulator stands in for the providers: it takes no model away.
    simulated: Mapped[bool] = mapped_column(server_default=text("false"))
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())


@dataclass(frozen=True)
class Connections:
    """The keys and addresses of all providers, as they were read at one version of the settings."""

    version: str | None
    _row: GlobalIntegrationSettings | None = field(repr=False)

    def of(self, provider: str, kind: str) -> Connection:
        """The key and address for a provider and a kind of work; raises ConfigurationError when no key is set."""
        row = self._row
        key = getattr(row, f"{provider}_api_key", None)
        if provider == "openai" and kind == "image" and row is not None and row.dalle_api_key:
            key = row.dalle_api_key
        if not key:
            raise ConfigurationError(
                f"No API key is set for {provider}: set it with `creditmill integrations set {provider}`."
            )
        return Connection(
            provider=provider,
            api_key=key,
            base_url=getattr(row, f"{provider}_base_url", None),
            honours_keys=getattr(row, f"{provider}_honours_keys", False),
            since=getattr(row, "updated_at", None),
        )


_kept: Connections | None = None


def connections(session: Session, *, version: str | None) -> Connections:
    """The connections to all providers; read anew when this process has not read them at this version of the catalogue.

    Triggers renew that version with each change of these settings, too. None reads them in any case, and keeps nothing.
    """
    global _kept
    kept = _kept
    if kept is not None and version is not None and kept.version == version:
        return kept
    found = session.scalar(select(GlobalIntegrationSettings).execution_options(populate_existing=True))
    if found is not None:
        # It outlives this session, and is read only.
        session.expunge(found)
    read = Connections(version, found)
    if version is not None:
        _kept = read
    return read


def connection_for(session: Session, provider: str, kind: str) -> Connection:
    """The key and address for a provider and a kind of work; raises ConfigurationError when no key is set."""
    return connections(session, version=None).of(provider, kind)


def platform_settings(session: Session) -> GlobalIntegrationSettings:
    """The platform's keys and default parameters; the migrations put the one row there."""
    return session.get_one(GlobalIntegrationSettings, SINGLETON)


def set_connection(
    session: Session, provider: str, *, api_key: str | None, base_url: str | None, honours_keys: bool = False
) -> None:
    """Store a provider's key (encrypted) and address; None for the address means the provider's own.

    `honours_keys` says that the server at that address does the work of one idempotency key once. Raises AddressError
    when the address cannot be read, or holds a password, which the table would show.
    """
    if base_url is not None:
        read_address(f"The base URL of {provider}", base_url, PROVIDER)
    values: dict[str, Any] = {f"{provider}_base_url": base_url, "updated_at": func.now()}
    if provider == "openai":
        values["openai_honours_keys"] = honours_keys
    if api_key is not None:
        values[f"{provider}_api_key"] = api_key
    statement = insert(GlobalIntegrationSettings).values(id=SINGLETON, **values)
    session.execute(statement.on_conflict_do_update(index_elements=["id"], set_=values))


def forget_connection(session: Session, provider: str) -> None:
    """Remove a provider's key and address."""
    row = platform_settings(session)
    setattr(row, f"{provider}_api_key", None)
    setattr(row, f"{provider}_base_url", None)


def set_simulated(session: Session, simulated: bool) -> None:
    """Say whether the simulator stands in for the providers."""
    row = platform_settings(session)
    if row.simulated is not simulated:
        row.simulated = simulated


def configured_providers(session: Session) -> dict[str, str | None]:
    """The providers that have a key, each with its base URL (None for the provider's own), fit to be shown."""
    row = session.scalar(select(GlobalIntegrationSettings))
    if row is None:
        return {}
    urls = {
        name: getattr(row, f"{name}_base_url") for name in map(str, KnownProvider) if getattr(row, f"{name}_api_key")
    }
    # One that was stored before passwords in it were refused, or by hand, may hold one.
    return {name: url and scrub(url) for name, url in urls.items()}
