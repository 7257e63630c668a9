"""Which tests run one after the other in one process, and which of those come first.

A file stays together, because its tests share what they have started; so do all files that use the fleet. What takes
longest is begun first, so that all processes end together.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

TESTS = Path(__file__).parent
USES_THE_FLEET = "pytest.mark.fleet"
LONGEST_FIRST = (
    *("test_outages", "test_demo", USES_THE_FLEET, "test_lost_answers", "test_kill", "test_storm"),
    *("test_ninety_five_days", "test_docs", "test_crash_points", "test_servers_by_url", "chaos/test_model"),
    *("test_statement_counts", "test_embedded", "test_shutdown", "test_concurrency", "test_secrets"),
    *("test_deadly_jobs", "test_supervisor"),
)
"""Parts of the names of files: those that take longest, the longest first. All others come after them, as collected."""


class ByFile(LoadScopeScheduling):
    """Hands out files, and all files of the fleet as one, in the order in which they were collected."""

    def __init__(self, config: pytest.Config, log: Any = None) -> None:
        super().__init__(config, log)
        # xdist would begin with the file that has most tests, which is not the one that takes longest.
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return USES_THE_FLEET if file in files_of_the_fleet() else file


@cache
def files_of_the_fleet() -> frozenset[str]:
    """The files whose tests are marked as the fleet's; the process that hands out tests sees no marks."""
    return frozenset(
        str(path.relative_to(TESTS.parent))
        for path in TESTS.rglob("test_*.py")
        if f"pytestmark = {USES_THE_FLEET}" in path.read_text(encoding="utf-8")
    )


def place(item: pytest.Item) -> int:
    """The place among all: the smaller, the earlier."""
    file = item.nodeid.partition("::")[0]
    name = USES_THE_FLEET if file in files_of_the_fleet() else file
    return next((number for number, part in enumerate(LONGEST_FIRST) if part in name), len(LONGEST_FIRST))
