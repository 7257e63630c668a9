"""The program under test: our two workers with crash points, forked from a server with everything imported.

So a case costs no imports. Nothing waits here for longer than it must: the length of a wait is not what is tested.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from celery.concurrency import asynpool

from tasks import calls
from tests.chaos.crash_hits import CrashPoints

PLAN = "CRASH_PLAN"
"""The variable that names the file of a worker's plan: a worker that lives on gets another plan for the next case."""

SOON_S = 0.1
"""Instead of the waits of Celery's and kombu's housekeeping, in seconds."""
GATHERED_S = 5
"""How long an answer waits for the others at most, in seconds: one of them may be a call that is tried again."""

_SUBREAPER, _DEATH_SIGNAL = 36, 1
_libc = ctypes.CDLL(None, use_errno=True)


def run(worker: str, plan: Path) -> None:
    """Run one of our workers with crash points, until it is killed."""
    from tasks.app import app
    from workers import processes

    CrashPoints(worker, plan).install()
    # What a dead main process held comes back as soon as its time is over, and a lost child is noticed at once: both
    # are only about how long a case takes.
    app.conf.broker_transport_options = {**app.conf.broker_transport_options, "unacked_restore_interval": SOON_S}
    asynpool.AsynPool.timers = property(lambda pool: {pool.maintain_pool: SOON_S})
    sys.modules["billiard.pool"].LOST_WORKER_TIMEOUT = 2 * SOON_S  # type: ignore[attr-defined]
    calls._Batch = WatchedBatch  # type: ignore[misc]
    calls._results._gather_s = everybody_has_answered
    {"billing": processes.run_billing, "generation": processes.run_generation}[worker]()


class WatchedBatch(calls._Batch):
    """A batch of calls; how many of all batches have not come to their end is known."""

    open_calls = 0
    _counting = Lock()

    def begin(self) -> None:
        """One more call."""
        with self._counting:
            WatchedBatch.open_calls += 1
        super().begin()

    def end(self, error: BaseException | None = None) -> None:
        """One call has come to its end."""
        with self._counting:
            WatchedBatch.open_calls -= 1
        super().end(error)


def everybody_has_answered() -> float:
    """Wait until every call under way has its answer, or has ended without one: then one group has them all."""
    until = time.monotonic() + GATHERED_S
    while len(calls._results._gathered) < WatchedBatch.open_calls and time.monotonic() < until:
        time.sleep(0.001)
    return 0.0


@dataclass
class ForkServer:
    """Forks workers from a process that has everything imported, no threads and no connections.

    It reads one JSON request a line and answers each with one line. It takes in and reaps what its workers leave
    behind, and when its standard input ends, nothing of it is left.
    """

    groups: set[int] = field(default_factory=set)
    ended: set[int] = field(default_factory=set)

    def serve(self) -> None:
        """Answer requests until there are no more."""
        answers = {"start": self._start, "ended": self._ended, "end": self._end}
        waiting = b""
        try:
            while True:
                select.select([0], [], [], 0.05)
                self._reap()
                if not select.select([0], [], [], 0)[0]:
                    continue
                read = os.read(0, 65_536)
                if not read:
                    return
                *lines, waiting = (waiting + read).split(b"\n")
                for line in lines:
                    request = json.loads(line)
                    os.write(1, json.dumps(answers[request.pop("do")](**request)).encode() + b"\n")
        finally:
            for group in list(self.groups):
                self._end(group)

    def _start(self, worker: str, environment: dict[str, str], log: str) -> int:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _become_worker(parent, worker, environment, log)
        self.groups.add(pid)
        self.ended.discard(pid)
        # Also here: a group that is ended before its leader comes to it must exist.
        with suppress(OSError):
            os.setpgid(pid, pid)
        return pid

    def _ended(self, pids: list[int]) -> list[int]:
        """Those of these workers whose main process has ended."""
        return sorted(self.ended.intersection(pids))

    def _end(self, pid: int) -> int:
        """Kill a worker and all its children, and wait until none is left."""
        while True:
            self._reap()
            try:
                os.killpg(pid, signal.SIGKILL)
            except ProcessLookupError:
                break
            time.sleep(0.002)
        self.groups.discard(pid)
        return pid

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
                self.ended.add(pid)


class Forks:
    """A fork server as a process of its own; several threads may use it."""

    def __init__(self, folder: Path) -> None:
        self._lock = threading.Lock()
        self._errors = (folder / "fork-server.log").open("w")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.crashing"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        # It answers when everything is imported: that is no part of anybody's case.
        self.ask("ended", pids=[])

    def ask(self, do: str, **request: Any) -> Any:
        """Have something done, and return the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps({"do": do, **request}).encode() + b"\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End it; it ends its workers."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._errors.close()


def _become_worker(parent: int, worker: str, environment: dict[str, str], log: str) -> None:
    try:
        os.setpgid(0, 0)
        _libc.prctl(_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:
            return
        quiet, output = os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        for target, opened in ((0, quiet), (1, output), (2, output)):
            os.dup2(opened, target)
        # A worker that is killed leaves its temporary folder behind: it belongs into that of the run.
        kept = {name: os.environ[name] for name in ("TMPDIR",) if name in os.environ}
        os.environ.clear()
        os.environ.update(kept | environment)
        run(worker, Path(environment[PLAN]))
    finally:
        # Whatever happened, this process must not run on as a second fork server.
        if (error := sys.exc_info()[1]) is not None:
            sys.excepthook(type(error), error, error.__traceback__)
        sys.stderr.flush()
        os._exit(1)


def warm_up() -> None:
    """Import everything that a worker would import, so that its forks find it there."""
    import celery.apps.worker
    import celery.bin.worker
    import celery.concurrency.prefork
    import celery.concurrency.thread
    import celery.worker.consumer
    import celery.worker.strategy
    import openai
    import openai.resources.responses

    import tasks.generation
    import tasks.periodic
    import tasks.providers.openai
    import workers.processes
    from billing.catalog import tokens

    for tokenizer in tokens.TOKENIZERS:
        tokens.count_input(["bread"], tokenizer)
    openai.OpenAI(api_key="none").responses  # noqa: B018 - the SDK imports its resources when they are first used
    del celery, tasks, workers
    gc.collect()
    gc.freeze()


def main() -> None:
    """Be the fork server of the process that started this one."""
    _libc.prctl(_SUBREAPER, 1)
    warm_up()
    assert len(os.listdir("/proc/self/task")) == 1, "a thread does not survive a fork"
    ForkServer().serve()


if __name__ == "__main__":
    main()
