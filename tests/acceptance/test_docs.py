"""Every command that the documentation shows works, in the order in which it is shown."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import pytest

from tests.acceptance.commands import PROJECT, commands, environment, instance, ours, shell
from workers.cli import creditmill
from workers.local.machine import free_port

pytestmark = pytest.mark.own_system

# The quickstart comes last: it ends with a real provider's connection.
PAGES = [
    "README.md",
    "docs/reference/commands.md",
    "docs/reference/settings.md",
    "docs/reference/states.md",
    "docs/explanation/money.md",
    "docs/explanation/performance.md",
    "docs/explanation/reliability.md",
    "docs/how-to/run-on-your-servers.md",
    "docs/how-to/submit-from-an-app.md",
    "docs/how-to/use-from-an-app.md",
    "docs/how-to/change-prices.md",
    "docs/how-to/change-settings.md",
    "docs/how-to/limit-plans.md",
    "docs/how-to/manage-subscriptions.md",
    "docs/how-to/report-revenue.md",
    "docs/quickstart.md",
]
API = "127.0.0.1:8000"
# What other tests run: the demo, these tests themselves, and the instance that this module starts.
ELSEWHERE = re.compile(r"^(make (demo|test)\b|creditmill up\b|export CREDITMILL_FOLDER=)")


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", (PROJECT / page).read_text(), re.M | re.S)


@pytest.fixture(scope="module")
def api_port():
    """Where the instance's API listens."""
    return free_port()


@pytest.fixture(scope="module")
def folder(api_port):
    """A folder like a clone's, with an instance running in it."""
    with TemporaryDirectory(prefix="creditmill-docs-") as made:
        home = Path(made)
        shutil.copytree(PROJECT / "examples", home / "examples")
        with instance(home, "--no-flower", CREDITMILL_API_PORT=str(api_port)) as process:
            yield home
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        assert ours(home) == []


def test_every_page_is_tested():
    assert sorted(PAGES) == sorted(
        str(path.relative_to(PROJECT)) for path in [PROJECT / "README.md", *PROJECT.glob("docs/**/*.md")]
    )


def test_the_python_of_the_pages_works(folder, api_port):
    urls = (folder / ".creditmill" / "environment.json").read_text()
    broker, key, database = (
        re.search(rf'"{name}": "([^"]+)"', urls)[1] for name in ("BROKER_URL", "CREDITMILL_SECRET_KEY", "DATABASE_URL")
    )
    for page in PAGES:
        for block in blocks(page, "python"):
            code = block.replace("redis://localhost:6379/0", broker).replace(API, f"127.0.0.1:{api_port}")
            given = {"DATABASE_URL": database, "BROKER_URL": broker, "CREDITMILL_SECRET_KEY": key}
            ran = subprocess.run(
                [sys.executable, "-c", code],
                env=environment(folder, **given),
                cwd=folder,
                text=True,
                capture_output=True,
                check=False,
            )
            assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_work(folder, api_port, page):
    for block in blocks(page, "sh"):
        script = "\n".join(line for line in block.splitlines() if not ELSEWHERE.match(line))
        script = script.replace(API, f"127.0.0.1:{api_port}")
        ran = commands(folder, script, OPENAI_API_KEY="sk-for-the-docs")
        assert ran.returncode == 0, f"{script}\n{ran.stdout}\n{ran.stderr}"


def test_the_readmes_request_is_charged_as_it_says(folder):
    shown = shell(folder, "creditmill jobs list --account 2 --json").stdout

    assert '"credits_charged": 10, "credits_overrun": 0, "cost_usd": "0.0800000000"' in shown


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_a_page_names_exists(page):
    for words in re.findall(r"`creditmill ([a-z][a-z -]*)", (PROJECT / page).read_text()):
        command = creditmill
        for word in words.split():
            if not isinstance(command, click.Group) or word.startswith("-"):
                break
            command = command.get_command(click.Context(command), word)
            assert command is not None, f"{page}: creditmill {words}"


def test_every_link_leads_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", (PROJECT / page).read_text()):
            assert ((PROJECT / page).parent / target).exists(), f"{page}: {target}"


@pytest.mark.parametrize("page", PAGES)
def test_every_file_and_folder_that_a_page_names_exists(page):
    ours = r"`((?:workers|tasks|billing|config|tests|docs|examples)/[^` ]*)`"
    named = [place for place in re.findall(ours, (PROJECT / page).read_text()) if "…" not in place]

    assert [place for place in named if not (PROJECT / place).exists()] == []


def test_every_setting_is_documented():
    from config.settings import Settings

    told = (PROJECT / "docs/reference/settings.md").read_text()
    names = {field.validation_alias or f"CREDITMILL_{name.upper()}" for name, field in Settings.model_fields.items()}
    assert {name for name in names if f"`{name}`" not in told} == set()


def test_make_explains_its_targets():
    told = subprocess.run(["make", "help"], cwd=PROJECT, text=True, capture_output=True, check=True).stdout

    assert {line.split()[1] for line in told.splitlines()} >= {"help", "demo", "up", "test", "lint"}


@pytest.mark.parametrize("command", ["up --no-flower", "demo"])
def test_a_second_instance_in_the_same_folder_is_refused_and_harms_nothing(folder, command):
    refused = shell(folder, f"creditmill {command}")

    assert refused.returncode == 1
    assert "Creditmill already runs in" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert shell(folder, "creditmill doctor").returncode == 0
