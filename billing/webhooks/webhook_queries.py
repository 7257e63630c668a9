"""Queries over endpoints and their messages."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from billing.paging import Key
from billing.webhooks.tables import WebhookEndpoint, WebhookMessage


class Due(NamedTuple):
    """A message whose turn it is, as it is sent, and where to; secrets are as they are stored."""

    id: int
    event: str
    data: dict[str, Any]
    created_at: datetime
    # From when on it was tried: when it was created, or replayed.
    since: datetime
    attempts: int
    endpoint_id: UUID
    url: str
    secret_encrypted: str
    former_secret_encrypted: str | None
    former_until: datetime | None


# A message that is being sent is due again when its sender should have answered long ago. Only the first of a subject
# is sent to an endpoint: the others wait until it was delivered, or given up.
_TAKE = text(
    """
    WITH due AS (
        SELECT m.id FROM webhook_messages m
        WHERE m.state = 'pending' AND m.next_at <= :now
          AND NOT EXISTS (SELECT FROM webhook_messages e WHERE e.state = 'pending' AND e.endpoint_id = m.endpoint_id
                          AND e.subject = m.subject AND e.id < m.id)
        ORDER BY m.next_at, m.id LIMIT :limit FOR UPDATE SKIP LOCKED
    ),
    taken AS (
        UPDATE webhook_messages m SET attempts = m.attempts + 1, next_at = :until FROM due
        WHERE m.id = due.id RETURNING m.id, m.event, m.data, m.created_at,
            coalesce(m.replayed_at, m.created_at) AS since, m.attempts, m.endpoint_id
    )
    SELECT t.*, e.url, e.secret_encrypted, e.former_secret_encrypted, e.former_until
    FROM taken t JOIN webhook_endpoints e ON e.id = t.endpoint_id ORDER BY t.id
    """
)


def take(session: Session, *, now: datetime, until: datetime, limit: int) -> list[Due]:
    """Take so many messages whose turn it is; until then, nobody else takes them."""
    return [Due(*row) for row in session.execute(_TAKE, {"now": now, "until": until, "limit": limit})]


def end(session: Session, message: Due, **columns: Any) -> bool:
    """Record what became of this attempt; False when it is no longer the latest one."""
    statement = (
        update(WebhookMessage)
        .where(WebhookMessage.id == message.id, WebhookMessage.state == "pending")
        .where(WebhookMessage.attempts == message.attempts)
        .values(columns)
        .returning(WebhookMessage.id)
    )
    return session.execute(statement, execution_options={"synchronize_session": False}).first() is not None


def add_endpoint(session: Session, **columns: Any) -> WebhookEndpoint:
    """Store a new endpoint."""
    endpoint = WebhookEndpoint(**columns)
    session.add(endpoint)
    session.flush()
    return endpoint


def endpoint(session: Session, endpoint_id: UUID, *, lock: bool = False) -> WebhookEndpoint | None:
    """The endpoint of this id."""
    return session.get(WebhookEndpoint, endpoint_id, with_for_update=lock or None, populate_existing=True)


def endpoints(session: Session, account_id: int | None) -> Sequence[WebhookEndpoint]:
    """The endpoints of an account, or all, the oldest first."""
    statement = select(WebhookEndpoint).order_by(WebhookEndpoint.created_at, WebhookEndpoint.id)
    if account_id is not None:
        statement = statement.where(WebhookEndpoint.account_id == account_id)
    return session.scalars(statement.execution_options(populate_existing=True)).all()


def disable(session: Session, endpoint_id: UUID, reason: str) -> None:
    """Tell this endpoint nothing more; what waits for it is given up."""
    session.execute(
        update(WebhookEndpoint)
        .where(WebhookEndpoint.id == endpoint_id, WebhookEndpoint.disabled_reason.is_(None))
        .values(disabled_reason=reason)
    )
    session.execute(
        update(WebhookMessage)
        .where(WebhookMessage.endpoint_id == endpoint_id, WebhookMessage.state == "pending")
        .values(state="dead", last_error=reason)
    )


def newest(
    session: Session, account_id: int | None, state: str | None, *, after: Key | None, limit: int
) -> Sequence[WebhookMessage]:
    """Messages of an account, or all, in one state or any, the newest first."""
    statement = select(WebhookMessage).order_by(WebhookMessage.id.desc()).limit(limit)
    if account_id is not None:
        statement = statement.where(WebhookMessage.account_id == account_id)
    if state is not None:
        statement = statement.where(WebhookMessage.state == state)
    if after is not None:
        statement = statement.where(WebhookMessage.id < after[0])
    return session.scalars(statement.execution_options(populate_existing=True)).all()


def replay(session: Session, message_id: int, *, account_id: int | None, now: datetime) -> bool:
    """Have a message delivered (again); False when there is none of that number, or of that account."""
    statement = update(WebhookMessage).where(WebhookMessage.id == message_id)
    if account_id is not None:
        statement = statement.where(WebhookMessage.account_id == account_id)
    again = {"state": "pending", "delivered_at": None, "next_at": now, "attempts": 0, "replayed_at": now}
    found = session.execute(
        statement.values(again).returning(WebhookMessage.id),
        execution_options={"synchronize_session": False},
    )
    return found.first() is not None


def remove(session: Session, endpoint_id: UUID) -> None:
    """Remove an endpoint, and what was to be told to it."""
    found = endpoint(session, endpoint_id)
    if found is not None:
        session.delete(found)
        session.flush()


def standing(session: Session, *, now: datetime) -> tuple[bool, int]:
    """Whether there is an endpoint, and how many messages are due, 1,000 at most."""
    there_are_any, due = session.execute(
        text(
            "SELECT EXISTS (SELECT FROM webhook_endpoints WHERE disabled_reason IS NULL), (SELECT count(*) FROM "
            "(SELECT FROM webhook_messages WHERE state = 'pending' AND next_at <= :now LIMIT 1000) due)"
        ),
        {"now": now},
    ).one()
    return there_are_any, due


def waiting(session: Session, *, now: datetime, longer_than: timedelta) -> tuple[int, int]:
    """How many messages wait for longer than that, and how many were given up."""
    late, dead = session.execute(
        text(
            "SELECT count(*) FILTER (WHERE state = 'pending' AND created_at < :before), "
            "count(*) FILTER (WHERE state = 'dead') FROM webhook_messages WHERE state IN ('pending', 'dead')"
        ),
        {"before": now - longer_than},
    ).one()
    return late, dead
