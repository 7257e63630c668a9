"""Runs the programs that are measured, and those that measure them; a program that dies ends its lane with its words.

Other than under the supervisor, what a program writes goes straight into a file, so that reading it costs nothing, and
nothing is started a second time.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.place import BenchError

LONGEST_S = 1_800
STOP_S = 30
LOOK_EVERY_S = 0.1


@dataclass(frozen=True)
class Program:
    """A command, the folder that it runs in, and what is added to our environment for it."""

    name: str
    command: Sequence[str]
    folder: Path
    environment: Mapping[str, str] = field(repr=False)


class Running:
    """Programs that run, and the folder that their words go to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def pids(self) -> list[int]:
        """The main process of each program."""
        return [child.pid for child in self._started.values()]

    def start(self, program: Program) -> None:
        """Start one more program, in a process group of its own."""
        with self._log(program.name).open("ab") as log:
            self._started[program.name] = _launch(program, stdout=log, stderr=log)

    def ask(self, program: Program) -> Any:
        """Run a program to its end; returns what it says as JSON. Raises BenchError when it, or another one, fails."""
        return json.loads(self.run(program))

    def run(self, program: Program) -> str:
        """Run a program to its end; returns what it says. Raises BenchError when it, or another one, fails."""
        said = self._folder / f"{program.name}.said"
        with said.open("wb") as output, self._log(program.name).open("ab") as log:
            child = _launch(program, stdout=output, stderr=log)
        try:
            self._wait(program.name, child, time.monotonic() + LONGEST_S)
        finally:
            _kill(child)
        if child.returncode != 0:
            raise BenchError(f"{program.name} failed: {self._last_words(program.name)}")
        return said.read_text()

    def stop(self) -> None:
        """Stop every program, the latest first, with SIGKILL for whatever does not heed SIGTERM."""
        for child in reversed(self._started.values()):
            with suppress(ProcessLookupError):
                child.terminate()
        deadline = time.monotonic() + STOP_S
        for child in self._started.values():
            with suppress(subprocess.TimeoutExpired):
                child.wait(max(0.1, deadline - time.monotonic()))
            _kill(child)
        self._started.clear()

    def _wait(self, name: str, child: subprocess.Popen[bytes], deadline: float) -> None:
        while child.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                child.wait(LOOK_EVERY_S)
            dead = [other for other, process in self._started.items() if process.poll() is not None]
            if dead:
                raise BenchError(f"{dead[0]} ended while {name} ran: {self._last_words(dead[0])}")
            if time.monotonic() > deadline:
                raise BenchError(f"{name} did not come to its end in time.")

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _last_words(self, name: str) -> str:
        lines = self._log(name).read_text(errors="replace").splitlines()
        return next((line for line in reversed(lines) if line.strip()), "it said nothing")[:500]


@contextmanager
def running(folder: Path, programs: Sequence[Program]) -> Iterator[Running]:
    """Run these programs as long as the block lasts, with their logs in a folder of this run's."""
    folder.mkdir(parents=True, exist_ok=True)
    started = Running(folder)
    try:
        for program in programs:
            started.start(program)
        yield started
    finally:
        started.stop()


def _launch(program: Program, **streams: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        program.command,
        cwd=program.folder,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **program.environment},
        stdin=subprocess.DEVNULL,
        # Ctrl-C is ours: we stop it in our own order.
        start_new_session=True,
        **streams,
    )


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End the child's whole group: also what a child that has ended left behind."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
