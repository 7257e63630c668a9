"""Which tests run one after the other in one process, and which of those come first.

A file stays together, because its tests share what they have started; so do all files that use the fleet. Whatever
takes longest is begun first, so that all processes end together.
"""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadGroupScheduling

FLEET = "fleet"
LONGEST_FIRST = (FLEET,)
"""Parts of names: what takes longest first. Whatever is not named comes after them, in the order of collection."""


class ByFile(LoadGroupScheduling):
    """Hands out files, and groups of files as one (`pytest.mark.xdist_group`)."""

    def _split_scope(self, nodeid: str) -> str:
        return super()._split_scope(nodeid).split("::")[0]


def place(item: pytest.Item) -> int:
    """The place among all: the smaller, the earlier."""
    names = [item.nodeid, *(str(mark.args[0]) for mark in item.iter_markers("xdist_group"))]
    found = (number for number, part in enumerate(LONGEST_FIRST) if any(part in name for name in names))
    return next(found, len(LONGEST_FIRST))
