"""What holds for an account and a user, setting by setting: the value, which tier set it, and since when."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from billing.ledger import accounts
from billing.settings import tier_queries
from config.tiers.merging import Setting, Tier, merge
from config.tiers.naming import NAMES


@dataclass(frozen=True)
class Effective:
    """The settings that hold, by name; and what each tier has set itself, from the platform's to the user's."""

    settings: dict[str, Setting]
    tiers: dict[Tier, dict[str, Setting]]

    def facts(self) -> dict[str, dict[str, Any]]:
        """The same as plain data, in the order in which the settings are documented."""
        return {
            name: vars(self.settings[name]) | {"tier": str(self.settings[name].tier)}
            for name in NAMES
            if name in self.settings
        }


def effective(session: Session, account_id: int | None = None, user_id: int | None = None) -> Effective:
    """What holds for this user of this account, for this account, or with neither for the platform.

    Raises UnknownThing when there is no such account, or no such user of it.
    """
    if account_id is not None:
        accounts.get(session, account_id)
        accounts.check_user(session, account_id, user_id)
    tiers: dict[Tier, dict[str, Setting]] = defaultdict(dict)
    for told in tier_queries.effective(session, account_id, user_id):
        tiers[Tier(told.tier)][told.name] = Setting(told.value, Tier(told.tier), told.since)
    return Effective(merge(tiers[tier] for tier in Tier), dict(tiers))
