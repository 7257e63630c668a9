"""When the last complete take of this worker began: what its processes know of each other's takes."""

from __future__ import annotations

from ctypes import c_double
from multiprocessing.sharedctypes import RawValue

# By the clock of this machine.
_complete_since = c_double(0.0)


def share_with_forks() -> None:
    """Have this process and those that it forks later know of each other's takes."""
    global _complete_since
    _complete_since = RawValue(c_double, 0.0)


def complete_since() -> float:
    """When the last take began that left nothing behind, by `time.monotonic`; 0 before there was one."""
    return float(_complete_since.value)


def note_complete(began: float) -> None:
    """Note a complete take that was committed, and when it began."""
    _complete_since.value = max(began, _complete_since.value)
