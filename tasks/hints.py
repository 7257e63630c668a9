"""Hints: messages that say that jobs wait. Whoever gets one takes what waits; one that brings nothing new is dropped.

What a process remembers of its takes: it may forget, or start anew, and nothing is lost but a needless look.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from billing.jobs import taking
from billing.jobs.taking import Taken
from tasks import pipeline
from tasks.messages import pending, takes
from tasks.runtime import runtime

LOOK_AGAIN_S = 0.02
"""How long after a take that could take nothing of what waits the next one comes, in seconds; then twice as long."""
LOOK_AGAIN_MAX_S = 1.0

_last_account = 0


@dataclass
class _Looks:
    """The look that this process has asked for, and how long it will wait before the one after it, in seconds."""

    due_at: float = 0.0
    wait_s: float = LOOK_AGAIN_S


_looks = _Looks()


def is_covered(request: Any) -> bool:
    """Whether a complete take has begun since this message was received: then what it tells of is taken.

    The time in a message would prove nothing, as its jobs may be committed after it.
    """
    received_at = getattr(request, "received_at", None)
    return received_at is not None and received_at < takes.complete_since()


def take(session: Session) -> Taken:
    """Take what waits, beginning after the account that this process has served last; the transaction's first act."""
    pending.remove_mark()
    return taking.take(session, hold=runtime().publish_by, after=_last_account)


def note(taken: Taken, *, began: float) -> None:
    """Remember a take that was committed, and when it began; have another one follow when it has left jobs behind.

    Whoever told of those jobs may have been heard by now, and told no one else.
    """
    global _last_account
    _last_account = taken.last
    if taken.shut_out:
        pending.set_left_out()
    if taken.complete:
        takes.note_complete(began)
        return
    if taken.job_ids:
        _looks.wait_s = LOOK_AGAIN_S
        pipeline.hint()
    else:
        _look_again()


def note_reserved() -> None:
    """Accounts have left their take: have those looked at again at once that another take had to leave out."""
    if pending.remove_left_out():
        pipeline.hint()


def _look_again() -> None:
    now = time.monotonic()
    # One that is still to come takes what was left behind as well. The look that is made just now may be a bit early.
    if _looks.due_at - now > LOOK_AGAIN_S / 4:
        return
    _looks.due_at = now + _looks.wait_s
    pipeline.look_again(after_s=_looks.wait_s)
    _looks.wait_s = min(2 * _looks.wait_s, LOOK_AGAIN_MAX_S)
