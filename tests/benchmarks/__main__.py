"""`python -m tests.benchmarks`: how fast Creditmill is, beside what others do and beside doing without it.

Every lane runs once a round, one after the other, so that a slow minute of the machine slows all of them.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from sqlalchemy.exc import DBAPIError

from tests.benchmarks import place, report
from tests.benchmarks.figures import Round, outcomes
from tests.benchmarks.lanes import LANES, Bench
from tests.benchmarks.mill import Mill, version_in
from tests.benchmarks.place import BenchError
from tests.benchmarks.sizes import Sizes
from workers.local.embedded.server import EmbeddedServerError
from workers.local.instance import NAMES

JOBS, HISTORY, ROUNDS = 1_500, 1_000_000, 3
QUICK_JOBS, QUICK_HISTORY, QUICK_ROUNDS = 300, 100_000, 1


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--rounds", type=click.IntRange(min=1), help=f"How often every lane runs.  [default: {ROUNDS}]")
@click.option(
    "--jobs",
    type=click.IntRange(min=20),
    help=f"Jobs that are submitted one by one; every lane is scaled by it, bulk is 6.7 times that.  [default: {JOBS}]",
)
@click.option(
    "--history",
    type=click.IntRange(min=1_000),
    help=f"Finished jobs of the long history.  [default: {HISTORY}]",
)
@click.option("--only", multiple=True, type=click.Choice(list(LANES)), help="Only this lane; may be given often.")
@click.option(
    "--quick", is_flag=True, help=f"To try it: {QUICK_ROUNDS} round, {QUICK_JOBS} jobs, {QUICK_HISTORY} of history."
)
@click.option(
    "--baseline",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A checkout of another version, with its own .venv, for the idle lane.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("bench.json"),
    show_default=True,
    help="Where everything that was measured is written, as JSON.",
)
def main(
    rounds: int | None,
    jobs: int | None,
    history: int | None,
    only: tuple[str, ...],
    quick: bool,
    baseline: Path | None,
    output: Path,
) -> None:
    """Measure how fast Creditmill is, on a PostgreSQL and a Valkey of its own, with real processes and durable commits.

    Ratios of jobs a second are to a bare Celery chain of four tasks that do nothing, or to what the line names; each is
    formed within a round, and the table shows the median of all rounds. A ratio needs both lanes.

    After every lane of Creditmill its books are audited. The exit code is 1 when they do not balance, or when a lane
    failed; a target that was not met is only said.

    \b
    Example:  python -m tests.benchmarks --quick --only bare --only one-by-one
    """
    options = {
        "rounds": rounds or (QUICK_ROUNDS if quick else ROUNDS),
        "jobs": jobs or (QUICK_JOBS if quick else JOBS),
        "history": history or (QUICK_HISTORY if quick else HISTORY),
        "lanes": [name for name in LANES if not only or name in only],
        "baseline": baseline and str(baseline),
    }
    run = Run(options)
    with _interruptible() as came:
        try:
            run.all_rounds()
        except (BenchError, EmbeddedServerError) as error:
            run.trouble = str(error)
        except (KeyboardInterrupt, DBAPIError):
            # A statement that is interrupted ends with an error of the database.
            if not came:
                raise
            run.trouble = "The run was interrupted."
    run.tell(output)
    sys.exit(1 if run.trouble else 0)


class Run:
    """One run: what was asked for, and what was found until now."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.rounds: list[Round] = []
        self.servers: dict[str, str] = {}
        self.notes: list[str] = []
        self.trouble: str | None = None

    def all_rounds(self) -> None:
        """Run every lane in every round; raises BenchError when one fails."""
        lanes: Sequence[str] = self.options["lanes"]
        _forget_settings()
        with _progress(len(lanes) * self.options["rounds"]) as progress, place.opened() as opened:
            self.servers = opened.versions()
            baseline = self.options["baseline"]
            bench = Bench(
                opened,
                Sizes(self.options["jobs"], self.options["history"]),
                Mill(opened),
                Mill(opened, version_in(Path(baseline))) if baseline else None,
                rounds=self.options["rounds"],
                notes=self.notes,
            )
            for bench.number in range(self.options["rounds"]):
                found: dict[str, Any] = {}
                self.rounds.append(found)
                for name in lanes:
                    progress.say(f"round {bench.number + 1} of {self.options['rounds']}: {name}")
                    found[name] = LANES[name](bench)
                    progress.done(name, found[name])

    def tell(self, output: Path) -> None:
        """Write what was found, and show it."""
        found = outcomes(self.rounds)
        report.write(
            output,
            self.rounds,
            found,
            options=self.options,
            servers=self.servers,
            notes=self.notes,
            trouble=self.trouble,
        )
        if found:
            Console(width=None if sys.stdout.isatty() else 120).print(report.shown(found, len(self.rounds)))
        for note in self.notes:
            click.echo(note, err=True)
        click.echo(f"Everything that was measured is in {output}.", err=True)
        if self.trouble:
            click.echo(self.trouble, err=True)


class Shown:
    """The line that shows how far a run is; without a terminal, a line for each lane."""

    def __init__(self, progress: Progress, lanes: int) -> None:
        self._progress = progress
        self._bar = progress.add_task("starting the servers", total=lanes)

    def say(self, what: str) -> None:
        """Say what runs now."""
        self._progress.update(self._bar, description=what)

    def done(self, lane: str, figures: dict[str, float]) -> None:
        """One more lane has run."""
        self._progress.advance(self._bar)
        if not self._progress.console.is_terminal:
            click.echo(f"{lane}: {', '.join(f'{name} {value:,.1f}' for name, value in figures.items())}", err=True)


@contextmanager
def _progress(lanes: int) -> Iterator[Shown]:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield Shown(progress, lanes)


def _forget_settings() -> None:
    """What is measured runs with its defaults, whatever this environment says."""
    for name in [name for name in os.environ if name.startswith("CREDITMILL_") or name in NAMES]:
        del os.environ[name]


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Let the first Ctrl-C or SIGTERM end the run; those that follow, while it tidies up, change nothing.

    Yields the signals that came.
    """
    came: list[int] = []

    def interrupt(signum: int, _: object) -> None:
        came.append(signum)
        if len(came) == 1:
            raise KeyboardInterrupt

    former = {signum: signal.signal(signum, interrupt) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield came
    finally:
        for signum, handler in former.items():
            signal.signal(signum, handler)


if __name__ == "__main__":
    main()
