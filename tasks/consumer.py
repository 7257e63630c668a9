"""The consumer of every worker: Celery's, except that a message which cannot be read is set aside, never printed.

Celery's own handlers write the whole body to the log; an app's message may hold a prompt, and a line in a log is not a
place where an operator can do something about it.
"""

from __future__ import annotations

import hashlib
from typing import Any

import structlog
from celery.worker.consumer import Consumer

from tasks import intake
from tasks.app import DATABASE_TROUBLE

log = structlog.get_logger(__name__)


class CarefulConsumer(Consumer):
    """Sets aside what it cannot read, with a code; the queue goes on."""

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """The body is not what its content type says."""
        self._set_aside(message, "undecodable", f"The message's body could not be decoded ({type(exc).__name__}).")

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """The message is not a Celery task message."""
        self._set_aside(message, "not_a_task", "The message is not a Celery task message.")

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """The message names a task that does not exist here."""
        self._set_aside(message, "unknown_task", "The message names a task that does not exist.")

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """The task message's own fields are wrong."""
        self._set_aside(message, "invalid_task", f"The task message is not valid ({type(exc).__name__}).")

    def _set_aside(self, message: Any, code: str, reason: str) -> None:
        raw = message.body if isinstance(message.body, str) else bytes(message.body or b"").decode(errors="replace")
        headers = message.headers if isinstance(message.headers, dict) else {}
        name = headers.get("task")
        try:
            intake.set_aside(
                # A message without an id of its own is known by what it says.
                message_id=str(headers.get("id") or hashlib.sha256(raw.encode()).hexdigest())[:200],
                task_name=name if isinstance(name, str) and name.isprintable() else None,
                code=code,
                reason=reason,
                body=raw,
            )
        except DATABASE_TROUBLE as error:
            # Not acknowledged: the broker delivers it again when the visibility timeout has passed.
            log.warning("message_not_set_aside", code=code, error=type(error).__name__)
            return
        message.ack_log_error(log, self.connection_errors)
