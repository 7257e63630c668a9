"""The life of a job: the table of its states, held against the diagram of the design."""

from __future__ import annotations

import re

import pytest

from billing.jobs.states import OPEN, TERMINAL, TRANSITIONS, Event, State, leaving, target
from tests.unit.test_architecture import ROOT

# Written out from the diagram in the design, section 3: whoever changes the table changes the drawing too.
DIAGRAM = {
    # from        event       to
    ("queued", "reserve", "reserved"),
    ("queued", "reject", "rejected"),
    ("queued", "cancel", "cancelled"),
    ("reserved", "claim", "calling"),
    ("reserved", "refund", "refunded"),  # expired, or cancelled by an operator
    ("reserved", "conclude", "generated"),  # the same, when parts were delivered before
    ("calling", "claim", "calling"),  # the same worker, once more
    ("calling", "generate", "generated"),
    ("calling", "continue", "reserved"),  # one part is delivered, the next is asked for
    ("calling", "conclude", "generated"),  # no further part comes: those delivered are charged
    ("calling", "mark_unknown", "unknown"),
    ("calling", "retry", "reserved"),
    ("calling", "refund", "refunded"),
    ("unknown", "generate", "generated"),
    ("unknown", "continue", "reserved"),
    ("unknown", "conclude", "generated"),
    ("unknown", "refund", "refunded"),
    ("generated", "settle", "settled"),
    ("generated", "write_off", "refunded"),  # settling it kills its worker, again and again
}


def test_the_table_is_the_diagram_of_the_design():
    assert {(str(left), str(event), str(to)) for (left, event), to in TRANSITIONS.items()} == DIAGRAM


def test_the_table_of_the_docs_is_the_table_of_the_code():
    rows = re.findall(r"^\| (\w+) \| (\w+) \| (\w+) \|", (ROOT / "docs/reference/states.md").read_text(), re.M)

    assert set(rows[1:]) == {(str(left), str(event), str(to)) for (left, event), to in TRANSITIONS.items()}


@pytest.mark.parametrize("event", Event)
def test_every_event_leads_to_exactly_one_state(event):
    assert {to for _, happened, to in DIAGRAM if happened == event} == {target(event)}


@pytest.mark.parametrize("event", Event)
def test_an_event_is_allowed_where_the_diagram_has_it_and_nowhere_else(event):
    allowed = leaving(event)

    assert {left for left, happened, _ in DIAGRAM if happened == event} == set(allowed)
    assert allowed == tuple(state for state in State if state in allowed)


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_a_terminal_state_is_never_left(state):
    assert [event for event in Event if state in leaving(event)] == []


@pytest.mark.parametrize("state", sorted(set(State) - TERMINAL))
def test_every_other_state_can_be_left_for_a_terminal_one(state):
    assert _reachable(state) & TERMINAL


def test_every_state_is_reachable_from_queued():
    assert set(State) == _reachable(State.QUEUED)


def test_a_state_is_queued_or_open_or_terminal():
    assert {State.RESERVED, State.CALLING, State.UNKNOWN, State.GENERATED} == OPEN
    assert {State.SETTLED, State.REFUNDED, State.REJECTED, State.CANCELLED} == TERMINAL
    assert sorted([State.QUEUED, *OPEN, *TERMINAL]) == sorted(State)


def test_credits_are_held_from_the_reservation_on_until_they_are_settled_or_refunded():
    into = {event for (left, event), to in TRANSITIONS.items() if left not in OPEN and to in OPEN}
    out = {event for (left, event), to in TRANSITIONS.items() if left in OPEN and to not in OPEN}

    assert into == {Event.RESERVE}
    assert out == {Event.SETTLE, Event.REFUND, Event.WRITE_OFF}


def test_only_a_generated_job_is_settled_and_a_generated_job_is_never_refunded():
    assert leaving(Event.SETTLE) == (State.GENERATED,)
    assert State.GENERATED not in leaving(Event.REFUND)


def _reachable(start: State) -> set[State]:
    seen, open_ends = {start}, [start]
    while open_ends:
        here = open_ends.pop()
        found = {to for (left, _), to in TRANSITIONS.items() if left is here} - seen
        seen |= found
        open_ends += found
    return seen
