"""Secrets at rest: Fernet encryption with rotating keys, and a column type that never holds clear text.

The keys come from `CREDITMILL_SECRET_KEY` (comma-separated): the first encrypts, all of them decrypt.
"""

from __future__ import annotations

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from sqlalchemy import Dialect, Text
from sqlalchemy.types import TypeDecorator

from config.settings import ConfigurationError, SettingError

_box: MultiFernet | None = None


def use_secret_keys(keys: str) -> None:
    """Set the keys of this process; raises SettingError if one of them is not a Fernet key."""
    global _box
    try:
        _box = MultiFernet([Fernet(key.strip().encode()) for key in keys.split(",") if key.strip()])
    except (ValueError, TypeError):
        raise SettingError(
            "CREDITMILL_SECRET_KEY is not a list of Fernet keys: make one with `creditmill doctor --new-key`."
        ) from None


def new_secret_key() -> str:
    """A fresh key for `CREDITMILL_SECRET_KEY`."""
    return Fernet.generate_key().decode()


def encrypt(clear: str) -> str:
    """Encrypt with the first key; raises ConfigurationError when the process has no keys."""
    return _keys().encrypt(clear.encode()).decode()


def decrypt(token: str) -> str:
    """Decrypt with whichever key fits; raises ConfigurationError when none does."""
    try:
        return _keys().decrypt(token.encode()).decode()
    except InvalidToken:
        raise ConfigurationError(
            "A stored secret cannot be read with CREDITMILL_SECRET_KEY: add the key that encrypted it, or set it anew."
        ) from None


def _keys() -> MultiFernet:
    if _box is None:
        raise ConfigurationError("CREDITMILL_SECRET_KEY is not set.")
    return _box


class EncryptedText(TypeDecorator[str]):
    """A text column that is encrypted on its way in and decrypted on its way out."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Encrypt; None stays None."""
        return None if value is None else encrypt(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        """Decrypt; None stays None."""
        return None if value is None else decrypt(value)
