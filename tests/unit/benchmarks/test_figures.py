"""The pure parts of the benchmark: ratios within a round, medians over rounds, targets, and how much each lane does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.figures import LINES, RELATIONS, Line, Target, outcomes, percentile
from tests.benchmarks.lanes import LANES
from tests.benchmarks.sizes import Sizes

ROOT = Path(__file__).parents[3]
TO_BARE = Line("one by one", "one.jobs_s", "jobs/s", "bare.jobs_s", Target(">=", 1.3))
IDLE = Line("idle", "idle.p50_ms", "ms", target=Target("<=", 30))


def rounds(*pairs: tuple[float, float]) -> list[dict[str, dict[str, float]]]:
    return [{"one": {"jobs_s": one}, "bare": {"jobs_s": bare}} for one, bare in pairs]


def test_a_ratio_is_formed_within_its_round_and_the_median_is_over_the_rounds():
    # The machine was slow in the second round: the ratio of the medians would be 3.0.
    (found,) = outcomes(rounds((300, 200), (100, 50), (400, 100)), [TO_BARE])

    assert (found.figure, found.ratio, found.met) == (300, 2.0, True)


def test_a_target_is_for_the_ratio():
    (found,) = outcomes(rounds((120, 100)), [TO_BARE])

    assert (found.ratio, found.met) == (1.2, False)


def test_without_a_ratio_the_target_is_for_the_figure():
    (found,) = outcomes([{"idle": {"p50_ms": 29.0}}, {"idle": {"p50_ms": 31.0}}], [IDLE])

    assert (found.figure, found.ratio, found.met) == (30.0, None, True)


def test_a_line_whose_other_lane_did_not_run_has_no_ratio_and_no_verdict():
    (found,) = outcomes([{"one": {"jobs_s": 10.0}}], [TO_BARE])

    assert (found.figure, found.ratio, found.met) == (10.0, None, None)


def test_a_line_whose_lane_did_not_run_is_left_out():
    assert outcomes([{"bare": {"jobs_s": 10.0}}], [TO_BARE, IDLE]) == []


def test_a_comparison_that_its_lane_did_not_make_is_left_out():
    line = Line("idle, to the baseline", "idle.p50_ms", "ms", "idle.baseline_p50_ms")

    assert outcomes([{"idle": {"p50_ms": 10.0}}], [line]) == []


def test_a_run_that_was_interrupted_tells_what_it_has():
    (found,) = outcomes([*rounds((200, 100)), {"bare": {"jobs_s": 50.0}}], [TO_BARE])

    assert found.ratio == 2.0


@pytest.mark.parametrize(
    ("relation", "at", "below", "above"),
    [
        (">=", True, False, True),
        (">", False, False, True),
        ("<=", True, True, False),
        ("<", False, True, False),
    ],
)
def test_a_target_says_what_is_good_enough(relation, at, below, above):
    target = Target(relation, 1.3)

    assert (target.met(1.3), target.met(1.2), target.met(1.4)) == (at, below, above)
    assert str(target) == f"{relation} 1.3"


def test_the_targets_are_those_that_were_set():
    assert {line.title: str(line.target) for line in LINES if line.target is not None} == {
        "one by one": ">= 1.3",
        "one by one, to Dramatiq": "> 1",
        "in bulk": ">= 6",
        "one account, to one by one": ">= 1",
        "bulk on one account, to bulk": ">= 0.8",
        "over HTTP, to the raw SDK": ">= 0.8",
        "idle, half of the jobs within": "<= 30",
        "calls in flight, to the raw SDK": ">= 0.8",
        "calls in flight, memory": "< 1000",
        "history, CPU a job": "<= 1.1",
        "history, a tick of recovery": "<= 1.1",
    }
    assert {line.target.relation for line in LINES if line.target is not None} <= set(RELATIONS)


def test_every_line_names_lanes_that_there_are():
    named = {name.partition(".")[0] for line in LINES for name in (line.figure, line.over) if name is not None}

    assert named == set(LANES)


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([1, 2, 3, 4], 50, 2),
        ([4, 3, 2, 1], 50, 2),
        ([1, 2, 3], 50, 2),
        (range(1, 101), 99, 99),
        (range(1, 11), 99, 10),
        ([7], 50, 7),
    ],
)
def test_a_percentile_is_a_value_that_was_measured(values, percent, expected):
    assert percentile(list(values), percent) == expected


def test_all_lanes_are_scaled_by_one_number():
    sizes = Sizes(1_500, 1_000_000)

    assert (sizes.bulk, sizes.http, sizes.idle, sizes.in_flight, sizes.history) == (10_000, 2_000, 150, 1_000, 300)
    assert Sizes(3_000, 1_000_000).bulk == 20_000
    assert Sizes(3_000, 1_000_000).in_flight == 1_000
    assert Sizes(20, 1_000).idle == 20


def test_the_help_names_every_lane():
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert all(name in done.stdout for name in [*LANES, "--rounds", "--jobs", "--only", "--quick", "--baseline"])
