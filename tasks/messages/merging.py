"""Merging hints: of those that this process has received, one at a time is worked on, and it may answer for the others.

A worker that is busy receives hints faster than it can take what they tell of. One take answers for each hint that was
received before it began, if it left nothing behind; the others are worked on after it, one by one.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from config.logging import get_logger
from tasks.messages.takes import complete_since

PAUSE_S = 0.05
"""From the beginning of one hint's work to that of the next, in seconds, unless jobs were left behind: a busy worker
takes more jobs at a time."""
PATIENCE_S = 30.0
"""A hint that is worked on for longer than this holds up no other, in seconds: it may never be acknowledged."""
HINT = "generation.check_balance"

log = get_logger(__name__)


def is_mergeable(message: Any) -> bool:
    """Whether this message is a hint like any other: not for a later time, for jobs alone, or delivered again."""
    headers = message.headers if isinstance(message.headers, dict) else {}
    if headers.get("task") != HINT or headers.get("eta") is not None:
        return False
    args, kwargs, _ = message.payload
    # What is not of a hint's form goes its own way, and is set aside.
    is_formed = not kwargs and len(args) == 1 and isinstance(args[0], list)
    return is_formed and not (message.delivery_info or {}).get("redelivered")


class Merging:
    """The hints of one consumer: the one that is worked on, and those that wait for what it brings.

    `handle` has a message worked on; `later` has something done after so many seconds; `errors` are those of a broken
    connection, over which a hint cannot be acknowledged and comes again.
    """

    def __init__(
        self,
        handle: Callable[[Any], None],
        later: Callable[[float, Callable[[], None]], Any],
        errors: tuple[type[BaseException], ...],
    ) -> None:
        self._handle = handle
        self._later = later
        self._errors = errors
        self._waiting: deque[Any] = deque()
        self._is_busy = False
        self._began = 0.0

    def receive(self, message: Any) -> None:
        """Work on this hint, or let it wait for the one that is worked on."""
        self._waiting.append(message)
        if not self._is_busy or time.monotonic() - self._began > PATIENCE_S:
            self._is_busy = True
            self._begin()

    def _begin_after_pause(self) -> None:
        wait = self._began + PAUSE_S - time.monotonic()
        left_none_behind = complete_since() >= self._began
        if wait > 0 and left_none_behind:
            self._later(wait, self._begin)
        else:
            self._begin()

    def _begin(self) -> None:
        if not self._waiting:
            # One that was given up for lost has ended after all, and what waited was begun since.
            return
        self._began = time.monotonic()
        message = self._waiting.popleft()
        # However its work ends, the message is acknowledged or rejected then.
        message.ack_log_error = self._then_end(message.ack_log_error)
        message.reject_log_error = self._then_end(message.reject_log_error)
        try:
            self._handle(message)
        except BaseException:
            self._end()
            raise

    def _then_end(self, act: Callable[..., Any]) -> Callable[..., Any]:
        def act_and_end(*args: Any, **given: Any) -> Any:
            try:
                return act(*args, **given)
            finally:
                self._end()

        return act_and_end

    def _end(self) -> None:
        """Acknowledge the hints that a complete take has answered for; work on the next of the others."""
        answered = complete_since()
        others = [each for each in self._waiting if each.headers["received_at"] >= answered]
        for message in self._waiting:
            if message.headers["received_at"] < answered:
                message.ack_log_error(log, self._errors)
        self._waiting = deque(others)
        if self._waiting:
            self._begin_after_pause()
        else:
            self._is_busy = False
