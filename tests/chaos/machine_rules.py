"""How a rule of the machine is written: what can happen, when, and that workers work after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.chaos.model_world import Deed, deeds

picks = st.integers(0, 30)
crashes = st.integers(0, 9).map(lambda drawn: drawn == 9)
hearings = st.sampled_from([True, True, True, False])
turns = st.tuples(picks, deeds, hearings)


def happens(**given: Any) -> Any:
    """A rule: it happens, and then workers work for a few turns. Else most examples would stand still.

    (Hypothesis switches rules off at random in each example, and work is no rule of its own.)
    """

    def decorate(function: Callable[..., None]) -> Any:
        @wraps(function)
        def happen(machine: Any, worked: list[tuple[int, Deed, bool]], **drawn: Any) -> None:
            machine.happened[f"rule {function.__name__}"] += 1
            function(machine, **drawn)
            machine.go_on(worked)

        return rule(worked=st.lists(turns, max_size=4), **given)(happen)

    return decorate


def some(things: str) -> Any:
    """A rule's condition: the machine has at least one of these."""
    return precondition(lambda machine: bool(getattr(machine, things)))


def one(choices: Sequence[Any], pick: int) -> Any:
    """One of these, the last ones first: what shrinks is the distance from the end."""
    return choices[-1 - pick % len(choices)]
