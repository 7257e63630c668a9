"""Running `creditmill` as a person does: in a folder, in a process of its own, with an instance in the background."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import psutil

from tests.system import wait_until
from workers import cli
from workers.local.machine import free_port

# A new interpreter needs longer to import everything than a command to do its work: commands start from a process that
# has imported it, each in a process of its own.
PREPARED = get_context("forkserver")
PREPARED.set_forkserver_preload(["tests.acceptance.commands"])
NEEDS_A_SHELL = re.compile(r"[|><$&;()`*?\\]")
BIN = Path(sys.executable).parent
PROJECT = Path(__file__).parents[2]


def environment(folder: Path, **given: str) -> dict[str, str]:
    """What a person's shell has: our programs on the path, and nothing of a server."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CREDITMILL_", "DATABASE_", "BROKER_"))
    }
    return kept | {"PATH": f"{BIN}:{os.environ['PATH']}", "CREDITMILL_FOLDER": str(folder / ".creditmill")} | given


def shell(folder: Path, script: str, **given: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script in this folder, to its end."""
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment(folder, **given),
        text=True,
        capture_output=True,
        timeout=150,
        check=False,
    )


def commands(folder: Path, script: str, **given: str) -> subprocess.CompletedProcess[str]:
    """Run a script in this folder, to its end: in a shell only the lines that are more than `creditmill` and words."""
    if "export " in script:
        return shell(folder, script, **given)
    output = folder / "commands.log"
    output.write_text("")
    for line in script.replace("\\\n", " ").splitlines():
        if NEEDS_A_SHELL.search(line) or not line.startswith("creditmill "):
            ran = shell(folder, line, **given)
            if ran.returncode != 0:
                return ran
            continue
        program = (shlex.split(line, comments=True)[1:], folder, environment(folder, **given), output)
        process = PREPARED.Process(target=_command, args=program)
        process.start()
        process.join(150)
        if process.exitcode != 0:
            process.kill()
            return subprocess.CompletedProcess(line, process.exitcode or -1, output.read_text(), "")
    return subprocess.CompletedProcess(script, 0, output.read_text(), "")


def _command(arguments: list[str], folder: Path, variables: Mapping[str, str], output: Path) -> None:
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    with output.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["creditmill", *arguments]
    cli.main()


@contextmanager
def started(folder: Path, *arguments: str, **given: str) -> Iterator[subprocess.Popen[str]]:
    """A command that goes on until the block ends; then it and whatever it started are gone, whatever happened."""
    with (folder / "output.log").open("a") as output:
        process = subprocess.Popen(
            [str(BIN / "creditmill"), *arguments],
            cwd=folder,
            env=environment(folder, **given),
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait(60)
            for leftover in ours(folder):
                leftover.kill()


@contextmanager
def instance(folder: Path, *options: str, **given: str) -> Iterator[subprocess.Popen[str]]:
    """`creditmill up --simulator`, ready for work."""
    given.setdefault("CREDITMILL_API_PORT", str(free_port()))
    with started(folder, "up", "--simulator", *options, **given) as process:

        def ready() -> bool:
            assert process.poll() is None, (folder / "output.log").read_text()
            return shell(folder, "creditmill doctor").returncode == 0

        wait_until(ready, within_s=90, what="a healthy instance")
        yield process


def ours(folder: Path, word: str = "") -> list[psutil.Process]:
    """The processes that work in this folder's instance, and have `word` in their command."""
    found = []
    for process in psutil.process_iter():
        try:
            mine: Mapping[str, str] = process.environ()
            # The servers' own environments and arguments say nothing of us, but they work in our folder.
            told = f"{process.cwd()} {' '.join(process.cmdline())}"
        except psutil.Error:
            continue
        works_here = mine.get("CREDITMILL_FOLDER", "").startswith(str(folder)) or str(folder) in told
        if works_here and word in told:
            found.append(process)
    return [process for process in found if process.pid != os.getpid()]
