"""What the figures of a run mean: each line of the result, what it is compared with, and what it has to reach.

Pure: the lanes measure, the report shows.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

Figures = Mapping[str, float]
"""What one lane measured, by name; a name ends with its unit."""
Round = Mapping[str, Figures]
"""What each lane measured in one round."""

RELATIONS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
}


@dataclass(frozen=True)
class Target:
    """What a line has to reach, such as >= 1.3."""

    relation: str
    value: float

    def met(self, found: float) -> bool:
        """Whether this is good enough."""
        return RELATIONS[self.relation](found, self.value)

    def __str__(self) -> str:
        return f"{self.relation} {self.value:g}"


@dataclass(frozen=True)
class Line:
    """One line of the result: a figure of a lane, the figure that it is divided by, and the target.

    Figures are named `lane.figure`. The target is for the ratio, or for the figure itself when there is no ratio.
    """

    title: str
    figure: str
    unit: str
    over: str | None = None
    target: Target | None = None


@dataclass(frozen=True)
class Outcome:
    """A line's figure and ratio, each the median of all rounds, and whether the target was met (None without one)."""

    line: Line
    figure: float
    ratio: float | None
    met: bool | None


LINES: Sequence[Line] = (
    Line("bare chain of four no-ops", "bare.jobs_s", "jobs/s"),
    Line("naive Celery chain", "naive.jobs_s", "jobs/s", "bare.jobs_s"),
    Line("Dramatiq, the same steps", "dramatiq.jobs_s", "jobs/s", "bare.jobs_s"),
    Line("one by one", "one-by-one.jobs_s", "jobs/s", "bare.jobs_s", Target(">=", 1.3)),
    Line("one by one, to Dramatiq", "one-by-one.jobs_s", "jobs/s", "dramatiq.jobs_s", Target(">", 1.0)),
    Line("in bulk", "bulk.jobs_s", "jobs/s", "bare.jobs_s", Target(">=", 6.0)),
    Line("one account, to one by one", "one-account.jobs_s", "jobs/s", "one-by-one.jobs_s", Target(">=", 1.0)),
    Line("bulk on one account, to bulk", "bulk-one-account.jobs_s", "jobs/s", "bulk.jobs_s", Target(">=", 0.8)),
    Line("over HTTP, to the raw SDK", "http.jobs_s", "jobs/s", "http.raw_jobs_s", Target(">=", 0.8)),
    Line("idle, half of the jobs within", "idle.p50_ms", "ms", target=Target("<=", 30)),
    Line("idle, 99 % of the jobs within", "idle.p99_ms", "ms"),
    Line("idle, half within, to the baseline", "idle.p50_ms", "ms", "idle.baseline_p50_ms"),
    Line("idle, 99 % within, to the baseline", "idle.p99_ms", "ms", "idle.baseline_p99_ms"),
    Line("calls in flight, to the raw SDK", "in-flight.jobs_s", "jobs/s", "in-flight.raw_jobs_s", Target(">=", 0.8)),
    Line("calls in flight, memory", "in-flight.memory_mb", "MB", target=Target("<", 1_000)),
    Line("history, CPU a job", "history.large_cpu_ms", "ms", "history.small_cpu_ms", Target("<=", 1.1)),
    Line("history, a tick of recovery", "history.large_tick_ms", "ms", "history.small_tick_ms", Target("<=", 1.1)),
    Line("history, pages a job", "history.large_pages", "pages", "history.small_pages"),
)


def outcomes(rounds: Sequence[Round], lines: Sequence[Line] = LINES) -> list[Outcome]:
    """What came out on each line whose figure was measured: ratios are formed within each round, then the median."""
    found = []
    for line in lines:
        figures = [figure for each in rounds if (figure := _figure(each, line.figure)) is not None]
        ratios = [ratio for each in rounds if (ratio := _ratio(each, line)) is not None]
        if not figures or (line.over is not None and _belongs_to_one_lane(line) and not ratios):
            continue
        ratio = median(ratios) if ratios else None
        judged = ratio if line.over is not None else median(figures)
        met = None if line.target is None or judged is None else line.target.met(judged)
        found.append(Outcome(line, median(figures), ratio, met))
    return found


def percentile(values: Sequence[float], percent: float) -> float:
    """The least of these values that this share of them does not exceed."""
    ordered = sorted(values)
    place = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(place) - 1)]


def _belongs_to_one_lane(line: Line) -> bool:
    """Whether both figures come from one lane, so that a missing one was not asked for."""
    assert line.over is not None
    return line.figure.partition(".")[0] == line.over.partition(".")[0]


def _ratio(each: Round, line: Line) -> float | None:
    if line.over is None:
        return None
    figure, over = _figure(each, line.figure), _figure(each, line.over)
    return None if figure is None or not over else figure / over


def _figure(each: Round, name: str) -> float | None:
    lane, _, figure = name.partition(".")
    return each.get(lane, {}).get(figure)
