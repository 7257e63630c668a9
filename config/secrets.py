"""Secrets at rest: Fernet encryption with rotating keys, bound to the place that a secret is kept at.

The keys come from `CREDITMILL_SECRET_KEY` (comma-separated): the first encrypts, all of them decrypt. Fernet takes no
associated data, so the place (table, row and field) stands inside the clear text, which Fernet authenticates as a
whole: a ciphertext that was copied to another row or field does not decrypt there.
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from sqlalchemy import Dialect, Text
from sqlalchemy.types import TypeDecorator

from config.settings import ConfigurationError, SettingError

SHOWN_FROM = 16
"""How many characters a secret has at least whose last four are shown: of a shorter one, four would be much."""


class UnreadableSecret(ConfigurationError):
    """No key of this process decrypts a stored secret."""


_box: MultiFernet | None = None
_first: Fernet | None = None


def use_secret_keys(keys: str) -> None:
    """Set the keys of this process; raises SettingError if one of them is not a Fernet key."""
    global _box, _first
    try:
        fernets = [Fernet(key.strip().encode()) for key in keys.split(",") if key.strip()]
        _box, _first = MultiFernet(fernets), fernets[0] if fernets else None
    except (ValueError, TypeError):
        raise SettingError(
            "CREDITMILL_SECRET_KEY is not a list of Fernet keys: make one with `creditmill doctor --new-key`."
        ) from None


def new_secret_key() -> str:
    """A fresh key for `CREDITMILL_SECRET_KEY`."""
    return Fernet.generate_key().decode()


def encrypt(clear: str, place: str) -> str:
    """Encrypt with the first key, for this place; raises ConfigurationError when the process has no keys."""
    return encrypt_unbound(f"{place}\0{clear}")


def encrypt_unbound(clear: str) -> str:
    """Encrypt with the first key what has its place already, or what an older version reads."""
    return _keys().encrypt(clear.encode()).decode()


def decrypt(token: str, place: str) -> str:
    """Decrypt with whichever key fits; raises ConfigurationError when none does, or it was encrypted for elsewhere."""
    found, parted, clear = decrypt_unbound(token).partition("\0")
    if not parted or not hmac.compare_digest(found.encode(), place.encode()):
        raise ConfigurationError(
            "A stored secret was not encrypted for the place where it stands: set it anew with "
            "`creditmill integrations set`."
        )
    return clear


def decrypt_unbound(token: str) -> str:
    """What was encrypted, with its place if it has one: older ones had none, which migrations read."""
    try:
        return _keys().decrypt(token.encode()).decode()
    except InvalidToken:
        raise UnreadableSecret(
            "A stored secret cannot be read with CREDITMILL_SECRET_KEY: add the key that encrypted it, or set it anew."
        ) from None


def is_of_first_key(token: str) -> bool:
    """Whether the first key decrypts this; an older key does otherwise, and cannot be taken away yet."""
    _keys()
    assert _first is not None
    try:
        _first.decrypt(token.encode())
    except InvalidToken:
        return False
    return True


def fingerprint(clear: str) -> str:
    """By what a secret is recognised without being shown: a part of its SHA-256."""
    return hashlib.sha256(clear.encode()).hexdigest()[:12]


def ending(clear: str) -> str | None:
    """The last four characters of a secret; None for one that is too short to show any."""
    return clear[-4:] if len(clear) >= SHOWN_FROM else None


def _keys() -> MultiFernet:
    if _box is None:
        raise ConfigurationError("CREDITMILL_SECRET_KEY is not set.")
    return _box


class EncryptedText(TypeDecorator[str]):
    """A text column that is encrypted on its way in and decrypted on its way out, for its place alone."""

    impl = Text
    cache_ok = True

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place = place

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Encrypt; None stays None."""
        return None if value is None else encrypt(value, self.place)

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        """Decrypt; None stays None."""
        return None if value is None else decrypt(value, self.place)
