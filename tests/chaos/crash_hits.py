"""Crash points: our workers, which note each commit, publish, send, receive and acknowledgement, and may die there.

The product knows nothing of it: what the points are about is wrapped from outside.
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import kombu.transport.redis as redis_transport
from celery._state import get_current_task
from sqlalchemy import Engine, event
from sqlalchemy.engine.default import DefaultDialect

OURS = ("generation.", "periodic.")
WRITES = re.compile(r"\b(INSERT INTO|DELETE FROM|UPDATE \w+( \w+)? SET)\b")


@dataclass(frozen=True, order=True)
class Hit:
    """A moment in a worker: before or after the n-th commit, publish, send, receive or ack of a task in a process.

    A commit also has the `jobs` that its transaction named, by their places in the plan.
    """

    process: str
    task: str
    point: str
    phase: str
    n: int
    jobs: tuple[int, ...] = field(default=(), compare=False)

    @classmethod
    def parsed(cls, given: dict[str, Any]) -> Hit:
        """The hit that was written as JSON."""
        return cls(**{**given, "jobs": tuple(given["jobs"])})

    def is_at(self, point: str, phase: str) -> bool:
        """Whether it is before, or after, such a point."""
        return (self.point, self.phase) == (point, phase)


@dataclass(frozen=True)
class Plan:
    """Where the hits are written down, the ids of the jobs that are worked on, and the hit at which the worker dies.

    `whole` kills the worker's main process and its children, else only the process dies that comes to the point.
    """

    record: str
    marker: str
    jobs: tuple[str, ...] = ()
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
        crash_at = Hit.parsed(given["crash_at"]) if given["crash_at"] else None
        return cls(**{**given, "jobs": tuple(given["jobs"]), "crash_at": crash_at})


class _Doing(threading.local):
    """What a thread is doing: for which task, and in its transaction."""

    def __init__(self) -> None:
        self.task: str | None = None
        self.said: list[str] = []
        self.wrote = False


class CrashPoints:
    """Counts the hits of this process, and kills it at the planned one, once for all processes of a case."""

    def __init__(self, worker: str, plan: Path) -> None:
        self.worker = worker
        self._path = plan
        self._plan = Plan.read(plan)
        self._main = os.getpid()
        self._counts: Counter[tuple[str, str, str, str]] = Counter()
        self._lock = threading.Lock()
        self._doing = _Doing()

    @property
    def process(self) -> str:
        """Which process this is, in the words of the table."""
        if self.worker == "generation":
            return "generation"
        return "billing main" if os.getpid() == self._main else "billing child"

    @contextmanager
    def around(self, task: str | None, point: str, said: Sequence[str] = ()) -> Iterator[None]:
        """The points before and after what the block does; nothing when no task of ours does it."""
        if task is None or not task.startswith(OURS):
            yield
            return
        self.reach(task, point, "before", said)
        yield
        self.reach(task, point, "after", said)

    def reach(self, task: str, point: str, phase: str, said: Sequence[str] = ()) -> None:
        """Count this hit, write it down, and die here if the plan says so; `said` may name jobs."""
        key = (self.process, task, point, phase)
        with self._lock:
            before, self._plan = self._plan, Plan.read(self._path)
            if self._plan != before:
                self._counts.clear()
            self._counts[key] += 1
            named = (place for place, job in enumerate(self._plan.jobs) if any(job in each for each in said))
            hit = Hit(*key, self._counts[key], jobs=tuple(named))
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
        self._follow_into_threads()

    def current_task(self) -> str | None:
        """The name of the task that this thread works on, or that has given it its work."""
        task = get_current_task()
        return self._doing.task if task is None else task.name

    def _follow_into_threads(self) -> None:
        submit, doing = ThreadPoolExecutor.submit, self._doing

        def submit_for_task(pool: Any, work: Callable[..., Any], *args: Any, **given: Any) -> Future[Any]:
            task = self.current_task()

            def work_for_task(*args: Any, **given: Any) -> Any:
                doing.task = task
                return work(*args, **given)

            return submit(pool, work_for_task, *args, **given)

        ThreadPoolExecutor.submit = submit_for_task  # type: ignore[method-assign]

    def _wrap_commits(self) -> None:
        doing, commit = self._doing, DefaultDialect.do_commit

        def begin(connection: Any) -> None:
            doing.said, doing.wrote = [], False

        def note(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
            doing.said.append(str(parameters))
            doing.wrote = doing.wrote or WRITES.search(statement) is not None

        def do_commit(dialect: Any, connection: Any) -> None:
            task = self.current_task()
            # Recovery looks at every state in a transaction of its own: only those count in which it found something.
            counts = doing.wrote or not (task or "").startswith("periodic.")
            with self.around(task if counts else None, "commit", doing.said):
                commit(dialect, connection)

        event.listen(Engine, "begin", begin)
        event.listen(Engine, "before_cursor_execute", note)
        DefaultDialect.do_commit = do_commit  # type: ignore[method-assign]

    def _wrap_publishes(self) -> None:
        put = redis_transport.Channel._put

        def _put(channel: Any, queue: str, message: Any, **options: Any) -> Any:
            published = (message.get("headers") or {}).get("task") or ""
            with self.around(self.current_task() if published.startswith(OURS) else None, f"publish {published}"):
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
            task = self.current_task()
            if name in steps and task is not None:
                self.reach(task, *steps[name])

        def handle_request(transport: Any, request: Any) -> Any:
            request.extensions = {**request.extensions, "trace": trace}
            return handle(transport, request)

        httpx2.HTTPTransport.handle_request = handle_request  # type: ignore[method-assign]


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
