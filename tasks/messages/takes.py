"""When the last complete take of this machine's worker began: what all its processes know of each other's takes."""

from __future__ import annotations

from ctypes import c_double
from multiprocessing.sharedctypes import RawValue

# By the clock of this machine; a worker's forked children and the process that forked them share it.
_complete_since = RawValue(c_double, 0.0)


def complete_since() -> float:
    """When the last take began that left nothing behind, by `time.monotonic`; 0 before there was one."""
    return float(_complete_since.value)


def note_complete(began: float) -> None:
    """Note a complete take that was committed, and when it began."""
    _complete_since.value = max(began, _complete_since.value)
