"""The program under test with crash points: our two workers, which kill themselves at a point that was chosen.

The product knows nothing of it: commits, publishes, acknowledgements and the HTTP client of the provider's SDK are
wrapped from outside. A server with everything imported forks the workers, so that a case costs no imports.
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
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import kombu.transport.redis as redis_transport
from celery._state import get_current_task
from celery.concurrency import asynpool
from sqlalchemy import Engine, event
from sqlalchemy.engine.default import DefaultDialect

PLAN = "CRASH_PLAN"
"""The variable that names the file of a worker's plan: a worker that lives on gets another plan for the next case."""

OURS = ("generation.", "periodic.")
WRITES = ("INSERT", "UPDATE", "DELETE")
SOON_S = 0.1
"""Instead of the waits of Celery's and kombu's housekeeping, in seconds: their length is not what is tested."""

_SUBREAPER, _DEATH_SIGNAL = 36, 1
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, order=True)
class Hit:
    """A moment in a worker: before or after the n-th commit, publish, send, receive or ack of a task in a process."""

    process: str
    task: str
    point: str
    phase: str
    n: int

    def is_at(self, point: str, phase: str) -> bool:
        """Whether it is before, or after, such a point."""
        return (self.point, self.phase) == (point, phase)


@dataclass(frozen=True)
class Plan:
    """Where the hits are written down, and the one at which the worker dies, if any.

    `whole` kills the worker's main process and its children, else only the process dies that comes to the point.
    """

    record: str
    marker: str
    crash_at: Hit | None = None
    whole: bool = False

    def write(self, path: Path) -> None:
        """Give this plan to the workers that read theirs from this file."""
        new = path.with_suffix(".new")
        new.write_text(json.dumps(asdict(self)))
        new.replace(path)

    @classmethod
    def read(cls, path: Path) -> Plan:
        """The plan that `write` wrote."""
        given = json.loads(path.read_text())
        return cls(**{**given, "crash_at": Hit(**given["crash_at"]) if given["crash_at"] else None})


class CrashPoints:
    """Counts the hits of this process, and kills it at the planned one, once for all processes of a case."""

    def __init__(self, worker: str, plan: Path) -> None:
        self.worker = worker
        self._path = plan
        self._plan = Plan.read(plan)
        self._main = os.getpid()
        self._counts: Counter[tuple[str, str, str, str]] = Counter()
        self._lock = threading.Lock()
        self._local = threading.local()

    @property
    def process(self) -> str:
        """Which process this is, in the words of the table."""
        if self.worker == "generation":
            return "generation"
        return "billing main" if os.getpid() == self._main else "billing child"

    @contextmanager
    def around(self, task: str | None, point: str) -> Iterator[None]:
        """The points before and after what the block does; nothing when no task of ours does it."""
        if task is None or not task.startswith(OURS):
            yield
            return
        self.reach(task, point, "before")
        yield
        self.reach(task, point, "after")

    def reach(self, task: str, point: str, phase: str) -> None:
        """Count this hit, write it down, and die here if the plan says so."""
        key = (self.process, task, point, phase)
        with self._lock:
            before, self._plan = self._plan, Plan.read(self._path)
            if self._plan != before:
                self._counts.clear()
            self._counts[key] += 1
            hit = Hit(*key, self._counts[key])
            append(self._plan.record, json.dumps(asdict(hit)))
            if hit == self._plan.crash_at and _first(self._plan.marker):
                # Killed with the lock held: no other thread of this process comes to a point after this one.
                os.killpg(self._main, signal.SIGKILL) if self._plan.whole else os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        """Wrap what the points are about; in the worker, before it starts."""
        self._wrap_commits()
        self._wrap_publishes()
        self._wrap_acknowledgements()
        self._wrap_provider_calls()

    def _wrap_commits(self) -> None:
        local, commit = self._local, DefaultDialect.do_commit

        def note_write(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
            if statement.lstrip().startswith(WRITES):
                local.wrote = True

        def do_commit(dialect: Any, connection: Any) -> None:
            task, wrote = current_task(), getattr(local, "wrote", False)
            local.wrote = False
            # Recovery looks at every state in a transaction of its own: only those count in which it found something.
            counts = wrote or not (task or "").startswith("periodic.")
            with self.around(task if counts else None, "commit"):
                commit(dialect, connection)

        event.listen(Engine, "before_cursor_execute", note_write)
        DefaultDialect.do_commit = do_commit  # type: ignore[method-assign]

    def _wrap_publishes(self) -> None:
        put = redis_transport.Channel._put

        def _put(channel: Any, queue: str, message: Any, **options: Any) -> Any:
            published = (message.get("headers") or {}).get("task") or ""
            with self.around(current_task() if published.startswith(OURS) else None, f"publish {published}"):
                return put(channel, queue, message, **options)

        redis_transport.Channel._put = _put

    def _wrap_acknowledgements(self) -> None:
        ack = redis_transport.QoS.ack

        def acknowledge(qos: Any, delivery_tag: str) -> None:
            message = qos._delivered.get(delivery_tag)
            with self.around(message and (message.headers or {}).get("task"), "ack"):
                ack(qos, delivery_tag)

        redis_transport.QoS.ack = acknowledge

    def _wrap_provider_calls(self) -> None:
        handle = httpx2.HTTPTransport.handle_request
        # The HTTP client's own trace says when the last byte of a request has left, and when an answer has come.
        steps = {
            "http11.send_request_headers.started": ("send", "before"),
            "http11.send_request_body.complete": ("send", "after"),
            "http11.receive_response_headers.complete": ("receive", "before"),
            "http11.receive_response_body.complete": ("receive", "after"),
            "http11.receive_response_body.failed": ("receive", "after"),
        }

        def trace(name: str, info: Any) -> None:
            task = current_task()
            if name in steps and task is not None:
                self.reach(task, *steps[name])

        def handle_request(transport: Any, request: Any) -> Any:
            request.extensions = {**request.extensions, "trace": trace}
            return handle(transport, request)

        httpx2.HTTPTransport.handle_request = handle_request  # type: ignore[method-assign]


def current_task() -> str | None:
    """The name of the task that this thread works on."""
    task = get_current_task()
    return None if task is None else task.name


def append(path: str, line: str) -> None:
    """Write one line, whole or not at all, into a file that several processes write to."""
    opened = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(opened, f"{line}\n".encode())
    finally:
        os.close(opened)


def _first(marker: str) -> bool:
    # The process that is started in this one's place has the same plan, and goes on.
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return False
    return True


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
    {"billing": processes.run_billing, "generation": processes.run_generation}[worker]()


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
