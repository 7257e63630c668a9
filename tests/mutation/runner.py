"""Runs pytest again and again, each time in a fresh child of one process that has imported the libraries already.

Started as a program of its own, so that it knows nothing of the project: each child imports the modules of the tree
that it is told to test. It reads one run a line from stdin and answers each with its exit code, as JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time

LIBRARIES = (
    *("alembic.command", "celery.app.amqp", "celery.canvas", "celery.worker.consumer", "click", "cryptography.fernet"),
    *("httpx2", "kombu", "openai", "psutil", "psycopg2", "pydantic", "pydantic_settings", "pytest", "redis"),
    *("rich.console", "sqlalchemy.dialects.postgresql", "sqlalchemy.orm", "structlog", "tenacity", "toktok"),
)


def main() -> None:
    """Serve runs until stdin ends."""
    for name in LIBRARIES:
        importlib.import_module(name)
    for line in sys.stdin:
        run = json.loads(line)
        child = os.fork()
        if child == 0:
            _test(run)
        sys.stdout.write(json.dumps(_exit_code(child, within_s=run["limit_s"])) + "\n")
        sys.stdout.flush()


def _test(run: dict) -> None:
    """Become one run of pytest; never returns."""
    code = 3
    try:
        written = os.open(run["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for stream in (1, 2):
            os.dup2(written, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.update(run["environment"])
        os.chdir(run["tree"])
        # The tree's modules come before those of any other, also before those of a project installed for editing.
        sys.path[0] = run["tree"]
        import pytest

        code = int(pytest.main(run["arguments"]))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _exit_code(child: int, *, within_s: float) -> int | None:
    """The child's exit code; None when it took too long and was ended."""
    deadline = time.monotonic() + within_s
    for end in (None, signal.SIGINT, signal.SIGKILL):
        if end is not None:
            os.kill(child, end)
            deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status) if end is None else None
            time.sleep(0.02)
    return None


if __name__ == "__main__":
    main()
