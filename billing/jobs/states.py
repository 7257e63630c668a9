"""The life of a generation job, as a table: which event leads from which state to which.

Every UPDATE of a job's state names the state it leaves; this table is where those names come from.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """How far a job has come."""

    QUEUED = "queued"
    RESERVED = "reserved"
    CALLING = "calling"
    GENERATED = "generated"
    UNKNOWN = "unknown"
    SETTLED = "settled"
    REFUNDED = "refunded"
    REJECTED = "rejected"
    CANCELLED = "cancelled"


class Event(StrEnum):
    """What can happen to a job."""

    RESERVE = "reserve"
    REJECT = "reject"
    CANCEL = "cancel"
    CLAIM = "claim"
    GENERATE = "generate"
    CONTINUE = "continue"
    CONCLUDE = "conclude"
    MARK_UNKNOWN = "mark_unknown"
    RETRY = "retry"
    SETTLE = "settle"
    REFUND = "refund"
    WRITE_OFF = "write_off"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.QUEUED, Event.RESERVE): State.RESERVED,
    (State.QUEUED, Event.REJECT): State.REJECTED,
    (State.QUEUED, Event.CANCEL): State.CANCELLED,
    (State.RESERVED, Event.CLAIM): State.CALLING,
    (State.RESERVED, Event.REFUND): State.REFUNDED,
    # No further part is asked for: what was delivered by then is charged.
    (State.RESERVED, Event.CONCLUDE): State.GENERATED,
    # The same worker calls again after a failure that was proven not to have been executed.
    (State.CALLING, Event.CLAIM): State.CALLING,
    (State.CALLING, Event.GENERATE): State.GENERATED,
    # One part of the images was delivered, and the next is asked for.
    (State.CALLING, Event.CONTINUE): State.RESERVED,
    (State.CALLING, Event.CONCLUDE): State.GENERATED,
    (State.CALLING, Event.MARK_UNKNOWN): State.UNKNOWN,
    (State.CALLING, Event.RETRY): State.RESERVED,
    (State.CALLING, Event.REFUND): State.REFUNDED,
    (State.UNKNOWN, Event.GENERATE): State.GENERATED,
    (State.UNKNOWN, Event.CONTINUE): State.RESERVED,
    (State.UNKNOWN, Event.CONCLUDE): State.GENERATED,
    (State.UNKNOWN, Event.REFUND): State.REFUNDED,
    (State.GENERATED, Event.SETTLE): State.SETTLED,
    # Settling the job kills its worker again and again: the customer pays nothing, the cost is ours.
    (State.GENERATED, Event.WRITE_OFF): State.REFUNDED,
}

OPEN = frozenset({State.RESERVED, State.CALLING, State.UNKNOWN, State.GENERATED})
"""The states in which a job holds credits."""

TERMINAL = frozenset({State.SETTLED, State.REFUNDED, State.REJECTED, State.CANCELLED})
"""The states that a job never leaves."""


def leaving(event: Event) -> tuple[State, ...]:
    """The states from which this event is allowed, in the order of the life of a job."""
    return tuple(state for state in State if (state, event) in TRANSITIONS)


def target(event: Event) -> State:
    """The state that this event leads to; each event has exactly one."""
    (state,) = {to for (_, happened), to in TRANSITIONS.items() if happened is event}
    return state
