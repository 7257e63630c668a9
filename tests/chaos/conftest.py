"""How much the chaos suite does: a slice of it with every run of the tests, all of it with `make chaos`."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Scale:
    """The seed that every choice comes from, and whether the whole suite was asked for."""

    seed: int
    full: bool


@pytest.fixture(scope="session")
def scale() -> Scale:
    """CHAOS_SEED (1 unless given) and CHAOS_FULL."""
    return Scale(seed=int(os.environ.get("CHAOS_SEED", "1")), full=os.environ.get("CHAOS_FULL") == "1")


def pytest_report_header() -> str:
    """Say the seed, so that a run can be repeated."""
    return f"chaos seed: {os.environ.get('CHAOS_SEED', '1')} (CHAOS_SEED), full: {os.environ.get('CHAOS_FULL', '0')}"
