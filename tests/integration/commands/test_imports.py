"""What a command imports: its help nothing that takes time, each command only what it uses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import click
import pytest

from tests.unit.test_architecture import ROOT
from workers.cli import COMMANDS, creditmill

LIBRARIES = {
    *("alembic", "aiohttp", "billiard", "celery", "cryptography", "flower", "genai_prices", "httpx2", "kombu"),
    *("matplotlib", "numpy", "openai", "prometheus_client", "psutil", "psycopg2", "pydantic", "pydantic_settings"),
    *("icu4py", "redis", "sqlalchemy", "structlog", "tenacity", "toktok"),
}
"""Every library that takes time to import; click and rich do not."""

DATABASE = {"cryptography", "psycopg2", "pydantic", "pydantic_settings", "sqlalchemy", "structlog"}
"""Settings, secrets, logging and the database session: what every command needs that reads or writes anything."""
BROKER = {"billiard", "celery", "kombu", "redis", "tenacity"}
"""What publishes, or looks into the queues."""

NEEDED = ("DATABASE_URL", "BROKER_URL", "CREDITMILL_SECRET_KEY", "CREDITMILL_FOLDER")

USES = {
    "accounts create Bakery --credits 5": DATABASE,
    "accounts list": DATABASE,
    "accounts simulate 1 --months 3": DATABASE,
    "audit": DATABASE,
    "integrations show": DATABASE,
    "jobs list": DATABASE,
    "jobs dead": DATABASE,
    "models list": DATABASE,
    "models check": DATABASE,
    "operations list": DATABASE,
    "plans list": DATABASE,
    "plans usage 1": DATABASE,
    "revenue report": DATABASE,
    "migrate": DATABASE | {"alembic"},
    "jobs unknown": DATABASE | BROKER,
    "metrics": DATABASE | BROKER | {"prometheus_client"},
    "models sync": DATABASE | {"genai_prices", "httpx2"},
}
"""Commands as they are typed, each with the libraries that it may import."""


def libraries_after(program: str, **environment: str) -> set[str]:
    """The libraries that this program has imported when it ends, run in a fresh process."""
    told = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    return LIBRARIES & set(json.loads(told.stdout.splitlines()[-1]))


def all_commands() -> list[str]:
    """Every command and group, as it is typed."""

    def below(command: click.Command, words: tuple[str, ...]) -> list[str]:
        found = [" ".join(words)]
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                found += below(command.get_command(context, name), (*words, name))
        return found

    return below(creditmill, ())


def test_help_imports_no_library_that_takes_time():
    # The simulator's own help is aiohttp's program, whoever asks for it has installed that.
    helps = [f"{words} --help".split() for words in all_commands() if words != "simulator"]
    assert len(helps) > 50

    imported = libraries_after(f"""
        import contextlib, io, json, sys
        from workers.cli import creditmill
        for words in {helps!r}:
            with contextlib.redirect_stdout(io.StringIO()):
                creditmill.main(args=words, prog_name="creditmill", standalone_mode=False)
        print(json.dumps(list(sys.modules)))
        """)

    assert imported == set()


@pytest.mark.parametrize("command", USES)
def test_a_command_imports_only_what_it_uses(command, run):
    run("accounts", "create", "Corner Bakery")

    imported = libraries_after(
        f"""
        import json, sys
        from workers import cli
        sys.argv = ["creditmill", *{command.split()!r}]
        try:
            cli.main()
        except SystemExit:
            pass
        print()
        print(json.dumps(list(sys.modules)))
        """,
        **{name: os.environ[name] for name in NEEDED},
    )

    assert imported <= USES[command]


def test_the_short_helps_are_those_of_the_commands():
    context = click.Context(creditmill)
    told = {name: entry.short_help for name, entry in COMMANDS.items() if name != "simulator"}

    assert told == {name: first_line(creditmill.get_command(context, name)) for name in told}


def first_line(command: click.Command) -> str:
    return (command.help or "").split("\n\n")[0].replace("\n", " ").strip()
