"""Whoever dies wherever: every job comes to its end, is charged only for what was executed, and is executed once."""

from __future__ import annotations

import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue

import click
import pytest

from config.secrets import use_secret_keys
from tests.chaos.conftest import Scale
from tests.chaos.crash_points import LOST, Case, Cell, Provider, Row, Run, Scenario, cases_of
from tests.chaos.crashing import Forks
from tests.conftest import SECRET_KEY, emptied, fresh_database
from workers.local import machine
from workers.local.embedded.servers import Servers

pytestmark = pytest.mark.own_system

SLICE = 44
"""Crashes of an ordinary run: about 45 seconds on two cores."""

CELLS = 3
"""Cases that run side by side, each with a database, a broker and workers of its own."""

SETTLED = ("settled", None)
SCENARIOS = (
    Scenario("delivered", "", SETTLED),
    Scenario("refused", "content_policy", ("refunded", "content_policy")),
    Scenario("retried", "overloaded x1", SETTLED),
    Scenario("unknown", "reset_mid_body", LOST, recoveries=2),
    # The provider does the work of one key once, so the outcome of an unknown call is resolved by sending it again.
    Scenario("resolved", "reset_mid_body x1", SETTLED, recoveries=1, honours_keys=True),
    # The retry is the recovery task's, because the provider wants to be left alone for longer than a worker waits.
    Scenario("postponed", "rate_limit x1", SETTLED, recoveries=1),
    # The job is written and its message is not published: the recovery task starts it.
    Scenario("forgotten", "", SETTLED, recoveries=1, announced=False),
)
COLUMNS = ("scenario", "process", "task", "point", "mode", "end", "charged", "executions", "exposure", "seconds", "ok")


class Suite:
    """The fork server, the provider and the cells, and the cases that are run with them."""

    def __init__(self, cells: Sequence[Cell], providers: Mapping[bool, Provider]) -> None:
        self._cells = cells
        # By whether they honour keys: with one that does, nobody would notice a call that was made twice.
        self._providers = providers
        self._numbers = itertools.count()

    def record(self, scenarios: Sequence[Scenario]) -> list[Row]:
        """Each scenario without a crash: what happens in it, in order."""
        return self.run([Case(scenario) for scenario in scenarios])

    def run(self, cases: Sequence[Case]) -> list[Row]:
        """Run these cases, several side by side; a row each, in the same order."""
        waiting: SimpleQueue[tuple[int, Case]] = SimpleQueue()
        for item in enumerate(cases):
            waiting.put(item)
        rows: dict[int, Row] = {}

        def work(cell: Cell) -> None:
            with suppress(Empty):
                while True:
                    place, case = waiting.get_nowait()
                    provider = self._providers[case.scenario.honours_keys]
                    rows[place] = Run(cell, case, provider, next(self._numbers)).carry_out()

        with ThreadPoolExecutor(len(self._cells)) as pool:
            for worker in [pool.submit(work, cell) for cell in self._cells]:
                worker.result()
        return [rows[place] for place in range(len(cases))]


@contextmanager
def suite(home: Path, servers: Servers, template: str) -> Iterator[Suite]:
    """Everything that cases need, for as long as the block lasts."""
    use_secret_keys(SECRET_KEY)
    with ExitStack() as stack:
        forks = stack.enter_context(closing(Forks(home)))
        providers = {honours: stack.enter_context(_provider(home, honours=honours)) for honours in (False, True)}
        cells = []
        for number in range(CELLS):
            database_url = stack.enter_context(fresh_database(servers, template))
            broker_url = emptied(servers).removesuffix("/0") + f"/{number + 1}"
            cell = Cell(home / f"cell-{number}", forks, database_url, broker_url)
            cells.append(stack.enter_context(closing(cell)))
        yield Suite(cells, providers)


@contextmanager
def _provider(home: Path, *, honours: bool) -> Iterator[Provider]:
    folder = home / f"provider-{'with' if honours else 'without'}-keys"
    folder.mkdir()
    port = machine.free_port()
    program = machine.simulator_program(folder, port, faults={}, seed=1, latency_s=0)
    if honours:
        program = replace(program, command=[*program.command, "--honour-keys"])
    with (folder / "output.log").open("w") as output, machine.supervised(folder, [program], output, quiet=True):
        yield Provider(f"http://127.0.0.1:{port}/v1", folder / "simulator-journal.jsonl")


@pytest.fixture(scope="module")
def crashes(tmp_path_factory: pytest.TempPathFactory, servers: Servers, template: str) -> Iterator[Suite]:
    with suite(tmp_path_factory.mktemp("crashes"), servers, template) as started:
        yield started


@pytest.fixture(scope="module")
def recorded(crashes: Suite) -> list[Row]:
    return crashes.record(SCENARIOS)


def test_without_a_crash_every_life_ends_as_it_should(recorded):
    broken = [row for row in recorded if row.problems]

    assert not broken, f"\n{table(broken)}"


def test_without_a_crash_only_what_waits_is_recovered(recorded):
    last = ("periodic.recover_jobs", "ack", "after")
    recoveries = {
        row.case.scenario.name: sum((hit.task, hit.point, hit.phase) == last for hit in row.hits) for row in recorded
    }

    assert recoveries == {scenario.name: scenario.recoveries for scenario in SCENARIOS}


def test_nothing_is_sent_to_a_provider_before_a_commit_said_so(recorded):
    lives = [[hit for hit in row.hits if hit.process == "generation"] for row in recorded]
    before_sends = [before for hits in lives for before, hit in itertools.pairwise(hits) if hit.is_at("send", "before")]

    assert len(before_sends) >= len(SCENARIOS)
    assert [hit for hit in before_sends if not hit.is_at("commit", "after")] == []


def test_recording_meets_every_kind_of_point(recorded):
    points = {(hit.point.split()[0], hit.phase) for row in recorded for hit in row.hits}
    processes = {hit.process for row in recorded for hit in row.hits}

    assert points == {
        (point, phase)
        for point in ("commit", "publish", "send", "receive", "ack")
        for phase in ("before", "after")
    }  # fmt: skip
    assert processes == {"billing child", "billing main", "generation"}


@pytest.mark.timeout(3600)
def test_every_life_survives_a_crash_at_every_point(crashes, recorded, scale: Scale, capsys):
    cases = [case for row in recorded for case in cases_of(row)]
    chosen = cases if scale.full else some(cases, SLICE, seed=scale.seed)

    rows = crashes.run(chosen)

    with capsys.disabled():
        click.echo(f"\n{len(chosen)} of {len(cases)} crashes\n{counts(rows)}")
        if scale.full:
            click.echo(table(rows))
    broken = [row for row in rows if row.problems]
    assert not broken, f"\n{table(broken)}"


def some(cases: Sequence[Case], count: int, *, seed: int) -> list[Case]:
    """About `count` cases, by chance from the seed, of every scenario and mode alike."""
    groups: dict[tuple[str, str], list[Case]] = defaultdict(list)
    for case in cases:
        groups[case.scenario.name, case.mode].append(case)
    chance = random.Random(seed)
    each = max(1, round(count / len(groups)))
    return [case for group in groups.values() for case in chance.sample(group, min(each, len(group)))]


def table(rows: Sequence[Row]) -> str:
    """The rows as lines of plain text, in columns."""
    lines = [COLUMNS, *(columns(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    return "\n".join(" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def columns(row: Row) -> tuple[str, ...]:
    """One row of the table."""
    case, hit = row.case, row.case.hit
    where = (hit.process, hit.task, f"{hit.phase} {hit.point} #{hit.n}") if hit else ("", "", "no crash")
    mode = case.mode if case.mode in ("", "child") else f"{case.mode}, {case.first} first"
    charged = "-" if row.charged is None else str(row.charged)
    exposure = "yes" if row.exposed else "-"
    ok = "; ".join(row.problems) or "ok"
    return (
        case.scenario.name,
        *where,
        mode,
        end(row),
        charged,
        str(row.executions),
        exposure,
        f"{row.seconds:.1f}",
        ok,
    )


def end(row: Row) -> str:
    """How a job ended, in words."""
    return row.state if row.error_code is None else f"{row.state} ({row.error_code})"


def counts(rows: Sequence[Row]) -> str:
    """How many crashes of each scenario there were, in which mode, and how they ended."""
    lines = []
    for name in dict.fromkeys(row.case.scenario.name for row in rows):
        own = [row for row in rows if row.case.scenario.name == name]
        told = Counter(row.case.mode for row in own), Counter(end(row) for row in own)
        details = "; ".join(", ".join(f"{n} {what}" for what, n in each.items()) for each in told)
        lines.append(f"{name}: {len(own)}, of which {sum(bool(row.problems) for row in own)} not ok; {details}")
    return "\n".join(lines)
