"""The providers that there are, and how one is reached. Their keys and addresses are kept by `integrations`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Self


class KnownProvider(StrEnum):
    """The providers that a model may name: the one list of them.

    `adapter` is what calls it, as `module:class`; without one, its models cannot be called yet. `simulated_path` is
    the simulator's path for it; empty when it is not simulated.
    """

    adapter: str
    simulated_path: str

    def __new__(cls, name: str, adapter: str = "", simulated_path: str = "") -> Self:
        """A member whose value is its name, with the adapter and the path beside it."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.adapter, member.simulated_path = adapter, simulated_path
        return member

    OPENAI = "openai", "tasks.providers.openai:OpenAIProvider", "/v1"
    ANTHROPIC = "anthropic"
    RUNWARE = "runware", "tasks.providers.runware:RunwareProvider", "/runware/v1"
    GOOGLE = "google"


KEYS = ("openai", "dalle", "anthropic", "runware", "google")
"""Whose keys are kept. The specification keeps one of its own for DALL·E: OpenAI's images are made with it."""


@dataclass(frozen=True)
class Connection:
    """How to reach one provider; the key does not show in its repr."""

    provider: str
    api_key: str
    base_url: str | None
    # Whether the server does the work of one idempotency key once, however often the request comes.
    honours_keys: bool = False
    # When these settings were changed last: an earlier call may have gone elsewhere.
    since: datetime | None = None

    def __repr__(self) -> str:
        return f"Connection({self.provider!r}, base_url={self.base_url!r})"
