"""A broker behind a socket file: we and Celery reach the same one, with the same password, in the same database."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from kombu import Connection
from redis.exceptions import AuthenticationError

from config.broker import broker_client
from tests.system import wait_until
from workers.local.embedded.valkey import _valkey_binary

PASSWORD, QUOTED = "p/w#x;@ %", "p%2Fw%23x%3B%40%20%25"


@pytest.fixture
def file() -> Iterator[Path]:
    """The socket file of a Valkey that listens on nothing else."""
    # Not below pytest's own folder: the name of a socket must be short.
    with TemporaryDirectory(prefix="creditmill-") as folder:
        path = Path(folder) / "valkey.sock"
        options = ["--port", "0", "--unixsocket", str(path), "--requirepass", PASSWORD, "--save", ""]
        server = subprocess.Popen([str(_valkey_binary()), *options], cwd=folder, stdout=subprocess.DEVNULL)
        try:
            wait_until(path.exists, what="the socket")
            yield path
        finally:
            server.kill()
            server.wait()


@pytest.mark.parametrize(("option", "number"), [("", 0), ("?virtual_host=2", 2)])
def test_a_socket_file_leads_us_and_celery_to_the_same_database(file, option, number):
    url = f"redis+socket://:{QUOTED}@{file}{option}"

    with broker_client(url) as ours, Connection(url) as connection:
        ours.set("written", "by us")
        theirs = connection.default_channel.client

        assert theirs.get("written") == b"by us"
        assert theirs.connection_pool.connection_kwargs["db"] == number


def test_a_wrong_password_is_an_error_without_it(file):
    with broker_client(f"redis+socket://:hunter2@{file}") as client, pytest.raises(AuthenticationError) as caught:
        client.ping()

    assert "hunter2" not in str(caught.value)
