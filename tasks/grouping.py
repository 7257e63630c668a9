"""Grouping: what several threads have to write at one time is written by one of them, in one transaction.

While one group is being written, the next one gathers, and it may gather for a moment longer. A thread that is alone
writes at once, and many threads share one commit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import Generic, TypeVar

from sqlalchemy.orm import Session

from config.database import DATABASE_TROUBLE
from tasks.writing import record

Item = TypeVar("Item")
Written = TypeVar("Written")


@dataclass
class _Waiting(Generic[Item, Written]):
    """What one thread has to write; `called` is set when it was written, or when the thread has to write itself."""

    items: Sequence[Item]
    keys: frozenset[Hashable]
    called: Event = field(default_factory=Event)
    written: Sequence[Written] | None = None
    error: Exception | None = None

    @property
    def is_done(self) -> bool:
        return self.written is not None or self.error is not None


class Group(Generic[Item, Written]):
    """Writes items with `write`, which must be harmless when it is repeated and returns something for each item.

    No two items of one key are written by one transaction. `gather_s` says how long, in seconds, a group waits for more
    items before it is written. `after` is told what a group of several has written, once it
    is committed. What the database refuses of a group is tried again apart, so that one bad item undoes no other.
    """

    def __init__(
        self,
        write: Callable[[Session, Sequence[Item]], Sequence[Written]],
        *,
        key: Callable[[Item], Hashable],
        size: int,
        after: Callable[[Sequence[Item], Sequence[Written]], None] = lambda items, written: None,
        gather_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._write = write
        self._key = key
        self._size = size
        self._after = after
        self._gather_s = gather_s
        self._lock = Lock()
        self._gathered: list[_Waiting[Item, Written]] = []
        self._is_writing = False

    def __call__(self, items: Sequence[Item]) -> tuple[Sequence[Written], bool]:
        """Write these items, which have different keys; returns what `write` returned for each, and whether `after` was
        told. Raises what `write` raises, DATABASE_TROUBLE after a long time.
        """
        mine: _Waiting[Item, Written] = _Waiting(items, frozenset(map(self._key, items)))
        with self._lock:
            self._gathered.append(mine)
            leads, self._is_writing = not self._is_writing, True
        if not leads:
            mine.called.wait()
        told = mine.is_done
        if not told:
            told = self._lead()
        if mine.error is not None:
            raise mine.error
        assert mine.written is not None
        return mine.written, told

    def _lead(self) -> bool:
        """Write one group, one's own items with it, and call the next writer; returns whether `after` was told."""
        time.sleep(self._gather_s())
        with self._lock:
            group = self._next_group()
        try:
            self._write_together(group)
        finally:
            self._call_next(group)
        if len(group) > 1:
            self._tell([each for each in group if each.error is None])
        return len(group) > 1

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
                each.error = error
            return
        done = 0
        for each in group:
            each.written = written[done : done + len(each.items)]
            done += len(each.items)

    def _tell(self, group: Sequence[_Waiting[Item, Written]]) -> None:
        self._after(
            [item for each in group for item in each.items],
            [written for each in group for written in each.written or ()],
        )

    def _call_next(self, group: Sequence[_Waiting[Item, Written]]) -> None:
        with self._lock:
            following = self._gathered[0] if self._gathered else None
            self._is_writing = following is not None
        for each in group:
            if not each.is_done:
                each.error = RuntimeError("what was gathered could not be written")
            each.called.set()
        if following is not None:
            following.called.set()
