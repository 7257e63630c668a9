"""Takes each guard away in turn, in a copy of the tree, and says which test noticed.

`python -m tests.mutation.check [--only TEXT] [--list] [--json] [--jobs N]`; exit 1 when a guard is not noticed by any
of its tests, or could not be judged.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Queue
from tempfile import TemporaryDirectory

import click
from rich.console import Console
from rich.table import Table

from tests.mutation.definitions import ROOT, ids_of
from tests.mutation.guard import Guard
from tests.mutation.guards import GUARDS
from tests.mutation.operators import Mutation
from tests.mutation.without import FAILURES, SERVERS, SQL
from workers.local.embedded.servers import Servers, embedded_servers

RUN_S = 300
"""The longest that one guard's tests may take, in seconds; each test has its own, shorter limit."""
UNCHANGED_S = 1_800
TEST_S = 60
COMPARISON = "test_the_migrations_make_exactly_the_tables_of_the_code"
"""It notices whatever is dropped, and shows of nothing that it protects anything."""

ARGUMENTS = (
    *("-q", "-p", "no:cacheprovider", "-p", "tests.mutation.without", "--tb=line"),
    *(f"--timeout={TEST_S}", "--timeout-method=signal", *(f"--deselect={test}" for test in ids_of(COMPARISON))),
)
CAUGHT, NOT_CAUGHT, ERROR = "caught", "not caught", "error"


@dataclass(frozen=True)
class Result:
    """What became of one guard's removal: noticed by which test, and in how many seconds."""

    guard: str
    outcome: str
    by: str
    seconds: float


@dataclass(frozen=True)
class Run:
    """One run of pytest: its exit code (None when it was ended), which tests failed, and the end of what it wrote."""

    code: int | None
    failed: tuple[str, ...]
    said: str


class Bench:
    """Where one guard is tested at a time: a PostgreSQL, a Valkey, and a process that starts each run quickly."""

    def __init__(self, servers: Servers, runner: subprocess.Popen[str]) -> None:
        self._servers = servers
        self._runner = runner

    def run(self, tree: Path, tests: Sequence[str], *, sql: str) -> Run:
        """Run these tests on this tree until the first that fails."""
        failures, output = tree / "failures", tree / "output"
        servers = f"{self._servers.database_url} {self._servers.broker_url}"
        environment = {"PYTHONPATH": str(tree), SQL: sql, FAILURES: str(failures), SERVERS: servers}
        run = {
            "tree": str(tree),
            "arguments": [*ARGUMENTS, "-x", *tests],
            "environment": environment,
            "output": str(output),
            "limit_s": RUN_S,
        }
        assert self._runner.stdin is not None
        assert self._runner.stdout is not None
        self._runner.stdin.write(json.dumps(run) + "\n")
        self._runner.stdin.flush()
        code = json.loads(self._runner.stdout.readline())
        return Run(code, _failed(failures), output.read_text(errors="replace").strip())


@contextmanager
def benches(count: int) -> Iterator[Queue[Bench]]:
    """This many benches, to be taken and put back."""
    free: Queue[Bench] = Queue()
    with ExitStack() as stack:
        for _ in range(count):
            folder = stack.enter_context(TemporaryDirectory(prefix="creditmill-"))
            servers = stack.enter_context(embedded_servers(Path(folder)))
            runner = subprocess.Popen(
                [sys.executable, Path(__file__).with_name("runner.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            stack.callback(_end, runner)
            free.put(Bench(servers, runner))
        yield free


@click.command()
@click.option("--only", default="", metavar="TEXT", help="Only the guards whose promise, or definition, contains this.")
@click.option("--list", "listing", is_flag=True, help="Show the guards, and run nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@click.option("--jobs", default=2, show_default=True, help="How many guards are tested at a time.")
def main(only: str, listing: bool, as_json: bool, jobs: int) -> None:
    """Take each guard away in turn and show that a test notices."""
    chosen = [guard for guard in GUARDS if only.lower() in f"{guard.promise} {guard.how()}".lower()]
    if not chosen:
        raise click.UsageError(f"No guard's promise contains {only!r}.")
    if listing:
        _list(chosen, as_json=as_json)
        return
    for end in (signal.SIGINT, signal.SIGTERM):
        # However it is ended, also from the background, it stops its servers and removes its copies.
        signal.signal(end, signal.default_int_handler)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    began = time.monotonic()
    with TemporaryDirectory(prefix="creditmill-mutants-") as folder:
        results = judge(chosen, Path(folder), console, jobs=jobs)
    if as_json:
        click.echo(json.dumps([asdict(result) for result in results], indent=2))
    else:
        Console().print(_table(results))
    counts = {outcome: sum(r.outcome == outcome for r in results) for outcome in (CAUGHT, NOT_CAUGHT, ERROR)}
    told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    console.print(f"{len(results)} guards: {told}, in {time.monotonic() - began:.0f} s")
    sys.exit(0 if counts[CAUGHT] == len(results) else 1)


def judge(guards: Sequence[Guard], folder: Path, console: Console, *, jobs: int) -> list[Result]:
    """The result of each guard, in the order of the list; the tests run on copies in this folder."""
    unchanged = folder / "unchanged"
    copy_tree(unchanged)
    console.print(f"{len(guards)} guards; first their tests with every guard in place ...")
    red = failing_unchanged(unchanged, guards, folder, jobs=jobs)
    found: dict[str, Result] = {}

    def judge_one(number: int, guard: Guard) -> Result:
        bench = free.get()
        try:
            return _judge_one(guard, unchanged, folder / f"mutant-{number}", red, bench)
        finally:
            free.put(bench)

    with benches(jobs) as free, ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(judge_one, number, guard) for number, guard in enumerate(guards)]
        try:
            for done in as_completed(running):
                result = done.result()
                found[result.guard] = result
                console.print(_line(result, len(found), len(guards)), markup=False)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [found[guard.promise] for guard in guards]


def copy_tree(to: Path) -> None:
    """Copy what git knows or would add, as it is now."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


def failing_unchanged(tree: Path, guards: Iterable[Guard], folder: Path, *, jobs: int) -> set[str]:
    """The tests of these guards that fail although nothing was taken away."""
    tests = sorted({test for guard in guards for test in guard.test_ids(tree)})
    failures = folder / "unchanged.failures"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *ARGUMENTS, "-n", str(jobs), *tests],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), FAILURES: str(failures)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=UNCHANGED_S,
    )
    run = Run(done.returncode, _failed(failures), done.stdout + done.stderr)
    if run.code not in (0, 1):
        raise click.ClickException(f"The tests could not be run without any change:\n{run.said}")
    return set(run.failed)


def remove(mutation: Mutation, unchanged: Path, tree: Path) -> None:
    """Take a guard of the code away; raises ValueError when it is not found, or not exactly once."""
    path, text = mutation.apply(unchanged)
    (tree / path).write_text(text, encoding="utf-8")
    # The copy came with compiled modules, which are known by time and size: this one must not pass for its old self.
    for compiled in (tree / path).parent.glob(f"__pycache__/{path.stem}.*.pyc"):
        compiled.unlink()


def _judge_one(guard: Guard, unchanged: Path, tree: Path, red: set[str], bench: Bench) -> Result:
    began = time.monotonic()

    def result(outcome: str, by: str) -> Result:
        return Result(guard.promise, outcome, by, round(time.monotonic() - began, 1))

    tests = guard.test_ids(unchanged)
    broken = [test for test in tests if any(_belongs(node, test) for node in red)]
    if broken:
        return result(ERROR, f"fails with every guard in place: {', '.join(broken)}")
    shutil.copytree(unchanged, tree)
    try:
        if guard.mutation is not None:
            remove(guard.mutation, unchanged, tree)
        run = bench.run(tree, tests, sql=guard.sql)
    except ValueError as error:
        return result(ERROR, str(error))
    finally:
        shutil.rmtree(tree, ignore_errors=True)
    if run.code == 0:
        return result(NOT_CAUGHT, "")
    if run.code == 1 and run.failed:
        return result(CAUGHT, run.failed[0])
    return result(ERROR, f"pytest ended with {run.code}: {run.said[-600:]}")


def _list(guards: Sequence[Guard], *, as_json: bool) -> None:
    for guard in guards:
        told = {"promise": guard.promise, "how": guard.how(), "tests": guard.test_ids()}
        lines = [guard.promise, f"    {guard.how()}", *(f"    {test}" for test in guard.test_ids())]
        click.echo(json.dumps(told) if as_json else "\n".join(lines))


def _failed(failures: Path) -> tuple[str, ...]:
    return tuple(dict.fromkeys(failures.read_text().splitlines())) if failures.exists() else ()


def _end(runner: subprocess.Popen[str]) -> None:
    assert runner.stdin is not None
    runner.stdin.close()
    try:
        runner.wait(timeout=5)
    except subprocess.TimeoutExpired:
        os.killpg(runner.pid, signal.SIGKILL)
        runner.wait()


def _belongs(node: str, test: str) -> bool:
    return node == test or node.startswith((f"{test}::", f"{test}["))


def _line(result: Result, number: int, of: int) -> str:
    told = {CAUGHT: f"caught by {result.by}", NOT_CAUGHT: "NOT CAUGHT", ERROR: f"ERROR: {result.by}"}
    return f"{number:3}/{of}  {result.seconds:5.1f} s  {result.guard}: {told[result.outcome]}"


def _table(results: Sequence[Result]) -> Table:
    table = Table("Guard", "Noticed by", "s", title="Each guard, taken away")
    for result in sorted(results, key=lambda result: result.outcome):
        by = {CAUGHT: result.by.removeprefix("tests/"), NOT_CAUGHT: "NOT CAUGHT", ERROR: f"ERROR: {result.by}"}
        style = "" if result.outcome == CAUGHT else "bold red"
        table.add_row(result.guard, by[result.outcome].replace("[", r"\["), f"{result.seconds:.1f}", style=style)
    return table


if __name__ == "__main__":
    main()
