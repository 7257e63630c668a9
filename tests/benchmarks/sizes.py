"""How much each lane does, all in proportion to one number: the jobs that are submitted one by one."""

from __future__ import annotations

from dataclasses import dataclass

ACCOUNTS = 1_000
BULK_CALL = 500
"""How many jobs one call submits in bulk."""
SMALL_HISTORY = 10_000
TICKS = 30
HTTP_LATENCY_S = 0.05
IN_FLIGHT_LATENCY_S = 2.0
MOST_IN_FLIGHT = 1_000
LEAST = 20
"""The fewest jobs of a lane: fewer say nothing."""


@dataclass(frozen=True)
class Sizes:
    """The jobs of each lane, and the finished jobs of the large history."""

    jobs: int
    large_history: int

    @property
    def bulk(self) -> int:
        """Jobs submitted in bulk."""
        return self._share(20, 3)

    @property
    def http(self) -> int:
        """Calls over HTTP."""
        return self._share(4, 3)

    @property
    def idle(self) -> int:
        """Jobs submitted to an idle system."""
        return self._share(1, 10)

    @property
    def in_flight(self) -> int:
        """Calls in flight at once."""
        return min(MOST_IN_FLIGHT, self._share(2, 3))

    @property
    def history(self) -> int:
        """Jobs on top of a history."""
        return self._share(1, 5)

    def _share(self, of: int, to: int) -> int:
        return max(LEAST, self.jobs * of // to)
