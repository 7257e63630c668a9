"""Setting aside what cannot be worked on: kept encrypted where an operator finds it, logged by its id, counted."""

from __future__ import annotations

import json
from uuid import UUID

from billing.upkeep import dead_letters
from config.database import DATABASE_TROUBLE, transaction
from config.logging import get_logger

log = get_logger(__name__)


def set_aside(
    *, message_id: str | None, task_name: object, code: str, reason: str, body: object, job_id: UUID | None = None
) -> bool:
    """Keep a message that cannot be worked on where an operator finds it, and log it by its id.

    Returns False, with a warning in the log, while the database is away.
    """
    known_as = None if message_id is None else _name(message_id)
    name = _name(task_name) if isinstance(task_name, str) else None
    try:
        with transaction() as session:
            dead_letters.set_aside(
                session,
                message_id=known_as,
                task_name=name,
                code=code,
                reason=reason,
                body=as_text(body),
                job_id=job_id,
            )
    except DATABASE_TROUBLE as error:
        log.warning("message_not_set_aside", message_id=known_as, code=code, error=type(error).__name__)
        return False
    log.warning("message_set_aside", message_id=known_as, task_name=name, code=code, job_id=str(job_id or ""))
    return True


def as_text(body: object) -> str:
    """A message's body, of whatever type, as text that can be kept."""
    if isinstance(body, bytes):
        text = body.decode(errors="replace")
    else:
        text = body if isinstance(body, str) else json.dumps(body, default=_as_word, ensure_ascii=False)
    return text.encode("utf-8", "replace").decode()


def _as_word(value: object) -> str:
    # An id reads like the text that it could have been: a request is worked on later by what is kept of it.
    return str(value) if isinstance(value, UUID) else repr(value)


def _name(given: str) -> str:
    """An id or a task's name as it can be kept and logged: one printable line of 200 letters at most."""
    return "".join(letter if letter.isprintable() else "?" for letter in given[:200])
