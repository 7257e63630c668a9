"""The services of billing do what the rules say, whatever happens, in whatever order.

A failure is printed as the shortest steps that were found to lead to it; the same CHAOS_SEED finds it again.
"""

from __future__ import annotations

import time
from contextlib import nullcontext

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from billing.jobs.states import TRANSITIONS
from tests.catalogue import TOKEN_IMAGE, change
from tests.chaos.conftest import Scale
from tests.chaos.machine import Machine
from tests.rounds import rounds

SLICE = {"examples": 60, "steps": 30}
WHOLE = {"examples": 500, "steps": 50}
MOVES = list(TRANSITIONS.items())


# A run that passes is short. One that fails is long: the failing example is made as short as it can be.
@pytest.mark.timeout(3600)
def test_in_any_order_the_books_say_what_the_rules_say(db, scale, capsys):
    lines = run(scale, **(WHOLE if scale.full else SLICE))

    with capsys.disabled() if scale.full else nullcontext():
        print("", *lines, sep="\n")  # noqa: T201 - what was covered is a result, too
    never = [f"{state} --{event}-->" for state, event in TRANSITIONS if not Machine.transitions[state, event]]
    # A slice is too short to see everything.
    assert never == [] or not scale.full, never


def run(scale: Scale, *, examples: int, steps: int) -> list[str]:
    """Run the machine on this test's database; returns what happened how often, as lines."""
    Machine.transitions.clear()
    Machine.happened.clear()
    change("add_model", "gpt-image-1", force=True, **TOKEN_IMAGE | {"max_output_tokens": "1000"})
    chosen = settings(
        max_examples=rounds(examples),
        stateful_step_count=steps,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    started = time.monotonic()
    run_state_machine_as_test(seed(scale.seed)(Machine), settings=chosen)
    took = time.monotonic() - started
    made = Machine.happened["transactions"]
    counts = [(f"{state} --{event}--> {to}", Machine.transitions[state, event]) for (state, event), to in MOVES]
    return [
        f"seed {scale.seed}: {examples} examples of {steps} steps in {took:.0f} s",
        f"{made} transactions, {1000 * took / made:.1f} ms for each and for the comparison after it",
        *(f"{count:8}  {name}" for name, count in counts + sorted(Machine.happened.items())),
    ]
