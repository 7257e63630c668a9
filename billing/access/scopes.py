"""What a key lets its bearer do. Pure."""

from __future__ import annotations

from collections.abc import Collection

OF_ACCOUNTS = {
    "jobs:write": "submit and cancel jobs, and ask for quotes",
    "jobs:read": "see jobs, their results and receipts",
    "balance:read": "see the balance, the ledger, the usage and the limits",
    "settings:read": "see the settings that hold",
    "settings:write": "change the account's settings and those of its users",
    "webhooks:write": "set up webhooks, and see and replay what they were told",
}
"""The scopes of an account's key, each with what it allows."""
OF_PLATFORM = {
    "admin:read": "see accounts, models, prices, plans and settings",
    "admin:write": "change them",
}
"""The scopes of a platform key, which belongs to no account."""
ALL_OF_PLATFORM = "admin:*"


def expanded(scopes: Collection[str]) -> tuple[str, ...]:
    """The scopes, with `admin:*` as what it stands for; each once, in the order in which they are documented."""
    named = set(scopes) | (set(OF_PLATFORM) if ALL_OF_PLATFORM in scopes else set())
    return tuple(scope for scope in (*OF_ACCOUNTS, *OF_PLATFORM) if scope in named)


def unknown(scopes: Collection[str], *, of_platform: bool) -> list[str]:
    """Those of these scopes that such a key cannot have."""
    known = {*OF_PLATFORM, ALL_OF_PLATFORM} if of_platform else set(OF_ACCOUNTS)
    return [scope for scope in scopes if scope not in known]
