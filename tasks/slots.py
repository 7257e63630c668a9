"""Slots: one for each provider call that a process may make at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class Slots:
    """A number of slots that threads take and give back."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._free = size
        self._changed = Condition()

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
        """Wait until a slot is free, and then so many seconds for further ones; returns how many were taken."""
        with self._changed:
            self._changed.wait_for(lambda: self._free > 0)
            taken = self._take_free(wanted)
            until = time.monotonic() + within_s
            while taken < wanted and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
                taken += self._take_free(wanted - taken)
            return taken

    def _take_free(self, wanted: int) -> int:
        taken = min(wanted, self._free)
        self._free -= taken
        return taken

    def give_back(self, count: int) -> None:
        """Give back so many slots."""
        with self._changed:
            self._free += count
            self._changed.notify_all()
