"""Runs our own programs on one machine, shows what they print under their names, and stops them in order.

It knows nothing of what the programs do; `workers.local.embedded` runs PostgreSQL and Valkey.
"""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import IO, Any, NamedTuple, TextIO

import psutil

from workers.local import variables
from workers.local.private_files import write_private
from workers.local.signals import interrupted

WATCH_EVERY_S = 0.1
LONGEST_PAUSE_S = 30
RAN_WELL_S = 60
SLOW_S = 3
QUIT_S = 5
GIVE_UP_S = 10
LONGEST_LINE_BYTES = 64 * 1024
SAME_START_S = 2.0  # the clock that a create time is derived from may be adjusted by about a second
COLOURS = (36, 33, 35, 32, 34, 96, 93, 95, 92, 94)
SUPERVISOR = "supervisor"


class SupervisorError(Exception):
    """Says in one sentence why the programs cannot be started."""


@dataclass(frozen=True)
class Program:
    """A program to keep running.

    The command must not contain secrets, because `ps` shows it to everyone on the machine; they belong into the
    environment. That is the program's whole one, beside what every program gets of ours (`variables.PLAIN`).
    `stop_grace_s` is how long (seconds) it may finish after SIGTERM; programs of a lower `stop_order` are stopped
    before those of a higher one.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    stop_grace_s: float = 30
    stop_order: int = 0


class _Step(NamedTuple):
    after_s: float
    signum: signal.Signals | None
    says: str


def _stop_steps(grace_s: float) -> list[_Step]:
    """What happens, and when, to a program that does not heed SIGTERM."""
    steps = [
        _Step(SLOW_S, None, f"is still finishing; it has {grace_s:g} s (Ctrl-C ends it now)"),
        _Step(grace_s, signal.SIGQUIT, f"did not stop within {grace_s:g} s; sending SIGQUIT"),
        _Step(grace_s + QUIT_S, signal.SIGKILL, "still runs; sending SIGKILL to its whole process group"),
    ]
    return steps if grace_s > SLOW_S else steps[1:]


@dataclass
class _Running:
    """A live program: our child, or (without `child`) one that a killed supervisor left behind."""

    program: Program
    process: psutil.Process
    child: subprocess.Popen[bytes] | None = None
    reader: threading.Thread | None = None
    started_at: float = 0.0

    def send(self, signum: signal.Signals) -> None:
        """Signal the main process only, or for SIGKILL its whole group."""
        if signum is signal.SIGKILL:
            self._kill_group()
        with suppress(psutil.NoSuchProcess):
            self.process.send_signal(signum)

    def bury(self) -> int:
        """End whatever is left of the group, so that no orphan works beside a successor; return the exit code."""
        self._kill_group()
        return 0 if self.child is None else self.child.wait()

    def _kill_group(self) -> None:
        # The group's number is still its own while its leader is not reaped, or while no other process has the number.
        if self.child is not None or self.process.is_running() or not psutil.pid_exists(self.process.pid):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)


@dataclass
class _Slot:
    program: Program
    running: _Running | None = None
    failures: int = 0
    start_at: float = 0.0


class Supervisor:
    """Starts programs, restarts those that die, shows their lines, and stops them cleanly.

    `output` receives `name | line`, unless `quiet`; with a `log_folder` each program's lines also go to `<name>.log`
    there. The state file tells the next supervisor which programs one killed with SIGKILL has left behind.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        *,
        output: TextIO,
        state_file: Path,
        colour: bool,
        log_folder: Path | None = None,
        quiet: bool = False,
    ):
        names = [program.name for program in programs]
        if len(set(names)) != len(names):
            raise ValueError("Every program needs a name of its own.")
        self._slots = [_Slot(program) for program in programs]
        self._output = output
        self._state_file = state_file
        self._log_folder = log_folder
        self._shows = not quiet
        self._width = max((len(name) for name in names), default=0)
        self._colours = dict(zip(names, cycle(COLOURS), strict=False)) if colour else {}
        self._logs: dict[str, TextIO] = {}
        self._lock = threading.RLock()
        self._write_lock = threading.RLock()
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None

    def start(self) -> None:
        """Stop what a killed supervisor left behind, then start every program and watch over them.

        Raises SupervisorError if another supervisor uses the state file, or a program cannot be started at all.
        """
        self._state_file.parent.mkdir(parents=True, exist_ok=True)
        self._open_logs()
        self._stop_leftovers()
        self._stopping.clear()
        try:
            for slot in self._slots:
                self._launch(slot)
            self._watcher = threading.Thread(target=self._watch, name="supervisor", daemon=True)
            self._watcher.start()
        except OSError as error:
            self.stop()
            raise SupervisorError(f"The program {slot.program.name} cannot be started: {error}.") from error
        except BaseException:
            self.stop()
            raise

    def run(self, until: Callable[[], bool]) -> None:
        """Return as soon as `until` says so; meanwhile the programs are kept running."""
        while not until():
            time.sleep(WATCH_EVERY_S)

    def pids(self) -> dict[str, int]:
        """Return the main process id of every program that runs just now, by name."""
        with self._lock:
            running = [slot.running for slot in self._slots if slot.running is not None]
            return {one.program.name: one.process.pid for one in running if is_alive(one.process)}

    def stop(self) -> None:
        """Stop every program, the lowest `stop_order` first: SIGTERM, then SIGQUIT, then SIGKILL to its group.

        May be called again, and from any thread. Ctrl-C during it ends at once whatever still runs.
        """
        with interrupted() as hastened:
            self._stopping.set()
            if self._watcher is not None:
                self._watcher.join()
            with self._lock:
                running = [slot.running for slot in self._slots if slot.running is not None]
                survivors = self._end_in_order(running, hastened)
                for slot in self._slots:
                    slot.running = None
                if self._watcher is not None or running:
                    self._watcher = None
                    if not survivors:
                        self._state_file.unlink(missing_ok=True)
                self._close_logs()

    def _launch(self, slot: _Slot) -> None:
        program = slot.program
        child = subprocess.Popen(
            program.command,
            env={**variables.chosen(*variables.PLAIN), "PYTHONUNBUFFERED": "1", **program.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        slot.running = _Running(program, psutil.Process(child.pid), child, started_at=time.monotonic())
        assert child.stdout is not None
        reader = threading.Thread(target=self._read, args=(program, child.stdout), name=program.name, daemon=True)
        slot.running.reader = reader
        reader.start()
        self._save_state()

    def _watch(self) -> None:
        while not self._stopping.wait(WATCH_EVERY_S):
            # With a timeout, because stop() waits for this thread and may have interrupted a holder of the lock.
            if self._lock.acquire(timeout=WATCH_EVERY_S):
                try:
                    for slot in self._slots:
                        self._tend(slot, time.monotonic())
                finally:
                    self._lock.release()

    def _tend(self, slot: _Slot, now: float) -> None:
        """Notice a death and plan the restart, or carry out the restart that is due."""
        if slot.running is not None and not is_alive(slot.running.process):
            if now - slot.running.started_at >= RAN_WELL_S:
                slot.failures = 0
            self._plan_restart(slot, f"ended with {_ending(slot.running.bury())}", now)
        elif slot.running is None and now >= slot.start_at:
            try:
                self._launch(slot)
            except OSError as error:
                self._plan_restart(slot, f"cannot be started ({error})", now)

    def _plan_restart(self, slot: _Slot, what_happened: str, now: float) -> None:
        slot.running = None
        pause_s = min(2**slot.failures, LONGEST_PAUSE_S)
        slot.failures = min(slot.failures + 1, LONGEST_PAUSE_S)
        slot.start_at = now + pause_s
        self._write(slot.program.name, f"{what_happened}; starting it again in {pause_s} s")

    def _end_in_order(self, running: Sequence[_Running], hastened: Callable[[], bool]) -> list[_Running]:
        """Stop one order after the other; return those that outlived even SIGKILL."""
        survivors: list[_Running] = []
        for order in sorted({one.program.stop_order for one in running}):
            together = [one for one in running if one.program.stop_order == order]
            survivors += self._end_together(together, hastened)
        for one in running:
            if one.reader is not None:
                one.reader.join(timeout=1)
        return survivors

    def _end_together(self, running: Sequence[_Running], hastened: Callable[[], bool]) -> list[_Running]:
        began = time.monotonic()
        for one in running:
            one.send(signal.SIGTERM)
        alive = {one.program.name: (one, _stop_steps(one.program.stop_grace_s)) for one in running}
        last_s = max(one.program.stop_grace_s for one in running) + QUIT_S + GIVE_UP_S
        while alive and time.monotonic() - began < last_s:
            for name, (one, steps) in list(alive.items()):
                if not is_alive(one.process):
                    one.bury()
                    del alive[name]
                    continue
                if hastened() and steps:
                    steps[:] = [_Step(0, signal.SIGKILL, "is ended at once with SIGKILL")]
                self._escalate(one, steps, time.monotonic() - began)
            time.sleep(0.02 if alive else 0)
        return [one for one, _ in alive.values()]

    def _escalate(self, one: _Running, steps: list[_Step], elapsed_s: float) -> None:
        if steps and elapsed_s >= steps[0].after_s:
            step = steps.pop(0)
            self._write(one.program.name, step.says)
            if step.signum is not None:
                one.send(step.signum)

    def _save_state(self) -> None:
        running = [(slot.program.name, slot.running.process) for slot in self._slots if slot.running is not None]
        state = {
            SUPERVISOR: _entry(SUPERVISOR, psutil.Process()),
            "programs": [_entry(name, process) for name, process in running],
        }
        write_private(self._state_file, json.dumps(state, indent=2))

    def _stop_leftovers(self) -> None:
        state = _read_state(self._state_file)
        former = _find(state.get(SUPERVISOR))
        if former is not None:
            raise SupervisorError(f"The programs of {self._state_file} are already run by process {former.pid}.")
        known = {slot.program.name: slot.program for slot in self._slots}
        leftovers: list[_Running] = []
        for entry in state.get("programs", []):
            process = _find(entry)
            if process is not None:
                program = known.get(entry["name"], Program(entry["name"], ()))
                self._write(program.name, f"was left behind as process {process.pid}; stopping it first")
                leftovers.append(_Running(program, process))
        with interrupted() as hastened:
            survivors = self._end_in_order(leftovers, hastened)
        if survivors:
            raise SupervisorError(f"The program {survivors[0].program.name} was left behind and cannot be stopped.")

    def _read(self, program: Program, pipe: IO[bytes]) -> None:
        with pipe:
            for line in iter(lambda: pipe.readline(LONGEST_LINE_BYTES), b""):
                self._write(program.name, line.decode("utf-8", "replace").rstrip("\r\n"))

    def _write(self, name: str, line: str) -> None:
        """Write one whole line; a terminal or disk that is gone must not make a program wait for its reader."""
        label = f"{name:<{self._width}} |"
        if name in self._colours:
            label = f"\x1b[{self._colours[name]}m{label}\x1b[0m"
        with self._write_lock:
            if name in self._logs:
                with suppress(OSError, ValueError):
                    self._logs[name].write(f"{line}\n")
            if self._shows:
                encoding = getattr(self._output, "encoding", None) or "utf-8"
                try:
                    self._output.write(f"{label} {line}\n".encode(encoding, "replace").decode(encoding))
                    self._output.flush()
                except (OSError, ValueError):
                    self._shows = False

    def _open_logs(self) -> None:
        if self._log_folder is not None:
            self._log_folder.mkdir(parents=True, exist_ok=True)
            for slot in self._slots:
                self._logs[slot.program.name] = open(  # noqa: SIM115 (closed by stop)
                    self._log_folder / f"{slot.program.name}.log",
                    "a",
                    buffering=1,
                    encoding="utf-8",
                    opener=lambda path, flags: os.open(path, flags, 0o600),
                )

    def _close_logs(self) -> None:
        with self._write_lock:
            for log in self._logs.values():
                log.close()
            self._logs.clear()


def is_alive(process: psutil.Process) -> bool:
    """Return whether the process still runs; one that only waits to be reaped does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _entry(name: str, process: psutil.Process) -> dict[str, Any]:
    return {"name": name, "pid": process.pid, "create_time": process.create_time()}


def _find(entry: dict[str, Any] | None) -> psutil.Process | None:
    """Return the recorded process if it still runs, and not another one that has its number by now."""
    try:
        process = psutil.Process(entry["pid"]) if entry else None
    except psutil.NoSuchProcess:
        return None
    if process is None or not is_alive(process) or entry is None:
        return None
    return process if abs(process.create_time() - entry["create_time"]) < SAME_START_S else None


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}
