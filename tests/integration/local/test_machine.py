"""One machine's instance: which provider it calls, and what it refuses before it starts anything."""

from __future__ import annotations

import socket

import click
import pytest

from config.database import transaction
from config.integrations import configured_providers, connection_for, set_connection
from config.settings import ConfigurationError, Settings
from tests.conftest import SECRET_KEY
from workers import processes
from workers.local import machine


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
