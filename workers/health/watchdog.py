"""Ends a worker that is connected and takes no messages, so that its supervisor starts another.

Celery's consumer has stalled after a reconnection more than once (celery issues 8030, 8091, 10205): alive, answering
pings, deaf. What tells is the queue: messages wait in it, this worker has room, and none arrives for a minute.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence

import redis
from celery.worker import state as worker_state

from config.broker import broker_client
from config.logging import get_logger
from tasks.messages.consumer import received_count
from workers.health.broker import messages_by_queue

LOOK_EVERY_SHARE = 0.1
LONGEST_SLEEP = 5
"""The time between two looks, in pauses of the watchdog, beyond which the process must have been suspended."""
EXIT_CODE = 70
"""The exit code of a worker that would not stop in time (EX_SOFTWARE)."""

log = get_logger(__name__)


class Watchdog:
    """Watches one worker's queues from a thread; `room` is how many messages it works on at once.

    `stalled_after_s` and `stop_within_s` are seconds: without a message, and from SIGTERM to a hard end.
    """

    def __init__(
        self,
        broker_url: str,
        queues: Sequence[str],
        *,
        room: int,
        stalled_after_s: float,
        stop_within_s: float,
        stop: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGTERM),
    ) -> None:
        self._client = broker_client(broker_url)
        self._queues = queues
        self._room = room
        self._stalled_after_s = stalled_after_s
        self._stop_within_s = stop_within_s
        self._stop = stop
        self._well_at = self._looked_at = time.monotonic()
        self._received = -1

    def start(self) -> None:
        """Watch from now on, in a thread of its own: the worker's own loop may be what has stalled."""
        self._well_at = self._looked_at = time.monotonic()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def look(self, now: float) -> bool:
        """Look once, at this time of the monotonic clock; False when the worker has been stalled for too long."""
        received = received_count()
        # A process that was suspended, with all its threads, had no time to receive anything.
        slept = now - self._looked_at > LONGEST_SLEEP * self._stalled_after_s * LOOK_EVERY_SHARE
        self._looked_at = now
        if received != self._received or slept or _is_stopping() or self._is_busy() or not self._messages_wait():
            self._received, self._well_at = received, now
        return now - self._well_at < self._stalled_after_s

    def _watch(self) -> None:
        while self.look(time.monotonic()):
            time.sleep(self._stalled_after_s * LOOK_EVERY_SHARE)
        log.error(
            "worker_stalled", queues=list(self._queues), for_s=self._stalled_after_s, hint="it stops, to be restarted"
        )
        self._stop()
        time.sleep(self._stop_within_s)
        log.error("worker_ended", hint="it did not stop by itself")
        os._exit(EXIT_CODE)

    def _is_busy(self) -> bool:
        return len(worker_state.reserved_requests) >= self._room

    def _messages_wait(self) -> bool:
        try:
            return any(messages_by_queue(self._client, self._queues).values())
        except redis.RedisError:
            # The broker is away: that is no fault of the worker's, and it reconnects by itself.
            return False


def _is_stopping() -> bool:
    """Whether the worker was told to stop: it takes no messages any more, and finishes what it has."""
    # An exit code of 0 tells it to stop, too.
    told = (worker_state.should_stop, worker_state.should_terminate)
    return any(each is not None and each is not False for each in told)
