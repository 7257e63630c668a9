"""One machine's own instance of Creditmill: a folder with embedded servers, a secret key, and what is running there.

`up` and `demo` open it; other commands on the same machine find its servers through the folder.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workers.local.private_files import write_private

FOLDER_VARIABLE = "CREDITMILL_FOLDER"
DEFAULT_FOLDER = ".creditmill"
DEMO_FOLDER = ".creditmill-demo"
"""The demonstration's accounts and jobs stay apart from those of `up`."""
NAMES = ("DATABASE_URL", "BROKER_URL", "CREDITMILL_SECRET_KEY")


def folder(default: str = DEFAULT_FOLDER) -> Path:
    """Where this machine's instance lives: `CREDITMILL_FOLDER`, or `.creditmill` in the working directory."""
    return Path(os.environ.get(FOLDER_VARIABLE) or default).absolute()


@contextmanager
def running(home: Path) -> Iterator[None]:
    """Start the servers that no URL was given for, and put their addresses into the environment while they run."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _owned(home):
        yield from _running(home)


def _running(home: Path) -> Iterator[None]:
    # Imported here: only a process that starts servers needs them.
    from config.settings import check_addresses
    from workers.local.embedded.servers import embedded_servers

    check_addresses()
    before = {name: os.environ.get(name) for name in NAMES}
    needs = {"database": not before["DATABASE_URL"], "broker": not before["BROKER_URL"]}
    os.environ["CREDITMILL_SECRET_KEY"] = before["CREDITMILL_SECRET_KEY"] or _secret_key(home)
    with embedded_servers(home, **needs) as servers:
        os.environ["DATABASE_URL"] = before["DATABASE_URL"] or servers.database_url
        os.environ["BROKER_URL"] = before["BROKER_URL"] or servers.broker_url
        write_private(home / "environment.json", json.dumps({name: os.environ[name] for name in NAMES}))
        try:
            yield
        finally:
            (home / "environment.json").unlink(missing_ok=True)
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


@contextmanager
def _owned(home: Path) -> Iterator[None]:
    """Hold this instance's lock, so that no other process runs it; the lock of a killed owner ends with its process."""
    with (home / "instance.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            from workers.local.embedded.server import EmbeddedServerError

            raise EmbeddedServerError(
                f"Creditmill already runs in {home}: use it from another terminal, or set {FOLDER_VARIABLE}."
            ) from None
        yield


def join(home: Path) -> None:
    """Use the servers of the instance that runs in this folder, for whatever the environment leaves open."""
    try:
        known = json.loads((home / "environment.json").read_text())
    except (OSError, ValueError):
        return
    for name in NAMES:
        if not os.environ.get(name) and isinstance(known.get(name), str):
            os.environ[name] = known[name]


def _secret_key(home: Path) -> str:
    from config.secrets import new_secret_key

    path = home / "secret.key"
    if not path.exists():
        write_private(path, new_secret_key() + "\n")
    return path.read_text().strip()
