"""Queries over API keys."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, select, text, update
from sqlalchemy.orm import Session

from billing.access.tables import ApiKey
from billing.paging import Key

USED_AGAIN = timedelta(minutes=1)
"""How much later a key's next use is noted: each note is a write."""

# One statement: who it is, and that it was here.
_FIND = text(
    """
    WITH found AS (
        SELECT k.*, clock_timestamp() AS now FROM api_keys k WHERE k.key_hash = :key_hash
    ),
    noted AS (
        UPDATE api_keys k SET last_used_at = f.now FROM found f
        WHERE k.id = f.id AND f.revoked_at IS NULL AND (f.expires_at IS NULL OR f.expires_at > f.now)
          AND (f.last_used_at IS NULL OR f.last_used_at < f.now - CAST(:again AS interval))
    )
    SELECT f.id, f.account_id, f.user_id, f.kind, f.scopes, f.revoked_at, f.expires_at <= f.now AS expired,
           (SELECT simulated FROM global_integration_settings) AS simulated
    FROM found f
    """
)


def add(session: Session, **columns: Any) -> ApiKey:
    """Store a new key."""
    key = ApiKey(**columns)
    session.add(key)
    session.flush()
    return key


def find(session: Session, key_id: int, *, lock: bool = False) -> ApiKey | None:
    """The key of this id."""
    return session.get(ApiKey, key_id, with_for_update=lock or None, populate_existing=True)


def find_many(session: Session, key_ids: Collection[int]) -> dict[int, ApiKey]:
    """The keys of these ids."""
    if not key_ids:
        return {}
    return {key.id: key for key in session.scalars(select(ApiKey).where(ApiKey.id.in_(sorted(key_ids))))}


def presented(session: Session | Connection, key_hash: str) -> Row[Any] | None:
    """The key of this hash, and whether it expired by the database's clock; its use is noted if it may be used."""
    return session.execute(_FIND, {"key_hash": key_hash, "again": USED_AGAIN}).one_or_none()


def newest(session: Session, account_id: int | None, *, after: Key | None, limit: int) -> Sequence[ApiKey]:
    """Keys of an account, or of all, the newest first."""
    statement = select(ApiKey).order_by(ApiKey.id.desc()).limit(limit)
    if account_id is not None:
        statement = statement.where(ApiKey.account_id == account_id)
    if after is not None:
        statement = statement.where(ApiKey.id < after[0])
    return session.scalars(statement.execution_options(populate_existing=True)).all()


def revoke(session: Session, key_id: int, *, now: datetime) -> bool:
    """Revoke a key; False when it was revoked before."""
    statement = update(ApiKey).where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None)).values(revoked_at=now)
    return session.execute(statement.returning(ApiKey.id)).first() is not None


def expire(session: Session, key_id: int, *, at: datetime) -> None:
    """Let a key expire at this instant, unless it does so earlier."""
    statement = update(ApiKey).where(ApiKey.id == key_id)
    statement = statement.where(ApiKey.expires_at.is_(None) | (ApiKey.expires_at > at)).values(expires_at=at)
    session.execute(statement)
