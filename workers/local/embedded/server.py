"""What both servers share: one owner a folder, a process in a session of its own, a start with patience, a sure end."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, ClassVar

import psutil

from workers.local.supervisor import is_alive

START_S = 60
STOP_S = 30
INSTALL = "install with `pip install -e '.[embedded]'`"


class EmbeddedServerError(Exception):
    """Says in one sentence why a server cannot be used."""


class Server(ABC):
    """What both servers share: one owner per folder, a process in its own session, and patience."""

    title: ClassVar[str]
    process_name: ClassVar[str]
    stop_steps: ClassVar[Sequence[tuple[signal.Signals, float]]]

    def __init__(self, folder: Path):
        self.folder = Path(folder).resolve()
        self.log_file = self.folder / f"{self.title.lower()}.log"
        self._lock_file: IO[str] | None = None
        self._owner_pid = 0
        self._process: psutil.Process | None = None
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The main process id of the running server."""
        return self._process.pid if self._process is not None and is_alive(self._process) else None

    def start(self) -> str:
        """Start the server, or find it running, and return its URL once it answers (at most 60 s).

        Raises EmbeddedServerError if the folder is in use, a wheel is missing, or the server does not come up.
        """
        self._own()
        try:
            if self.pid is None:
                self._start()
            return self.url
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server cleanly, with force after 30 s and more, and give the folder free. May be called again."""
        # A forked child inherits this object, but the server is its parent's.
        if self._lock_file is None or self._owner_pid != os.getpid():
            return
        try:
            self._end()
        finally:
            self._lock_file.truncate(0)
            self._lock_file.close()
            self._lock_file = None

    def kill(self) -> None:
        """Kill the server at once, as a crash would; the folder stays ours, and start() recovers the data."""
        if self._owner_pid == os.getpid():
            self._end(by_force=True)

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients connect."""

    @property
    @abstractmethod
    def _data(self) -> Path:
        """The server's working folder, by which we recognise it."""

    @abstractmethod
    def _start(self) -> None: ...

    @abstractmethod
    def _answers(self) -> bool: ...

    def _own(self) -> None:
        if self._lock_file is not None and self._owner_pid == os.getpid():
            return
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self.folder / "owner.lock"
        lock_file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (held until stop)
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock_file.close()
            owner = path.read_text(encoding="utf-8").strip() or "(just starting)"
            raise EmbeddedServerError(f"The folder {self.folder} is in use by process {owner}.") from None
        lock_file.truncate(0)
        lock_file.write(str(os.getpid()))
        lock_file.flush()
        self._lock_file = lock_file
        self._owner_pid = os.getpid()

    def _launch(self, command: Sequence[str], **options: Any) -> None:
        """Start the server's process and wait until it answers."""
        with open(self.log_file, "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as log:
            self._child = subprocess.Popen(
                command,
                cwd=self._data,
                env=plain_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **options,
            )
        self._process = psutil.Process(self._child.pid)
        deadline = time.monotonic() + START_S
        while True:
            if self._child.poll() is not None:
                raise EmbeddedServerError(f"{self.title} ended while it was starting: {self._last_words()}")
            if self._answers():
                return
            if time.monotonic() > deadline:
                raise EmbeddedServerError(f"{self.title} did not answer within {START_S} s: {self._last_words()}")
            time.sleep(0.05)

    def _last_words(self) -> str:
        lines = self.log_file.read_text(encoding="utf-8", errors="replace").splitlines()[-20:] or ["nothing"]
        reasons = [line for line in lines if "FATAL" in line or "PANIC" in line or "# " in line]
        return f"its last words in {self.log_file} are: {(reasons or lines)[-1]}"

    def _living(self) -> list[psutil.Process]:
        """Find the folder's server processes by where they work: a stale pid file cannot mislead this."""
        living = []
        for process in psutil.process_iter(["name", "ppid"]):
            try:
                ours = process.info["name"] == self.process_name and process.cwd() == str(self._data)
            except psutil.Error:
                continue
            if ours and is_alive(process):
                living.append(process)
        return living

    def _end(self, *, by_force: bool = False) -> None:
        """End every server process of the folder, a former owner's too: with patience first, then with SIGKILL."""
        living = self._living()
        pids = {process.pid for process in living}
        main = [process for process in living if process.info["ppid"] not in pids]
        for signum, patience_s in () if by_force else self.stop_steps:
            send(main, signum)
            self._wait(living, patience_s)
        survivors = living if by_force else self._living()
        send(survivors, signal.SIGKILL)
        if not self._wait(survivors, STOP_S):
            raise EmbeddedServerError(f"{self.title} on {self.folder} cannot be ended.")
        if self._child is not None:
            self._child.wait()
        self._process = self._child = None

    def _wait(self, processes: Sequence[psutil.Process], patience_s: float) -> bool:
        deadline = time.monotonic() + patience_s
        while any(is_alive(process) for process in processes):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True


def plain_environment() -> dict[str, str]:
    """What the servers may know of our environment: no secrets, and no PG* settings."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ} | {"LC_ALL": "C"}


def send(processes: Sequence[psutil.Process], signum: signal.Signals) -> None:
    """Signal these processes; those that are gone already are skipped."""
    for process in processes:
        try:
            process.send_signal(signum)
        except psutil.NoSuchProcess:
            continue
