"""The consumer of every worker: Celery's, except that a message which cannot be worked on is set aside, never printed.

Celery's own handlers write the whole body to the log: an app's message may hold a prompt, and an operator cannot act on
a line in a log. Messages of some shapes even end Celery's worker, and then the next one: here no message does.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

from celery.exceptions import InvalidTaskError
from celery.worker.consumer import Consumer
from kombu.exceptions import DecodeError

from config.database import utc_now
from config.logging import get_logger
from tasks.messages import intake, setting_aside
from tasks.messages.merging import Merging, is_mergeable

LIMIT_MIN_S = 60
ETA_MAX = timedelta(minutes=5)
ID_MAX = 150
"""Letters of a message id; Celery's own have 36."""

log = get_logger(__name__)
_received = 0


def received_count() -> int:
    """How many messages this process has received, whatever became of them."""
    return _received


def _count_one() -> None:
    # Only the consumer's own loop calls this.
    global _received
    _received += 1


class CarefulConsumer(Consumer):
    """Sets aside what it cannot work on, with a code; the queue goes on."""

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Any], None]:
        """Celery's handler of a received message, between a check of its shape and a net under it."""
        handle = super().create_task_handler(*args, **options)

        def handle_received(message: Any) -> None:
            _count_one()
            handle_carefully(message, receive)

        def receive(message: Any) -> None:
            check_shape(message)
            # By this machine's own clock, whatever the message itself says of it.
            message.headers["received_at"] = time.monotonic()
            if is_mergeable(message):
                hints.receive(message)
            elif intake.is_in_time(message, now=utc_now()):
                handle(message)
            else:
                self._set_aside_late(message)

        def handle_carefully(message: Any, work: Callable[[Any], None]) -> None:
            try:
                work(message)
            except DecodeError as error:
                self.on_decode_error(message, error)
            except KeyError as error:
                # Kombu takes every KeyError for a broken connection; here it is a field that the message lacks.
                self._set_aside(message, "invalid_task", f"The task message is not valid ({type(error).__name__}).")
            except self.connection_errors:
                # The broker is gone, which is no fault of the message: Celery reconnects.
                raise
            except Exception as error:  # noqa: BLE001 - whatever a message makes Celery raise, the worker goes on
                self._set_aside(message, "invalid_task", f"The task message is not valid ({type(error).__name__}).")

        hints = Merging(
            lambda message: handle_carefully(message, handle), self.timer.call_after, self.connection_errors
        )
        return handle_received

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

    def _set_aside_late(self, message: Any) -> None:
        # Celery would drop it with a line in the log: only this message holds the request.
        reason = "The request came too late: its message had expired before a worker took it."
        self._set_aside(message, "expired", reason, job_id=intake.job_id_of(message.payload[1]))

    def _set_aside(self, message: Any, code: str, reason: str, *, job_id: UUID | None = None) -> None:
        headers = message.headers if isinstance(message.headers, dict) else {}
        kept = setting_aside.set_aside(
            message_id=name_of(message.body, headers.get("id")),
            task_name=headers.get("task"),
            code=code,
            reason=reason,
            body=message.body,
            job_id=job_id,
        )
        if kept:
            message.ack_log_error(log, self.connection_errors)
        # Else it is not acknowledged: the broker delivers it again when the visibility timeout has passed.


def check_shape(message: Any) -> None:
    """Refuse a task message without a usable id, or whose body is not (arguments, keyword arguments, options).

    Celery's worker would end over it, or hand it to a child that fails and leaves only a line in the log. Raises
    InvalidTaskError.
    """
    if not isinstance(message.headers, dict) or "task" not in message.headers:
        return
    if str(message.headers["task"]).startswith("celery."):
        # Celery's built-in tasks are for its own canvas; ours uses none of them, and one logs its arguments.
        raise InvalidTaskError("a task of Celery's own")
    given = message.headers.get("id")
    if not isinstance(given, str) or not given.isprintable() or not 1 <= len(given) <= ID_MAX:
        raise InvalidTaskError("the id is missing, or no id")
    if any(not _is_limit(limit) for limit in message.headers.get("timelimit") or ()):
        raise InvalidTaskError("the time limits are too short, or none")
    if _is_far(message.headers.get("eta")):
        raise InvalidTaskError("the time of execution is too far away")
    if message.content_type != "application/json":
        # Not decoded here: what is not JSON is refused by Celery, with its own code.
        return
    payload = message.payload
    if not isinstance(payload, list) or [type(part) for part in payload] != [list, dict, dict]:
        raise InvalidTaskError("the body is not arguments, keyword arguments and options")


def _is_limit(limit: object) -> bool:
    # Our own steps carry celeryconfig's limits; an app could send limits that end the task, or the worker, at once.
    return limit is None or (type(limit) in (int, float) and limit >= LIMIT_MIN_S)  # type: ignore[operator]


def _is_far(eta: object) -> bool:
    # A worker holds what is not due yet: a hundred messages for the next millennium would stop it. Ours wait a minute.
    if eta is None:
        return False
    return intake.instant(eta) > utc_now() + ETA_MAX


def name_of(body: Any, given: object) -> str:
    """The name that a message is kept under: the id that it was given, or else a digest of its body."""
    if isinstance(given, str) and given:
        return given
    return hashlib.sha256(setting_aside.as_text(body).encode()).hexdigest()
