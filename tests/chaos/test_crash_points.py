"""Whoever dies wherever: every job comes to its end, is charged only for what was executed, and is executed once."""

from __future__ import annotations

import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue

import click
import pytest

from config.secrets import use_secret_keys
from tests.chaos.conftest import Scale
from tests.chaos.crash_cases import LOST, MODES, REFUSED, SETTLED, TOO_DEAR, Case, Life, Row, Scenario, cases_of
from tests.chaos.crash_cells import Cell, Provider
from tests.chaos.crash_hits import Hit
from tests.chaos.crash_points import Run
from tests.chaos.crashing import Forks
from tests.conftest import SECRET_KEY, emptied, fresh_database
from tests.system import wait_until
from workers.local import machine
from workers.local.embedded.servers import Servers

pytestmark = pytest.mark.own_system

SLICE = 48
"""Crashes of an ordinary run that are drawn by chance; with those of ALWAYS, about 20 seconds on two cores."""

CELLS = 3
"""Cases that run side by side, each with a database, a broker and workers of its own."""

SCENARIOS = (
    Scenario("delivered", [Life(SETTLED)]),
    Scenario("refused", [Life(REFUSED, "content_policy")]),
    Scenario("retried", [Life(SETTLED, "overloaded x1")]),
    Scenario("unknown", [Life(LOST, "reset_mid_body")], recoveries=2),
    # The provider does the work of one key once, so the outcome of an unknown call is resolved by sending it again.
    Scenario("resolved", [Life(SETTLED, "reset_mid_body x1")], recoveries=1, honours_keys=True),
    # The retry is the recovery task's, because the provider wants to be left alone for longer than a worker waits.
    Scenario("postponed", [Life(SETTLED, "rate_limit x1")], recoveries=1),
    # The job is written and its message is not published: the recovery task starts it.
    Scenario("forgotten", [Life(SETTLED)], recoveries=1, announced=False),
    # Two images, each by a call of its own.
    Scenario("in parts", [Life(SETTLED, images=2)]),
    # Jobs of two accounts, which go through each step together; one is more than its account can pay for.
    Scenario(
        "together",
        [
            Life(SETTLED),
            Life(REFUSED, "content_policy", payer=1),
            Life(SETTLED, payer=1),
            Life(TOO_DEAR, max_output_tokens=128_000),
            Life(SETTLED, payer=1),
        ],
    ),
)
TOGETHER = SCENARIOS[-1]

CHECK, RESERVE, CALL, SETTLE, REFUND = (
    f"generation.{name}"
    for name in ("check_balance", "reserve_credits", "call_provider", "settle_charge", "refund_credits")
)
ALWAYS = {
    "before the take is committed": Hit("billing child", CHECK, "commit", "before", 1),
    "between the take and its check": Hit("billing child", CHECK, "commit", "after", 1),
    "before the check is committed": Hit("billing child", CHECK, "commit", "before", 2),
    "between the check and its message": Hit("billing child", CHECK, "commit", "after", 2),
    "before the reservation is committed": Hit("billing child", RESERVE, "commit", "before", 1),
    "between the reservation and its message": Hit("billing child", RESERVE, "commit", "after", 1),
    "after the reservation's message": Hit("billing child", RESERVE, f"publish {CALL}", "after", 1),
    "before the claims are committed": Hit("generation", CALL, "commit", "before", 1),
    "between the claims and their calls": Hit("generation", CALL, "commit", "after", 1),
    "when all calls are sent": Hit("generation", CALL, "send", "after", len(TOGETHER.called)),
    "when all answers are there": Hit("generation", CALL, "receive", "after", len(TOGETHER.called)),
    "between the refusal and its message": Hit("generation", CALL, "commit", "after", 2),
    "before the answers are committed": Hit("generation", CALL, "commit", "before", 3),
    "between the answers and their message": Hit("generation", CALL, "commit", "after", 3),
    "after the answers' message": Hit("generation", CALL, f"publish {SETTLE}", "after", 1),
    "before the charges are committed": Hit("billing child", SETTLE, "commit", "before", 1),
    "after the charges are committed": Hit("billing child", SETTLE, "commit", "after", 1),
}
"""Where every run crashes jobs that go through their steps together."""
COLUMNS = ("scenario", "process", "task", "point", "mode", "end", "charged", "executions", "exposure", "seconds", "ok")


class Suite:
    """The fork server, the provider and the cells, and the cases that are run with them."""

    def __init__(self, cells: Mapping[Cell, Provider], honouring: Provider) -> None:
        # A provider for each, because what one holds back is held back from all; and one for all that honours keys:
        # with such a one, nobody would notice a call that was made twice.
        self._cells = cells
        self._honouring = honouring
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

        def work(cell: Cell, own: Provider) -> None:
            with suppress(Empty):
                while True:
                    place, case = waiting.get_nowait()
                    provider = self._honouring if case.scenario.honours_keys else own
                    rows[place] = Run(cell, case, provider, next(self._numbers)).carry_out()

        with ThreadPoolExecutor(len(self._cells)) as pool:
            for worker in [pool.submit(work, *each) for each in self._cells.items()]:
                worker.result()
        return [rows[place] for place in range(len(cases))]


@contextmanager
def suite(home: Path, servers: Servers, template: str) -> Iterator[Suite]:
    """Everything that cases need, for as long as the block lasts."""
    use_secret_keys(SECRET_KEY)
    with ExitStack() as stack:
        forks = stack.enter_context(closing(Forks(home)))
        honouring = stack.enter_context(_provider(home / "honouring", "--honour-keys"))
        cells = {}
        for number in range(CELLS):
            database_url = stack.enter_context(fresh_database(servers, template))
            broker_url = emptied(servers).removesuffix("/0") + f"/{number + 1}"
            cell = Cell(home / f"cell-{number}", forks, database_url, broker_url)
            own = stack.enter_context(_provider(home / f"provider-{number}"))
            cells[stack.enter_context(closing(cell))] = own
        for provider in (honouring, *cells.values()):
            wait_until(provider.is_up, what="an answer of each provider")
        yield Suite(cells, honouring)


@contextmanager
def _provider(folder: Path, *options: str) -> Iterator[Provider]:
    folder.mkdir()
    port = machine.free_port()
    program = machine.simulator_program(folder, port, faults={}, seed=1, latency_s=0, options=options)
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
    # Of calls that were claimed together, each is sent after that commit, and some after another's send.
    before_sends = [
        next(before for before in reversed(hits[:place]) if before.point != "send")
        for hits in lives
        for place, hit in enumerate(hits)
        if hit.is_at("send", "before")
    ]

    assert len(before_sends) >= len(SCENARIOS)
    assert [hit for hit in before_sends if not hit.is_at("commit", "after")] == []


def test_jobs_that_wait_together_are_worked_on_together(recorded):
    (row,) = [row for row in recorded if row.case.scenario is TOGETHER]
    commits = [(hit.task, hit.jobs) for hit in row.hits if hit.is_at("commit", "after")]
    delivered, refused = TOGETHER.those(SETTLED), TOGETHER.those(REFUSED)

    assert commits.count((RESERVE, TOGETHER.called)) == 1
    assert [jobs for task, jobs in commits if task == CALL] == [TOGETHER.called, refused, delivered]
    assert commits.count((SETTLE, delivered)) == 1
    acknowledged = Counter(hit.task for hit in row.hits if hit.is_at("ack", "after"))
    assert acknowledged == {CHECK: 1, RESERVE: 1, CALL: 1, SETTLE: 1, REFUND: 1}


def test_no_answer_comes_before_all_that_is_claimed_together_is_sent(recorded):
    (row,) = [row for row in recorded if row.case.scenario is TOGETHER]
    wire = [(hit.point, hit.phase) for hit in row.hits if hit.point in ("send", "receive")]

    calls = len(TOGETHER.called)
    assert Counter(wire[: 2 * calls]) == {("send", "before"): calls, ("send", "after"): calls}


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
    chosen = cases if scale.full else [*always(cases), *some(cases, SLICE, seed=scale.seed)]

    rows = crashes.run(chosen)

    with capsys.disabled():
        click.echo(f"\n{len(chosen)} of {len(cases)} crashes\n{counts(rows)}")
        if scale.full:
            click.echo(table(rows))
    broken = [row for row in rows if row.problems]
    assert not broken, f"\n{table(broken)}"


def always(cases: Sequence[Case]) -> list[Case]:
    """The cases of each point at which every run crashes, with the first way to die."""
    grouped = [case for case in cases if case.scenario is TOGETHER]
    missing = ALWAYS.keys() - {moment for moment, hit in ALWAYS.items() for case in grouped if case.hit == hit}
    assert not missing, missing
    return [case for case in grouped if case.hit in ALWAYS.values() and case.mode == MODES[case.hit.process][0]]


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
    of = f" of {len(hit.jobs)} jobs" if hit and len(hit.jobs) > 1 else ""
    where = (hit.process, hit.task, f"{hit.phase} {hit.point} #{hit.n}{of}") if hit else ("", "", "no crash")
    mode = case.mode if case.mode in ("", "child") else f"{case.mode}, {case.first} first"
    charged = [job.charged for job in row.jobs if job.charged is not None]
    return (
        case.scenario.name,
        *where,
        mode,
        end(row),
        str(sum(charged)) if charged else "-",
        str(sum(job.executions for job in row.jobs)),
        "yes" if any(job.exposed for job in row.jobs) else "-",
        f"{row.seconds:.1f}",
        "; ".join(row.problems) or "ok",
    )


def end(row: Row) -> str:
    """How the jobs ended, in words."""
    ends = Counter(job.state if job.error_code is None else f"{job.state} ({job.error_code})" for job in row.jobs)
    return " + ".join(what if n == 1 else f"{what} x{n}" for what, n in ends.items())


def counts(rows: Sequence[Row]) -> str:
    """How many crashes of each scenario there were, in which mode, and how they ended."""
    lines = []
    for name in dict.fromkeys(row.case.scenario.name for row in rows):
        own = [row for row in rows if row.case.scenario.name == name]
        told = Counter(row.case.mode for row in own), Counter(end(row) for row in own)
        details = "; ".join(", ".join(f"{n} {what}" for what, n in each.items()) for each in told)
        lines.append(f"{name}: {len(own)}, of which {sum(bool(row.problems) for row in own)} not ok; {details}")
    return "\n".join(lines)
