"""Signals as values: a process that is asked to stop notices it where it chooses to look."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Turn SIGTERM, SIGINT and SIGHUP into an event, and restore the former handlers. For the main thread only."""
    event = threading.Event()
    arrivals: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def set_on_arrival() -> None:
        while arrivals.get():
            event.set()

    # A handler must not call Event.set(): the thread it interrupts may be inside Event.wait() and hold the same lock.
    setter = threading.Thread(target=set_on_arrival, name="stop-signals", daemon=True)
    setter.start()
    former = {
        signum: signal.signal(signum, lambda *_: arrivals.put(True))
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    }
    try:
        yield event
    finally:
        for signum, handler in former.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
        arrivals.put(False)
        setter.join()


@contextmanager
def interrupted() -> Iterator[Callable[[], bool]]:
    """Collect Ctrl-C instead of raising it; yield whether it came. Outside the main thread it never does."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came: list[int] = []
    former = signal.signal(signal.SIGINT, lambda signum, _: came.append(signum))
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if former is None else former)
