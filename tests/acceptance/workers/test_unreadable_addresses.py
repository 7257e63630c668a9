"""An address that cannot be read: whatever starts with it says so in one sentence, exits with 2, and tells no secret.

Each command runs in a process of its own here. Every address before every command is tested in
tests/integration/commands/test_unreadable_addresses.py, and every part of one in tests/unit/config/test_addresses.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.commands import commands
from tests.conftest import SECRET_KEY
from tests.unit.test_architecture import ROOT

SECRET = "hunter2"
GOOD = {
    # Nobody answers there, and nobody is asked.
    "DATABASE_URL": "postgresql://mill@127.0.0.1:1/mill",
    "BROKER_URL": "redis://127.0.0.1:1/0",
    "CREDITMILL_SECRET_KEY": SECRET_KEY,
    "CREDITMILL_FLOWER_PORT": "0",
}
BAD = [
    ("BROKER_URL", f"redis://:{SECRET}/x@127.0.0.1:6379/0", "its password"),
    ("DATABASE_URL", f"postgresql://mill:{SECRET}@127.0.0.1:word/mill", "its port"),
]
COMMANDS = [
    *("accounts list", "audit", "beat", "doctor", "doctor --json", "flower", "jobs unknown", "metrics", "migrate"),
    *("submit --account 1", "up", "up --simulator", "worker billing", "worker generation"),
]


def everything_told(folder: Path, output: str) -> str:
    """What was printed, and every file that is left in the folder."""
    files = [path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file()]
    return "\n".join([output, *files])


@pytest.mark.parametrize(("variable", "value", "part"), BAD)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_says_it_in_one_sentence(tmp_path, command, variable, value, part):
    done = commands(tmp_path, f"creditmill {command}", **{**GOOD, variable: value})

    assert done.returncode == 2
    assert done.stdout.count("\n") == 1
    assert f"{variable} cannot be read: {part}" in done.stdout
    assert SECRET not in everything_told(tmp_path, done.stdout)


@pytest.mark.parametrize(
    ("command", "value", "said"),
    [
        ("doctor",  "",  "BROKER_URL is not set"),
        ("metrics", "",  "BROKER_URL is not set"),
        ("doctor",  " ", "BROKER_URL cannot be read: it has no scheme"),
        ("metrics", " ", "BROKER_URL cannot be read: it has no scheme"),
        ("up",      " ", "BROKER_URL cannot be read: it has no scheme"),
    ],
)  # fmt: skip
def test_an_address_that_is_empty_is_told_in_one_sentence(tmp_path, command, value, said):
    done = commands(tmp_path, f"creditmill {command}", **{**GOOD, "BROKER_URL": value})

    assert (done.returncode, done.stdout.count("\n")) == (2, 1)
    assert said in done.stdout


@pytest.mark.parametrize("command", ["up", "demo"])
def test_no_server_is_started_beside_an_address_that_cannot_be_read(tmp_path, command):
    done = commands(tmp_path, f"creditmill {command}", BROKER_URL=f"redis://:{SECRET}/x@127.0.0.1:6379/0")

    assert (done.returncode, done.stdout.count("\n")) == (2, 1)
    assert not (tmp_path / ".creditmill" / "postgres").exists()


def test_a_proxy_that_cannot_be_read_stops_whoever_calls_providers(tmp_path):
    proxy = {"HTTPS_PROXY": f"http://user:{SECRET}/x@proxy:3128"}

    done = commands(tmp_path, "creditmill worker generation", **GOOD, **proxy)

    assert (done.returncode, done.stdout.count("\n")) == (2, 1)
    assert "HTTPS_PROXY cannot be read: its password" in done.stdout
    assert SECRET not in done.stdout


@pytest.mark.parametrize("command", ["status", "inspect ping", "worker --pool=solo", "beat", "purge -f"])
@pytest.mark.parametrize("variable", ["BROKER_URL", "CELERY_BROKER_URL"])
def test_celerys_own_command_line_says_it_too(tmp_path, command, variable):
    done = celery(tmp_path, command, variable)

    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.count("BROKER_URL cannot be read: its password") == 1
    assert SECRET not in everything_told(tmp_path, done.stdout + done.stderr)


def test_celerys_report_does_not_tell_the_address(tmp_path):
    # It connects to nobody.
    done = celery(tmp_path, "report", "BROKER_URL")

    assert "software" in done.stdout
    assert SECRET not in done.stdout + done.stderr


def celery(folder: Path, command: str, variable: str) -> subprocess.CompletedProcess[str]:
    """Run Celery's own command line on our app, with a broker that cannot be read."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("celery")), "-A", "tasks.app", *command.split()],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), variable: f"redis://:{SECRET}/x@127.0.0.1:6379/0"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
