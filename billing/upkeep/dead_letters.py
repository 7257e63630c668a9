"""Messages that cannot be worked on, set aside with their reason. Their bodies may hold prompts, and are encrypted."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Session

from billing.errors import UnknownThing
from billing.paging import Listing, Page
from billing.upkeep import dead_letter_queries
from billing.upkeep.tables import DeadMessage
from config.secrets import decrypt, encrypt, is_of_first_key
from config.settings import ConfigurationError

MESSAGES = Listing("messages", (int,))
"""Messages that are set aside, the newest first, by number."""
BODY_MAX_CHARACTERS = 1_100_000
"""A request has 1,000,000 bytes at most, and is kept whole, so that it can be worked on after all."""
PLACE = "dead_messages/body_encrypted"
"""What a body is encrypted for: nowhere else it decrypts, as where keys are kept."""


@dataclass(frozen=True)
class DeadLetter:
    """A message that was set aside, with the reason and without its body."""

    id: int
    created_at: datetime
    task_name: str | None
    code: str
    reason: str
    job_id: UUID | None
    times_seen: int


@dataclass(frozen=True)
class Kept:
    """A message that was set aside, with its body; `body` is None once it is no longer kept."""

    id: int
    message_id: str | None
    task_name: str | None
    body: str | None = field(repr=False)


def set_aside(
    session: Session,
    *,
    message_id: str | None,
    task_name: str | None,
    code: str,
    reason: str,
    body: str,
    job_id: UUID | None = None,
) -> None:
    """Keep a message that cannot be worked on; a repeat of it is counted, not kept twice."""
    dead_letter_queries.keep(
        session,
        {
            "message_id": message_id,
            "job_id": job_id,
            "task_name": (task_name or "")[:200] or None,
            "code": code,
            "reason": reason,
            "body_encrypted": encrypt(body[:BODY_MAX_CHARACTERS], PLACE),
        },
    )


def of_job(session: Session, job_id: UUID) -> DeadLetter | None:
    """The message that asked for this job, if it was set aside."""
    found = dead_letter_queries.of_job(session, job_id)
    return None if found is None else _letter(found)


def count(session: Session) -> int:
    """How many messages are set aside."""
    return dead_letter_queries.count(session)


def newest(session: Session, *, limit: int, after: str | None = None) -> Page[DeadLetter]:
    """A page of the messages that are set aside, the newest first; `after` is the cursor of the page before.

    Raises InvalidRequest for any other cursor.
    """
    found = dead_letter_queries.newest(session, after=MESSAGES.key(after), limit=limit + 1)
    return MESSAGES.page([_letter(row) for row in found], limit, lambda letter: (letter.id,))


def open_letter(session: Session, dead_id: int) -> Kept:
    """The message of this number with its body; raises UnknownThing when there is none.

    Raises ConfigurationError when this process lacks the key that it was encrypted with.
    """
    found = dead_letter_queries.find(session, dead_id)
    if found is None:
        raise UnknownThing("dead message", dead_id)
    body = None if found.body_encrypted is None else decrypt(found.body_encrypted, PLACE)
    return Kept(found.id, found.message_id, found.task_name, body)


def rotate(session: Session) -> tuple[int, int]:
    """Encrypt with the first secret key whatever an older one encrypted; returns how many bodies, and how many failed.

    What no key of this process decrypts stays as it is.
    """
    rotated = failed = 0
    for dead_id, token in dead_letter_queries.bodies(session):
        if not is_of_first_key(token):
            try:
                dead_letter_queries.replace_body(session, dead_id, encrypt(decrypt(token, PLACE), PLACE))
                rotated += 1
            except ConfigurationError:
                failed += 1
    return rotated, failed


def mark_redriven(session: Session, dead_id: int, *, now: datetime) -> None:
    """Record that a message was worked on after all; the row stays as evidence, its body is deleted."""
    dead_letter_queries.mark_redriven(session, dead_id, now=now)


def _letter(row: DeadMessage) -> DeadLetter:
    return DeadLetter(
        id=row.id,
        created_at=row.created_at,
        task_name=row.task_name,
        code=row.code,
        reason=row.reason,
        job_id=row.job_id,
        times_seen=row.times_seen,
    )
