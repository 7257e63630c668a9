"""Grouping: what several threads have to write at one time is written by one of them, in one transaction.

While one group is being written, the next one gathers, and it may gather for a moment longer. What comes alone is
written at once, and many threads share one commit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock
from typing import Generic, TypeVar

from sqlalchemy.orm import Session

from config.database import DATABASE_TROUBLE
from tasks.writing import record

Item = TypeVar("Item")
Written = TypeVar("Written")


@dataclass
class _Waiting(Generic[Item, Written]):
    """What one thread has handed in, and who is told in the end; with nobody, the thread itself waits for it."""

    items: Sequence[Item]
    keys: frozenset[Hashable]
    then: Callable[[Exception | None], None] | None
    future: Future[Sequence[Written]]

    @property
    def error(self) -> Exception | None:
        error = self.future.exception()
        assert error is None or isinstance(error, Exception)
        return error


class Group(Generic[Item, Written]):
    """Writes items with `write`, which must be harmless when it is repeated and returns something for each item.

    No two items of one key are written by one transaction. `gather_s` says how long, in seconds, a group waits for more
    items before it is written. `spawn` has a group written by another thread. `after` is told what was written of a
    group, but for what a thread waits for itself. What the database refuses of a group is tried again apart, so that
    one bad item undoes no other.
    """

    def __init__(
        self,
        write: Callable[[Session, Sequence[Item]], Sequence[Written]],
        *,
        key: Callable[[Item], Hashable],
        size: int,
        spawn: Callable[[Callable[[], None]], object],
        after: Callable[[Sequence[Item], Sequence[Written]], None] = lambda items, written: None,
        gather_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._write = write
        self._key = key
        self._size = size
        self._spawn = spawn
        self._after = after
        self._gather_s = gather_s
        self._lock = Lock()
        self._gathered: list[_Waiting[Item, Written]] = []
        self._is_writing = False

    def __call__(self, items: Sequence[Item]) -> Sequence[Written]:
        """Write these items, which have different keys; returns what `write` returned for each.

        Raises what `write` raises, DATABASE_TROUBLE after a long time.
        """
        return self._hand_in(items, None).future.result()

    def later(self, items: Sequence[Item], then: Callable[[Exception | None], None]) -> None:
        """Have these items written; tells `then` when that is done, with the error that kept it from being done."""
        self._hand_in(items, then)

    def _hand_in(
        self, items: Sequence[Item], then: Callable[[Exception | None], None] | None
    ) -> _Waiting[Item, Written]:
        mine: _Waiting[Item, Written] = _Waiting(items, frozenset(map(self._key, items)), then, Future())
        with self._lock:
            self._gathered.append(mine)
            leads, self._is_writing = not self._is_writing, True
        if leads:
            self._lead()
        return mine

    def _lead(self) -> None:
        """Write one group, and have the next one written; then tell those who wait for this one."""
        time.sleep(self._gather_s())
        with self._lock:
            group = self._next_group()
        try:
            self._write_together(group)
        finally:
            self._go_on()
        failed = self._tell([each for each in group if each.then is not None and each.error is None])
        for each in group:
            if each.then is not None:
                each.then(each.error or failed)

    def _next_group(self) -> list[_Waiting[Item, Written]]:
        group: list[_Waiting[Item, Written]] = []
        left: list[_Waiting[Item, Written]] = []
        keys, size = set[Hashable](), 0
        for each in self._gathered:
            fits = not group or (size + len(each.items) <= self._size and keys.isdisjoint(each.keys))
            if fits:
                group.append(each)
                keys |= each.keys
                size += len(each.items)
            else:
                left.append(each)
        self._gathered = left
        return group

    def _write_together(self, group: Sequence[_Waiting[Item, Written]]) -> None:
        items = [item for each in group for item in each.items]
        try:
            written = record(lambda session: self._write(session, items))
        except Exception as error:  # noqa: BLE001 - whatever went wrong, every thread that waits has to hear of it
            if len(group) > 1 and not isinstance(error, DATABASE_TROUBLE):
                for each in group:
                    self._write_together([each])
                return
            for each in group:
                each.future.set_exception(error)
            return
        done = 0
        for each in group:
            each.future.set_result(written[done : done + len(each.items)])
            done += len(each.items)

    def _tell(self, group: Sequence[_Waiting[Item, Written]]) -> Exception | None:
        if group:
            try:
                self._after(
                    [item for each in group for item in each.items],
                    [written for each in group for written in each.future.result()],
                )
            except Exception as error:  # noqa: BLE001 - those who handed it in raise it
                return error
        return None

    def _go_on(self) -> None:
        with self._lock:
            self._is_writing = bool(self._gathered)
            if not self._is_writing:
                return
        self._spawn(self._lead)
