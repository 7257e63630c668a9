"""API keys: made and shown once, listed, rotated, revoked; and who it is that presents one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from billing.access import key_format, key_queries
from billing.access.scopes import OF_ACCOUNTS, OF_PLATFORM, expanded, unknown
from billing.access.tables import ApiKey
from billing.errors import BillingError, InvalidRequest, UnknownThing
from billing.ledger import accounts
from billing.money import CREDITS_MAX
from billing.paging import Listing, Page
from config import integrations

KEYS = Listing("keys", (int,))
"""Keys, the newest first, by id."""
NAME_MAX = 100


class KeyRefused(BillingError):
    """No key was presented, or one that may not be used (any more)."""

    code = "invalid_key"


class ScopeMissing(BillingError):
    """The key does not allow this."""

    code = "scope_missing"

    def __init__(self, scope: str) -> None:
        super().__init__(f"This key has not the scope {scope}.")
        self.scope = scope

    def facts(self) -> dict[str, object]:
        """The scope that is needed."""
        return {"scope": self.scope}


@dataclass(frozen=True)
class Bearer:
    """Who presents a key: which key it is, whose, and what it allows. A platform key has no account."""

    key_id: int
    account_id: int | None
    user_id: int | None
    scopes: frozenset[str]

    def require(self, scope: str) -> None:
        """Raise ScopeMissing unless the key allows this."""
        if scope not in self.scopes:
            raise ScopeMissing(scope)


@dataclass(frozen=True)
class KeyView:
    """A key as it may be shown; credits are whole. `state` is active, expired or revoked."""

    id: int
    account_id: int | None
    user_id: int | None
    name: str
    begins_with: str
    ends_with: str
    scopes: tuple[str, ...]
    state: str
    credit_cap: int | None
    credits_held: int
    credits_used: int
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True)
class NewKey:
    """A key that was just made, the only time that it is told."""

    key: str
    view: KeyView


def create(
    session: Session,
    account_id: int | None,
    *,
    actor: str,
    now: datetime,
    user_id: int | None = None,
    name: str = "",
    scopes: Collection[str] = (),
    expires_at: datetime | None = None,
    credit_cap: int | None = None,
) -> NewKey:
    """Make a key of an account, of one of its users, or, without an account, of the platform.

    Without scopes it gets all that such a key can have. Raises UnknownThing, and InvalidRequest.
    """
    if account_id is not None:
        accounts.get(session, account_id)
        accounts.check_user(session, account_id, user_id)
    elif user_id is not None or credit_cap is not None:
        raise InvalidRequest("A platform key has neither a user nor a cap.", code="invalid_key_options")
    _check(name, scopes, expires_at, credit_cap, of_platform=account_id is None, now=now)
    allowed = expanded(scopes or (OF_PLATFORM if account_id is None else OF_ACCOUNTS))
    key, row = _add(
        session,
        account_id=account_id,
        user_id=user_id,
        name=name,
        scopes=list(allowed),
        credit_cap=credit_cap,
        created_at=now,
        created_by=actor,
        expires_at=expires_at,
    )
    return NewKey(key, _views(session, [row], now)[0])


def rotate(session: Session, key_id: int, *, overlap: timedelta, actor: str, now: datetime) -> NewKey:
    """Make a key that allows the same, and let the old one expire after `overlap`, so that apps can change over.

    Both share the old one's cap. Raises UnknownThing, and InvalidRequest for a key that is not active.
    """
    old = key_queries.find(session, key_id, lock=True)
    if old is None:
        raise UnknownThing("key", key_id)
    if _state(old, now) != "active":
        raise InvalidRequest(f"Key {key_id} is {_state(old, now)}: create a new one.", code="key_not_active")
    cap_of = old.cap_of if old.credit_cap is None else old.id
    same = {name: getattr(old, name) for name in ("account_id", "user_id", "name")}
    key, row = _add(session, **same, scopes=old.scopes, cap_of=cap_of, created_at=now, created_by=actor)
    key_queries.expire(session, key_id, at=now + overlap)
    return NewKey(key, _views(session, [row], now)[0])


def revoke(session: Session, key_id: int, *, now: datetime) -> bool:
    """End a key at once; False when it was revoked before. Raises UnknownThing."""
    if key_queries.find(session, key_id) is None:
        raise UnknownThing("key", key_id)
    return key_queries.revoke(session, key_id, now=now)


def newest(
    session: Session, *, account_id: int | None = None, now: datetime, limit: int, after: str | None = None
) -> Page[KeyView]:
    """A page of the keys of an account, or of all, the newest first; `after` is the cursor of the page before.

    Raises UnknownThing, and InvalidRequest for any other cursor.
    """
    if account_id is not None:
        accounts.get(session, account_id)
    found = key_queries.newest(session, account_id, after=KEYS.key(after), limit=limit + 1)
    return KEYS.page(_views(session, found, now), limit, lambda key: (key.id,))


def cap(session: Session, key_id: int) -> tuple[int, int, int] | None:
    """The cap that a key counts against, and what of it is held and used, in credits; None without a cap."""
    key = key_queries.find(session, key_id)
    if key is not None and key.cap_of is not None:
        key = key_queries.find(session, key.cap_of)
    return None if key is None or key.credit_cap is None else (key.credit_cap, key.credits_held, key.credits_used)


def bearer(session: Session | Connection, key: str) -> Bearer:
    """Who presents this key; raises KeyRefused, in whose message nothing of it stands."""
    kind = key_format.kind_of(key)
    if kind is None:
        raise KeyRefused("That is no API key: check that it was copied whole.")
    found = key_queries.presented(session, key_format.digest(key))
    if found is None:
        raise KeyRefused("There is no such API key.")
    if found.revoked_at is not None:
        raise KeyRefused("This API key was revoked.")
    if found.expired:
        raise KeyRefused("This API key has expired.")
    if (kind == key_format.TEST) is not found.simulated:
        raise KeyRefused(
            "This is a test key, and here the providers are real."
            if kind == key_format.TEST
            else "This is a live key, and here the simulator stands in for the providers."
        )
    return Bearer(found.id, found.account_id, found.user_id, frozenset(found.scopes))


def _add(session: Session, **columns: Any) -> tuple[str, ApiKey]:
    """Make a key of the kind that fits this installation, and store what may be stored of it."""
    kind = key_format.TEST if integrations.platform_settings(session).simulated else key_format.LIVE
    key = key_format.new_key(kind)
    begins_with, ends_with = key_format.shown(key)
    stored = {"kind": kind, "key_hash": key_format.digest(key), "begins_with": begins_with, "ends_with": ends_with}
    return key, key_queries.add(session, **columns, **stored)


def _check(
    name: str,
    scopes: Collection[str],
    expires_at: datetime | None,
    credit_cap: int | None,
    *,
    of_platform: bool,
    now: datetime,
) -> None:
    if not name.isprintable() or len(name) > NAME_MAX:
        raise InvalidRequest(f"A key's name has {NAME_MAX} printable characters at most.", code="invalid_name")
    if wrong := unknown(scopes, of_platform=of_platform):
        known = OF_PLATFORM if of_platform else OF_ACCOUNTS
        raise InvalidRequest(
            f"Such a key cannot have the scope {wrong[0][:40]!r}. Known: {', '.join(known)}.", code="unknown_scope"
        )
    if expires_at is not None and expires_at <= now:
        raise InvalidRequest("A key expires in the future.", code="invalid_expiry")
    if credit_cap is not None and not 1 <= credit_cap <= CREDITS_MAX:
        raise InvalidRequest(f"A cap is of 1 to {CREDITS_MAX} credits.", code="invalid_amount")


def _state(key: ApiKey, now: datetime) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= now else "active"


def _views(session: Session, keys: Sequence[ApiKey], now: datetime) -> list[KeyView]:
    capped = key_queries.find_many(session, {key.cap_of for key in keys if key.cap_of is not None})
    return [_view(key, capped.get(key.cap_of or 0, key), now) for key in keys]


def _view(key: ApiKey, capped: ApiKey, now: datetime) -> KeyView:
    return KeyView(
        id=key.id,
        account_id=key.account_id,
        user_id=key.user_id,
        name=key.name,
        begins_with=key.begins_with,
        ends_with=key.ends_with,
        scopes=tuple(key.scopes),
        state=_state(key, now),
        credit_cap=capped.credit_cap,
        credits_held=capped.credits_held or 0,
        credits_used=capped.credits_used or 0,
        created_at=key.created_at,
        created_by=key.created_by,
        expires_at=key.expires_at,
        last_used_at=key.last_used_at,
    )
