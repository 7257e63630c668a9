"""What every provider adapter does: one wire call, which either delivers or raises ProviderError."""

from __future__ import annotations

import math
import re
from typing import Any, Protocol

from billing.jobs.calling import Claim, Delivery, Refusal
from billing.jobs.policy import Means
from config.logging import scrub
from config.providers import Connection

_CODE = re.compile(r"[A-Za-z0-9_.\-]{1,64}")


class ProviderError(Exception):
    """A call that brought no result. It carries codes only: a provider's words may quote a prompt or a key."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.failure.value)
        self.refusal = refusal


class Provider(Protocol):
    """One provider's API."""

    def call(self, claim: Claim, connection: Connection, *, timeout_s: float) -> Delivery:
        """Make one wire call of at most `timeout_s` seconds; raises ProviderError when it brings no result."""
        ...

    def means(self, connection: Connection) -> Means:
        """How an unknown call can be resolved, over this connection."""
        ...

    def ask(self, claim: Claim, connection: Connection, *, timeout_s: float) -> Delivery | None:
        """Ask what became of an unknown call, by `means`; None when the provider cannot tell, or not yet.

        Raises ProviderError only for an answer which proves that the work was not done; all other trouble returns None.
        """
        ...

    def check(self, connection: Connection, *, timeout_s: float) -> None:
        """Make one call that costs nothing; raises ProviderError unless the provider answers and takes the key."""
        ...


def safe_code(value: object) -> str | None:
    """A provider's error code, if it looks like a code, and not like a sentence or a key."""
    if not isinstance(value, str) or not _CODE.fullmatch(value) or scrub(value) != value:
        return None
    return value


def clean_text(text: str) -> str:
    """Text as PostgreSQL can keep it: a NUL or a lone surrogate must not cost us a paid answer."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def clean_json(value: Any) -> Any:
    """The same for everything in a JSON value; NaN and infinity, which Python reads and no JSON has, become text."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {clean_text(str(name)): clean_json(item) for name, item in value.items()}
    return [clean_json(item) for item in value] if isinstance(value, list) else value
