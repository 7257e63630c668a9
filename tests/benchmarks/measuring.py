"""What processes cost: the time that they computed, and the memory that they held at their peak."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import psutil

MEASURE_EVERY_S = 0.3


def cpu_seconds(pids: Sequence[int]) -> float:
    """The time that these processes and their children have computed, also those children that have ended."""
    total = 0.0
    for process in _with_children(pids):
        try:
            total += sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return total


def memory_mb(pids: Sequence[int]) -> float:
    """The memory of these processes and their children in MB; what several share counts once, where that is known."""
    total = 0
    for process in _with_children(pids):
        try:
            found = process.memory_full_info()
            total += getattr(found, "pss", found.rss)
        except psutil.Error:
            continue
    return total / 1e6


class Peak:
    """The largest value that was seen."""

    value = 0.0


@contextmanager
def peak_of(measure: Callable[[], float]) -> Iterator[Peak]:
    """Measure again and again as long as the block lasts."""
    peak, stop = Peak(), threading.Event()

    def go_on() -> None:
        while not stop.wait(MEASURE_EVERY_S):
            peak.value = max(peak.value, measure())

    thread = threading.Thread(target=go_on, name="peak", daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def _with_children(pids: Sequence[int]) -> list[psutil.Process]:
    found = []
    for pid in pids:
        try:
            main = psutil.Process(pid)
            found += [main, *main.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    return found
