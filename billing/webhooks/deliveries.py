"""Delivering: what is due is taken, sent by the caller, its outcome recorded; failures are tried again for days."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from billing.errors import UnknownThing
from billing.paging import Listing, Page
from billing.webhooks import webhook_queries
from billing.webhooks.endpoints import place
from billing.webhooks.events import TRIED_FOR, pause
from billing.webhooks.webhook_queries import Due
from config.secrets import decrypt

MESSAGES = Listing("webhook messages", (int,))
"""Messages, the newest first, by number."""
GONE = 410
"""An endpoint that answers so wants to be told nothing more."""
LATE = timedelta(minutes=15)


@dataclass(frozen=True)
class Outgoing:
    """A message as it is sent: where to, its number, its body, and the secrets that sign it."""

    due: Due
    body: str
    secrets: tuple[str, ...] = field(repr=False)

    @property
    def message_id(self) -> str:
        """By what a receiver knows a message that comes again."""
        return f"msg_{self.due.id}"


@dataclass(frozen=True)
class Answer:
    """What an endpoint answered: its status, or the error that stood in the way, in a word or two."""

    status: int | None = None
    error: str | None = None

    @property
    def is_fine(self) -> bool:
        """Whether the endpoint has taken the message."""
        return self.status is not None and 200 <= self.status < 300


@dataclass(frozen=True)
class MessageView:
    """A message as it is shown, and how far its delivery has come."""

    id: int
    endpoint_id: UUID
    account_id: int
    event: str
    subject: str
    state: str
    attempts: int
    created_at: datetime
    next_at: datetime | None
    delivered_at: datetime | None
    last_status: int | None
    last_error: str | None


def take(session: Session, *, now: datetime, within: timedelta, limit: int) -> list[Outgoing]:
    """Take so many messages whose turn it is, to be sent within that time; afterwards they are due again."""
    taken = webhook_queries.take(session, now=now, until=now + within, limit=limit)
    return [Outgoing(due, _body(due), _secrets(due, now)) for due in taken]


def record(session: Session, outgoing: Outgoing, answer: Answer, *, now: datetime, chance: float) -> str:
    """Record what became of an attempt; returns delivered, pending, dead, or late for one that took too long."""
    due = outgoing.due
    told: dict[str, Any] = {"last_status": answer.status, "last_error": answer.error}
    if answer.is_fine:
        told |= {"state": "delivered", "delivered_at": now}
    elif answer.status == GONE:
        webhook_queries.disable(session, due.endpoint_id, "it answered 410 Gone")
        return "dead"
    elif now - due.since >= TRIED_FOR:
        told |= {"state": "dead"}
    else:
        told |= {"next_at": now + pause(due.attempts, chance)}
    if not webhook_queries.end(session, due, **told):
        return "late"
    return str(told.get("state", "pending"))


def newest(
    session: Session, *, account_id: int | None, state: str | None, limit: int, after: str | None = None
) -> Page[MessageView]:
    """A page of messages, the newest first; `after` is the cursor of the page before."""
    found = webhook_queries.newest(session, account_id, state, after=MESSAGES.key(after), limit=limit + 1)
    views = [
        MessageView(
            **{name: getattr(row, name) for name in MessageView.__dataclass_fields__ if name != "next_at"},
            next_at=row.next_at if row.state == "pending" else None,
        )
        for row in found
    ]
    return MESSAGES.page(views, limit, lambda row: (row.id,))


def replay(session: Session, message_id: int, *, account_id: int | None = None, now: datetime) -> None:
    """Have a message delivered (again), under the same number; raises UnknownThing."""
    if not webhook_queries.replay(session, message_id, account_id=account_id, now=now):
        raise UnknownThing("message", message_id)


def standing(session: Session, *, now: datetime) -> tuple[bool, int]:
    """Whether any account is told anything, and how many messages are due, 1,000 at most."""
    return webhook_queries.standing(session, now=now)


def late_and_dead(session: Session, *, now: datetime) -> tuple[int, int]:
    """How many messages wait for long, and how many were given up."""
    return webhook_queries.waiting(session, now=now, longer_than=LATE)


def _body(due: Due) -> str:
    created_at = due.created_at.astimezone(UTC)
    whole: Mapping[str, Any] = {
        "id": f"evt_{due.id}",
        "object": "event",
        "type": due.event,
        "timestamp": created_at.isoformat().replace("+00:00", "Z"),
        "created_at": int(created_at.timestamp()),
        "data": due.data,
    }
    return json.dumps(whole, separators=(",", ":"), ensure_ascii=False)


def _secrets(due: Due, now: datetime) -> tuple[str, ...]:
    tokens = [due.secret_encrypted]
    if due.former_secret_encrypted is not None and due.former_until is not None and due.former_until > now:
        tokens.append(due.former_secret_encrypted)
    return tuple(decrypt(token, place(due.endpoint_id)) for token in tokens)
