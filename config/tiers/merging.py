"""Merging the three tiers of settings: what is set nearest to the user holds. Pure: nothing is read or written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

EMPTY: tuple[Any, ...] = (None, "", [], {})
"""Values that say nothing: they never hide what a tier below has set."""


class Tier(StrEnum):
    """Who set a value: the platform for everybody, an account for itself, or one of its users."""

    PLATFORM = "platform"
    ACCOUNT = "account"
    USER = "user"


@dataclass(frozen=True)
class Setting:
    """One value, the tier that set it, and since when it holds; None where nobody asked."""

    value: Any
    tier: Tier = Tier.PLATFORM
    since: datetime | None = None


Settings = Mapping[str, Setting]
"""Settings by name."""


def merge(tiers: Iterable[Settings]) -> dict[str, Setting]:
    """The settings that hold, of tiers given from the platform's to the user's: a later tier's value wins."""
    merged: dict[str, Setting] = {}
    for tier in tiers:
        merged |= {name: setting for name, setting in tier.items() if setting.value not in EMPTY}
    return merged


@dataclass(frozen=True)
class OwnSettings:
    """What some accounts and users have set themselves, by account and user (None: the account itself).

    `read_of` holds the accounts that were looked at, also those that have set nothing.
    """

    read_of: frozenset[int] = frozenset()
    by_payer: Mapping[tuple[int, int | None], Settings] | None = None

    def over(self, platform: Settings, account_id: int, user_id: int | None) -> Settings:
        """The settings that hold for a user of an account; raises AssertionError when its own were never read."""
        assert account_id in self.read_of, f"the settings of account {account_id} were not read"
        own = self.by_payer or {}
        tiers = [own[key] for key in dict.fromkeys([(account_id, None), (account_id, user_id)]) if key in own]
        return merge([platform, *tiers]) if tiers else platform
