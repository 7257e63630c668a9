"""What crash points are sought in: scenarios of one or several jobs, their cases, and what became of each.

Nothing here runs anything.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from tests.chaos.crash_hits import Hit

OPENING = 1_000
"""Credits of each account."""
MODES = {
    "billing child": ("child", "whole"),
    "billing main": ("main", "whole"),
    # Threads, not children: the process that dies is the whole worker.
    "generation": ("whole",),
}
End = tuple[str, str | None]
"""A state, and the code of its error."""
SETTLED: End = ("settled", None)
REFUSED: End = ("refunded", "content_policy")
LOST: End = ("refunded", "outcome_unknown")
LOST_LATER: End = ("settled", "outcome_unknown")
IMAGE_CREDITS = 5
"""Credits of one image of the model that makes each by a call of its own."""
TOO_DEAR: End = ("rejected", "insufficient_credits")


@dataclass(frozen=True)
class Life:
    """One job: what its provider does, how it ends, which account pays, and the most output that it asks for."""

    end: End
    fault: str = ""
    payer: int = 0
    max_output_tokens: int = 64
    images: int = 0

    @property
    def operation(self) -> str:
        """The job's operation."""
        return "image_generation" if self.images else "clustering"

    @property
    def params(self) -> dict[str, Any]:
        """What the job asks for."""
        marker = f" [[simulate: {self.fault}]]" if self.fault else ""
        most = {"n": self.images} if self.images else {"max_output_tokens": self.max_output_tokens}
        return {"prompt": f"bread{marker}", **most}


@dataclass(frozen=True)
class Scenario:
    """One job, or several that are submitted together: then no call is answered before all of them were sent.

    `recoveries` is how often the recovery task has to work on it, `announced` whether its first message arrives, and
    `honours_keys` whether the provider does the work of one key once.
    """

    name: str
    lives: Sequence[Life]
    recoveries: int = 0
    announced: bool = True
    honours_keys: bool = False

    @property
    def is_grouped(self) -> bool:
        """Whether it has several jobs."""
        return len(self.lives) > 1

    def those(self, *ends: End) -> tuple[int, ...]:
        """The places of the jobs that end so."""
        return tuple(place for place, life in enumerate(self.lives) if life.end in ends)

    @property
    def called(self) -> tuple[int, ...]:
        """The places of the jobs that a provider is called for."""
        return self.those(SETTLED, REFUSED, LOST)


class Call(NamedTuple):
    """A call for the job of this place: the hits at which its claim, and then its verdict, is committed."""

    place: int
    claimed: Hit
    judged: Hit

    def is_open(self, hits: Sequence[Hit]) -> bool:
        """Whether it is claimed after these hits, and has no verdict."""
        return self.claimed in hits and self.judged not in hits


@dataclass(frozen=True)
class Case:
    """A scenario with one crash; without, it records.

    `mode` is who dies: the child, the main process alone, or the whole worker. `first` is what comes first after the
    death of a main process, as both happen: the recovery task, or the messages that it held.
    """

    scenario: Scenario
    hit: Hit | None = None
    mode: str = ""
    first: str = "recovery"
    calls: Sequence[Call] = ()

    def may_end(self, place: int, hits: Sequence[Hit]) -> set[End]:
        """How the job of this place may end, after these hits.

        Of a call that was open at the crash nobody can know what came of it, unless its provider honours keys.
        """
        end = self.scenario.lives[place].end
        if self.hit is None or self.hit not in hits or self.scenario.honours_keys:
            return {end}
        before = hits[: hits.index(self.hit) + 1]
        blind = any(call.is_open(before) for call in self.calls if call.place == place)
        if self.scenario.lives[place].images > 1:
            # The message of the next part is worked on while that of the one before is acknowledged. Those parts
            # that were delivered before are charged.
            return {end, LOST, LOST_LATER} if blind or self.hit.process == "generation" else {end}
        return {end, LOST} if blind else {end}


@dataclass(frozen=True)
class Became:
    """What became of one job."""

    state: str = "missing"
    error_code: str | None = None
    charged: int | None = None
    exposed: bool = False
    executions: int = 0

    @property
    def end(self) -> End:
        """How it ended."""
        return self.state, self.error_code

    def problems(self, expected: set[End], life: Life) -> list[str]:
        """What is wrong with that."""
        settled = self.state == "settled"
        paid = self.charged == self.executions * IMAGE_CREDITS
        rules = (
            (self.end in expected, f"ended as {self.end} and should have ended as {sorted(expected, key=str)}"),
            (self.executions <= max(1, life.images), "executed more than once"),
            (not settled or not life.images or paid or self.exposed, "images for nobody, and no exposure"),
            (not settled or self.executions >= 1, "settled, and never executed"),
            (settled == bool(self.charged), "charged, and not settled, or settled for nothing"),
            (settled or not self.executions or self.exposed, "executed for nobody, and no exposure"),
        )
        return [problem for holds, problem in rules if not holds]


@dataclass
class Row:
    """What became of a case."""

    case: Case
    jobs: list[Became] = field(default_factory=list)
    seconds: float = 0.0
    hits: list[Hit] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def cases_of(recorded: Row) -> list[Case]:
    """Every way to crash in what was recorded: at each point, each way to die, and what comes first after it."""
    cases = []
    calls = [call for place in range(len(recorded.case.scenario.lives)) for call in calls_of(place, recorded.hits)]
    for hit in recorded.hits:
        case = replace(recorded.case, hit=hit, calls=calls)
        for mode in MODES[hit.process]:
            firsts = ("recovery", "messages") if mode != "child" else ("recovery",)
            cases += [replace(case, mode=mode, first=first) for first in firsts]
    return cases


def calls_of(place: int, hits: Sequence[Hit]) -> list[Call]:
    """The calls that were made for a job: each sends between a commit that names it and the next such commit."""
    own = [hit for hit in hits if hit.process == "generation"]
    commits = [number for number, hit in enumerate(own) if hit.is_at("commit", "after") and place in hit.jobs]
    sends = [number for number, hit in enumerate(own) if hit.is_at("send", "before")]
    return [
        Call(place, own[claimed], own[judged])
        for claimed, judged in itertools.pairwise(commits)
        if any(claimed < send < judged for send in sends)
    ]
