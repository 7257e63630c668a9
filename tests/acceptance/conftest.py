"""Acceptance tests that change nothing global share one fleet: the workers, beat, and the simulated provider.

A test that uses it works with accounts of its own, leaves workers and queues as it found them, and is marked
`pytest.mark.fleet`. Whatever stops programs, empties the broker, or needs other settings, has a system of
its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.conftest import fresh_database
from tests.system import System, running_fleet
from workers.local.embedded.servers import Servers
from workers.local.embedded.valkey import Valkey

_fleet = ExitStack()


@pytest.fixture(scope="session")
def _started(tmp_path_factory: pytest.TempPathFactory, servers: Servers, template: str) -> Iterator[System]:
    with _fleet:
        # A broker of its own: that of the other tests is emptied again and again.
        valkey = Valkey(Path(_fleet.enter_context(TemporaryDirectory(prefix="creditmill-fleet-"))))
        _fleet.callback(valkey.stop)
        database_url = _fleet.enter_context(fresh_database(servers, template))
        home = tmp_path_factory.mktemp("fleet")
        yield _fleet.enter_context(running_fleet(home, database_url, valkey.start()))


@pytest.fixture(scope="module")
def system(request: pytest.FixtureRequest) -> System:
    """The fleet, on a database of its own that is never put back. This process is connected to it."""
    assert is_of_the_fleet(request.node), "what uses the fleet says so, to run where it runs"
    return request.getfixturevalue("_started")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Stop the fleet behind the last of its tests: it would work beside all others."""
    yield
    if is_of_the_fleet(item) and (nextitem is None or not is_of_the_fleet(nextitem)):
        _fleet.close()


def is_of_the_fleet(node: pytest.Item | pytest.Module) -> bool:
    """Whether these tests use the fleet."""
    return node.get_closest_marker("fleet") is not None
