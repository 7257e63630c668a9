"""What accounts and users have set themselves, read together with the clock: no statement more than the clock's own.

An account's settings are read only where its row says that there are any; a value that no longer fits its setting, as
after a change by hand, is passed over.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

from sqlalchemy.orm import Session

from billing.catalog import current
from billing.catalog.snapshot import Moment
from billing.settings import tier_queries
from billing.settings.tier_queries import Own
from config.logging import get_logger
from config.tiers import schemas
from config.tiers.merging import OwnSettings, Setting, Tier
from config.tiers.schemas import SettingRefused

log = get_logger(__name__)

Payer = tuple[int, int | None]
"""An account, and the user of it who asks, if one is named."""


def moment(session: Session, payers: Collection[Payer]) -> Moment:
    """The present instant, the catalogue that holds at it, and the settings of these; a transaction's first statement.

    A setting that was saved a moment ago, by whatever means, is in it.
    """
    accounts = {account_id for account_id, _ in payers}
    users = {user_id for _, user_id in payers if user_id is not None}
    now, version, changed_here, own = tier_queries.clock_version_and_own(session, accounts, users)
    return current.moment_of(session, now, version, changed_here=changed_here, own=_settings(accounts, own))


def _settings(accounts: Collection[int], own: Collection[Own]) -> OwnSettings:
    by_payer: dict[Payer, dict[str, Setting]] = defaultdict(dict)
    for each in own:
        tier = Tier.ACCOUNT if each.user_id is None else Tier.USER
        try:
            schemas.check_name(each.name, tier)
            by_payer[each.account_id, each.user_id][each.name] = Setting(schemas.read(each.name, each.value), tier)
        except SettingRefused as refused:
            log.warning("setting_ignored", account_id=each.account_id, user_id=each.user_id, code=refused.code)
    return OwnSettings(frozenset(accounts), by_payer)
