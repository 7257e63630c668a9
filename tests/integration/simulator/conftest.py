"""Running simulators: one for all tests of a module, and others as a test starts them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.simulator.running import Running, Start


@pytest.fixture(scope="module")
def options() -> tuple[str, ...]:
    """What a module's own simulator is started with besides; a module may say something else."""
    return ()


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory, options: tuple[str, ...]) -> Iterator[Running]:
    journal = tmp_path_factory.mktemp("simulator") / "journal.jsonl"
    running = Running(journal, "--latency", "0", "--hang", "0.3", *options)
    yield running
    running.stop()
    assert "Traceback" not in running.stderr_path.read_text()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Running] = []

    def start_one(*options: str, journal: str = "journal.jsonl") -> Running:
        started.append(Running(tmp_path / journal, "--latency", "0", "--hang", "0.3", *options))
        return started[-1]

    yield start_one
    for running in started:
        running.stop()


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    return f"key-{request.node.name}"
