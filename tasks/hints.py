"""Hints: messages that say that jobs wait. Whoever gets one takes what waits; one that brings nothing new is dropped.

What a process remembers of its takes: it may forget, or start anew, and nothing is lost but a needless look.
"""

from __future__ import annotations

import time
from ctypes import c_double
from multiprocessing.sharedctypes import RawValue
from typing import Any

from sqlalchemy.orm import Session

from billing.jobs import taking
from billing.jobs.taking import Taken
from tasks import pipeline
from tasks.runtime import runtime

LOOK_AGAIN_S = 0.02
"""How long after a take that found an account in another one the next take comes, in seconds."""

# When the last complete take began, by the clock of this machine; the forked children of a worker share it.
_complete_since = RawValue(c_double, 0.0)
_last_account = 0
_looks_again_at = 0.0


def is_covered(request: Any) -> bool:
    """Whether a complete take has begun since this message was received: then what it tells of is taken.

    The time in a message would prove nothing, as its jobs may be committed after it.
    """
    received_at = getattr(request, "received_at", None)
    return received_at is not None and received_at < _complete_since.value


def take(session: Session) -> Taken:
    """Take what waits, beginning after the account that this process has served last."""
    return taking.take(session, hold=runtime().publish_by, after=_last_account)


def note(taken: Taken, *, began: float) -> None:
    """Remember a take that was committed, and when it began; have another one follow when an account was shut out."""
    global _last_account, _looks_again_at
    _last_account = taken.last
    if taken.complete and began > _complete_since.value:
        _complete_since.value = began
    now = time.monotonic()
    # One that is under way already takes what was left behind as well.
    if taken.shut_out and _looks_again_at <= now:
        _looks_again_at = now + LOOK_AGAIN_S
        pipeline.look_again(after_s=LOOK_AGAIN_S)
