"""One machine's instance: which provider it calls, and what it refuses before it starts anything."""

from __future__ import annotations

import io
import json
import os
import socket
import sys

import click
import pytest

from config.database import transaction
from config.integrations import configured_providers, connection_for, set_connection
from config.settings import ConfigurationError, Settings
from tests.conftest import SECRET_KEY
from tests.system import wait_until
from workers import processes
from workers.local import machine
from workers.local.supervisor import Program


def settings(port):
    return Settings(
        DATABASE_URL="postgresql://localhost/x",
        BROKER_URL="redis://localhost",
        secret_key=SECRET_KEY,
        flower_address="127.0.0.1",
        flower_port=port,
    )


def provider():
    with transaction() as session:
        return configured_providers(session).get("openai")


def test_an_instance_without_the_simulator_forgets_an_earlier_ones_address(db):
    machine.point_to_simulator(4711)
    assert provider() == "http://127.0.0.1:4711/v1"

    machine.forget_simulator()

    with transaction() as session:
        assert configured_providers(session) == {}


def test_a_real_connection_is_neither_forgotten_nor_replaced(db):
    with transaction() as session:
        set_connection(session, "openai", api_key="sk-real", base_url="https://proxy.example/v1")

    machine.forget_simulator()
    with pytest.raises(click.ClickException, match="real connection to openai"):
        machine.point_to_simulator(4711)

    with transaction() as session:
        connection = connection_for(session, "openai", "text")
    assert (connection.api_key, connection.base_url) == ("sk-real", "https://proxy.example/v1")


def test_flower_says_which_port_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"127\.0\.0\.1:{port} .* CREDITMILL_FLOWER_PORT"):
            processes.require_free_port(settings(port))

    processes.require_free_port(settings(port))


# --- What a program gets of our environment ---

ALWAYS = {"CREDITMILL_FOLDER", "CREDITMILL_LOG_LEVEL"}
JOBS = {"DATABASE_URL", "BROKER_URL", "CREDITMILL_SECRET_KEY", "CREDITMILL_TEXT_CALL_S", "PGSSLROOTCERT", *ALWAYS}
OTHERS = {"AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "MYSQL_PASSWORD"}


@pytest.fixture
def variables(monkeypatch):
    for name in (*JOBS, *OTHERS, "HTTPS_PROXY", "no_proxy", "SSL_CERT_FILE", "OPENAI_ORG_ID", "LC_TIME", "PYTHONPATH"):
        monkeypatch.setenv(name, "planted")
    for name in ("CREDITMILL_FLOWER_PORT", "CREDITMILL_FLOWER_BASIC_AUTH", "FLOWER_URL_PREFIX"):
        monkeypatch.setenv(name, "planted")
    kept = {name for name, value in os.environ.items() if value == "planted"}
    return lambda program: {name for name in program.environment if name in kept}


@pytest.mark.parametrize(
    ("words", "needs"),
    [
        (["worker", "billing"], JOBS),
        (["worker", "generation"], JOBS | {"HTTPS_PROXY", "no_proxy", "SSL_CERT_FILE", "OPENAI_ORG_ID"}),
        (["beat"], JOBS),
        (
            ["flower"],
            {"BROKER_URL", "CREDITMILL_FLOWER_PORT", "CREDITMILL_FLOWER_BASIC_AUTH", "FLOWER_URL_PREFIX", *ALWAYS},
        ),
    ],
)
def test_a_program_is_given_the_variables_that_its_work_needs(variables, words, needs):
    assert variables(machine.program("any", words, stop_order=1)) == needs


def test_the_simulator_is_given_none(variables, home):
    assert variables(machine.simulator_program(home, 1, faults={}, seed=1)) == set()


def test_every_program_starts_with_its_own_variables_and_the_plain_ones(variables, home):
    tell = "import json, os; print(json.dumps(dict(os.environ)), flush=True); input()"
    programs = [Program("p", [sys.executable, "-c", tell], {"ITS_OWN": "1"})]

    with machine.supervised(home, programs, io.StringIO()):
        wait_until((home / "logs" / "p.log").read_text, what="its first line")

    told = json.loads((home / "logs" / "p.log").read_text().splitlines()[0])
    assert told["ITS_OWN"] == "1"
    assert {name for name, value in told.items() if value == "planted"} == {"LC_TIME", "PYTHONPATH"}
    assert told["PATH"] == os.environ["PATH"]
