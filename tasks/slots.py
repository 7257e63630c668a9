"""Slots: one for each provider call that a process may make at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class Slots:
    """A number of slots that threads take and give back."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._free = size
        self._changed = Condition()
        # How many free slots each waiting thread is waiting for.
        self._awaited: list[int] = []

    @property
    def used(self) -> int:
        """How many are taken just now."""
        return self._size - self._free

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold one slot while the block lasts, from when one is free."""
        self.take(1)
        try:
            yield
        finally:
            self.give_back(1)

    def take(self, wanted: int, *, within_s: float = 0.0) -> int:
        """Wait until a slot is free, and for at most so many seconds for as many as are wanted; returns how many were
        taken.
        """
        with self._changed:
            if self._free < wanted and within_s:
                self._wait_for(min(wanted, self._size), within_s)
            self._wait_for(1, None)
            taken = min(wanted, self._free)
            self._free -= taken
            return taken

    def give_back(self, count: int) -> None:
        """Give back so many slots."""
        with self._changed:
            self._free += count
            # A thread is not woken for fewer than it waits for.
            if any(self._free >= awaited for awaited in self._awaited):
                self._changed.notify_all()

    def _wait_for(self, free: int, within_s: float | None) -> None:
        self._awaited.append(free)
        try:
            self._changed.wait_for(lambda: self._free >= free, within_s)
        finally:
            self._awaited.remove(free)
