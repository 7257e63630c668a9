"""Acceptance tests share one running system a module: starting it takes seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import emptied, fresh_database
from tests.system import System, running_system
from workers.local.embedded.servers import Servers


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, servers: Servers, template: str) -> Iterator[System]:
    """Workers, beat and the simulator, running on a database of their own. This process is connected to it."""
    with (
        fresh_database(servers, template) as database_url,
        running_system(tmp_path_factory.mktemp("system"), database_url, emptied(servers)) as started,
    ):
        yield started
