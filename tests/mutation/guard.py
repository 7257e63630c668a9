"""What a guard is: its promise, how it is taken away, and the tests that should notice, the quickest first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.mutation.definitions import ROOT, ids_of
from tests.mutation.operators import Mutation


@dataclass(frozen=True)
class Guard:
    """One guard. It is dropped from the database by SQL, or taken out of the code by a mutation."""

    promise: str
    tests: tuple[str, ...]
    sql: str = ""
    mutation: Mutation | None = None

    def test_ids(self, root: Path = ROOT) -> list[str]:
        """The tests as pytest knows them; raises ValueError for a name that no test has."""
        return [found for name in self.tests for found in ids_of(name, root)]

    def how(self) -> str:
        """How it is taken away, in words."""
        return self.sql if self.mutation is None else f"{self.mutation.of}, {self.mutation.what}"


def guard(promise: str, mutation: Mutation, *tests: str) -> Guard:
    """A guard of the code."""
    return Guard(promise, tests, mutation=mutation)
