"""The same code against servers that are known by their URLs only: nothing of it knows who started them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from config.secrets import new_secret_key
from tests.system import wait_until
from workers.local import machine
from workers.local.embedded.postgres import Postgres
from workers.local.embedded.valkey import Valkey

pytestmark = pytest.mark.own_system

PLANTED_KEY = "sim-by-url"


@dataclass(frozen=True)
class Elsewhere:
    """A folder with nothing in it, and the three variables that name the servers."""

    folder: Path
    environment: Mapping[str, str]

    def run(self, *arguments: str, given: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a `creditmill` command."""
        return subprocess.run(
            [sys.executable, "-m", "workers.cli", *arguments],
            input=given,
            text=True,
            capture_output=True,
            cwd=self.folder,
            env={**self.environment, **variables},
            check=False,
            timeout=90,
        )

    def result(self, *arguments: str, given: str = "") -> Any:
        """Run a command that must succeed, and read the JSON that it prints."""
        done = self.run(*arguments, given=given)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """Start a program; what it prints goes to a file."""
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *command], cwd=self.folder, env=self.environment, stdout=log, stderr=log
            )


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    """A second pair of servers, of which the commands know only the URLs."""
    with TemporaryDirectory(prefix="creditmill-url-") as folder, ExitStack() as stack:
        postgres, valkey = Postgres(Path(folder) / "postgres"), Valkey(Path(folder) / "valkey")
        for server in (postgres, valkey):
            stack.callback(server.stop)
            server.start()
        environment = {
            "DATABASE_URL": postgres.create_database("billing_elsewhere"),
            "BROKER_URL": valkey.url,
            "CREDITMILL_SECRET_KEY": new_secret_key(),
        }
        yield Elsewhere(tmp_path_factory.mktemp("elsewhere"), environment)


@pytest.fixture(scope="module")
def migrated(elsewhere: Elsewhere) -> Elsewhere:
    """The same, with the schema."""
    done = elsewhere.run("migrate")
    assert done.returncode == 0, done.stderr
    return elsewhere


@pytest.fixture(scope="module")
def running(migrated: Elsewhere) -> Iterator[Elsewhere]:
    """The workers, beat and a provider, started one by one as another machine's service manager would."""
    port = str(machine.free_port())
    programs = {
        "simulator": ["workers.simulator", "--port", port, "--journal", "journal.jsonl", "--latency", "0.05"],
        "billing": ["workers.cli", "worker", "billing"],
        "generation": ["workers.cli", "worker", "generation"],
        "beat": ["workers.cli", "beat"],
    }
    url = f"http://127.0.0.1:{port}/v1"
    done = migrated.run("integrations", "set", "openai", "--base-url", url, "--key-variable", "K", K=PLANTED_KEY)
    assert done.returncode == 0, done.stderr
    started = [migrated.start(name, *command) for name, command in programs.items()]
    try:
        wait_until(lambda: migrated.run("doctor").returncode == 0, what="a healthy system")
        yield migrated
    finally:
        for program in reversed(started):
            program.terminate()
            program.wait(timeout=60)


def test_a_worker_says_that_the_schema_is_missing(elsewhere):
    done = elsewhere.run("worker", "billing")

    # Before `migrated` ran: tests of this module run in their order.
    assert done.returncode == 1
    assert "creditmill migrate" in done.stderr


def test_migrating_twice_changes_nothing(migrated):
    assert migrated.run("migrate").stdout == "The schema is up to date.\n"


def test_the_doctor_says_what_is_missing_before_anything_runs(migrated):
    done = migrated.run("doctor", "--json")

    checks = {check["name"]: check["healthy"] for check in json.loads(done.stdout)["checks"]}
    assert done.returncode == 1
    assert {name for name, healthy in checks.items() if not healthy} == {"keys", "billing", "generation"}


def test_the_doctor_finds_everything_well(running):
    assert running.result("doctor", "--json")["healthy"] is True


def test_a_request_is_billed_through_the_command_line(running):
    account = running.result("accounts", "create", "Corner Bakery", "--credits", "1000", "--json")
    requests = [
        {"operation": "clustering", "params": {"prompt": "bread", "max_output_tokens": 64}},
        {"operation": "image_generation", "params": {"prompt": "rolls", "n": 2}},
    ]
    lines = "".join(json.dumps(request) + "\n" for request in requests)

    done = running.run("submit", "--account", str(account["id"]), given=lines)

    jobs = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    assert [job["state"] for job in jobs] == ["settled", "settled"]
    shown = running.result("accounts", "show", str(account["id"]), "--json")
    assert (shown["balance"], shown["reserved"]) == (1000 - sum(job["credits_charged"] for job in jobs), 0)


def test_the_books_balance(running):
    assert running.result("audit", "--json") == {"balanced": True, "findings": []}


def test_nothing_was_left_in_the_working_directory(running):
    ours = {"simulator.log", "billing.log", "generation.log", "beat.log", "journal.jsonl"}

    assert {path.name for path in running.folder.iterdir()} == ours
