"""The platform's provider keys, addresses and defaults: one row, the top of the three tiers of settings.

Keys exist here and nowhere else (the product's specification, section 2); accounts and users may override models and
parameters, never keys.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import CheckConstraint, FetchedValue, Integer, Numeric, Text, func, select, text, type_coerce, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from config.addresses import PROVIDER, read_address
from config.database import Base
from config.logging import scrub
from config.providers import KEYS, Connection, KnownProvider
from config.secrets import EncryptedText, decrypt, ending, fingerprint, is_of_first_key
from config.settings import ConfigurationError

SINGLETON = 1


def _key(name: str) -> EncryptedText:
    return EncryptedText(f"global_integration_settings/{SINGLETON}/{name}_api_key")


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
    openai_api_key: Mapped[str | None] = mapped_column(_key("openai"))
    openai_base_url: Mapped[str | None] = mapped_column(Text)
    # OpenAI itself promises nothing about idempotency keys; a compatible server at that address may.
    openai_honours_keys: Mapped[bool] = mapped_column(server_default=text("false"))
    # The specification keeps a key of its own for DALL·E; without one, image calls use the OpenAI key.
    dalle_api_key: Mapped[str | None] = mapped_column(_key("dalle"))
    anthropic_api_key: Mapped[str | None] = mapped_column(_key("anthropic"))
    anthropic_base_url: Mapped[str | None] = mapped_column(Text)
    runware_api_key: Mapped[str | None] = mapped_column(_key("runware"))
    runware_base_url: Mapped[str | None] = mapped_column(Text)
    google_api_key: Mapped[str | None] = mapped_column(_key("google"))
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


_UPDATE = (
    update(GlobalIntegrationSettings)
    .where(GlobalIntegrationSettings.id == SINGLETON)
    .execution_options(synchronize_session="fetch")
)


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
    session.execute(_UPDATE.values(values))


def set_key(session: Session, name: str, api_key: str | None) -> None:
    """Store one of `KEYS` (encrypted), or remove it, and leave all addresses as they are."""
    session.execute(_UPDATE.values({f"{name}_api_key": api_key, "updated_at": func.now()}))


def forget_connection(session: Session, provider: str) -> None:
    """Remove a provider's key and address."""
    session.execute(
        _UPDATE.values({f"{provider}_api_key": None, f"{provider}_base_url": None, "updated_at": func.now()})
    )


@dataclass(frozen=True)
class KeyView:
    """One of `KEYS` as it may be shown: its fingerprint and its last four characters, None where none are shown."""

    name: str
    fingerprint: str
    ends_with: str | None
    is_of_first_key: bool


def keys(session: Session) -> list[KeyView]:
    """The keys that are set, fit to be shown; raises ConfigurationError for one that cannot be read."""
    return [
        KeyView(name, fingerprint(clear), ending(clear), is_of_first_key(token))
        for name, token in _tokens(session, lock=False).items()
        for clear in [decrypt(token, _key(name).place)]
    ]


def rotate_keys(session: Session) -> tuple[int, int]:
    """Encrypt with the first secret key whatever an older one encrypted; returns how many, and how many there are.

    The keys stay what they are. Raises ConfigurationError, and changes nothing, when one of them cannot be read.
    """
    found = _tokens(session, lock=True)
    older = {name: decrypt(token, _key(name).place) for name, token in found.items() if not is_of_first_key(token)}
    for name, token in found.items():
        decrypt(token, _key(name).place)
    if older:
        # The connections are the same as before.
        same = {"updated_at": GlobalIntegrationSettings.updated_at}
        session.execute(_UPDATE.values({f"{name}_api_key": clear for name, clear in older.items()} | same))
    return len(older), len(found)


def _tokens(session: Session, *, lock: bool) -> dict[str, str]:
    """The stored keys as they are, encrypted."""
    columns = [type_coerce(getattr(GlobalIntegrationSettings, f"{name}_api_key"), Text) for name in KEYS]
    statement = select(*columns).where(GlobalIntegrationSettings.id == SINGLETON)
    row = session.execute(statement.with_for_update() if lock else statement).one()
    return {name: token for name, token in zip(KEYS, row, strict=True) if token is not None}


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
