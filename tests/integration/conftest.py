"""The command line in this process, for the tests of its commands."""

from __future__ import annotations

import io
import sys

import pytest

from tests.conftest import SECRET_KEY
from tests.system import forget_broker
from workers import cli


@pytest.fixture
def env(database_url, broker_url, home, monkeypatch):
    """The environment of a command, in a folder without an instance."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("BROKER_URL", broker_url)
    monkeypatch.setenv("CREDITMILL_SECRET_KEY", SECRET_KEY)
    monkeypatch.setenv("CREDITMILL_FOLDER", str(home))
    forget_broker()
    return monkeypatch


@pytest.fixture
def run(env, db, capsys, monkeypatch):
    """Run a command in this process; returns its exit code, stdout and stderr."""

    def run(*arguments, stdin=""):
        monkeypatch.setattr(sys, "argv", ["creditmill", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode("utf-8", "surrogateescape"))))
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        told = capsys.readouterr()
        return code, told.out, told.err

    return run
