"""The integrations commands: keys shown by their fingerprint, encrypted anew, bound to their place, and tried."""

from __future__ import annotations

import json
import socket
import threading

import pytest
from cryptography.fernet import Fernet

from config.database import transaction
from config.integrations import connection_for, set_connection
from config.secrets import fingerprint, new_secret_key
from config.settings import ConfigurationError
from tests.catalogue import sql
from tests.conftest import SECRET_KEY
from tests.factories import rows
from tests.integration.commands.told import assert_one_sentence, lines
from tests.integration.simulator.running import Running

KEY = "sk-planted-0123456789"
COLUMNS = "SELECT openai_api_key, dalle_api_key FROM global_integration_settings"


@pytest.fixture(scope="module")
def simulator(tmp_path_factory):
    running = Running(tmp_path_factory.mktemp("simulator") / "journal.jsonl", "--latency", "0")
    yield running
    running.stop()


def connect(provider, url, key="sim-one"):
    with transaction() as session:
        set_connection(session, provider, api_key=key, base_url=url)


def test_a_key_from_stdin_is_shown_by_its_fingerprint_and_its_end(run):
    assert run("integrations", "set", "runware", stdin=f"{KEY}\n")[0] == 0

    _, out, err = run("integrations", "show", "--json")
    _, table, _ = run("integrations", "show")

    assert lines(out)[0]["runware"] == {
        "has_key": True, "base_url": None, "fingerprint": fingerprint(KEY), "ends_with": "6789"
    }  # fmt: skip
    assert lines(out)[0]["openai"] == {"has_key": False, "base_url": None}
    assert fingerprint(KEY) in table
    assert KEY not in out + err + table


def test_the_end_of_a_short_key_is_not_shown(run):
    run("integrations", "set", "openai", stdin="sk-short")

    assert lines(run("integrations", "show", "--json")[1])[0]["openai"]["ends_with"] is None


def test_images_of_openai_may_have_a_key_of_their_own(run):
    run("integrations", "set", "openai", "--base-url", "http://127.0.0.1:1/v1", stdin="sk-for-texts")

    code, out, _ = run("integrations", "set", "dalle", stdin="sk-for-images")

    assert (code, out) == (0, "The connection to dalle is set.\n")
    with transaction() as session:
        found = [connection_for(session, "openai", kind) for kind in ("text", "image")]
    assert [each.api_key for each in found] == ["sk-for-texts", "sk-for-images"]
    assert {each.base_url for each in found} == {"http://127.0.0.1:1/v1"}
    assert run("integrations", "set", "dalle", "--base-url", "http://127.0.0.1:1", stdin="x")[0] == 2


@pytest.mark.parametrize("stdin", ["", "\n", " ", "ключ", "a\x00b", "x" * 501, "x" * 10_000_000])
def test_what_is_no_key_is_refused_and_nothing_is_stored(run, stdin):
    code, out, err = run("integrations", "set", "openai", stdin=stdin)

    assert (code, out) == (2, "")
    assert "empty or not a key" in err
    assert rows(COLUMNS) == [(None, None)]


def test_a_ciphertext_that_was_copied_to_another_field_does_not_decrypt(run):
    run("integrations", "set", "openai", stdin=KEY)
    sql("UPDATE global_integration_settings SET dalle_api_key = openai_api_key")

    with pytest.raises(ConfigurationError, match="was not encrypted for the place"), transaction() as session:
        connection_for(session, "openai", "image")
    code, out, err = run("integrations", "show")
    assert (code, out) == (1, "")
    assert_one_sentence(err, "configuration_error")
    assert KEY not in err


def test_rotating_lets_the_old_secret_key_be_taken_away(run, env):
    run("integrations", "set", "openai", stdin=KEY)
    run("integrations", "set", "dalle", stdin="sk-for-images")
    before, new = rows(COLUMNS), new_secret_key()
    env.setenv("CREDITMILL_SECRET_KEY", f"{new},{SECRET_KEY}")
    told = run("doctor")[1]

    first = run("integrations", "rotate", "--json")
    again = run("integrations", "rotate")

    assert "An older secret key encrypted that of openai, dalle" in told
    assert json.loads(first[1])["rotated"] == 2
    assert again[1].startswith("0 of 2 keys")
    assert all(Fernet(new).decrypt(token.encode()).endswith(key) for token, key in zip(
        rows(COLUMNS)[0], (KEY.encode(), b"sk-for-images"), strict=True))  # fmt: skip
    assert set(before[0]).isdisjoint(rows(COLUMNS)[0])
    env.setenv("CREDITMILL_SECRET_KEY", new)
    assert run("integrations", "show")[0] == 0


def test_rotating_does_not_say_that_the_connections_changed(run, env):
    run("integrations", "set", "openai", stdin=KEY)
    before = rows("SELECT updated_at FROM global_integration_settings")
    env.setenv("CREDITMILL_SECRET_KEY", f"{new_secret_key()},{SECRET_KEY}")

    run("integrations", "rotate")

    assert rows("SELECT updated_at FROM global_integration_settings") == before


def test_a_key_that_cannot_be_read_is_not_rotated_nor_lost(run, env):
    run("integrations", "set", "openai", stdin=KEY)
    before = rows(COLUMNS)
    env.setenv("CREDITMILL_SECRET_KEY", new_secret_key())

    code, out, err = run("integrations", "rotate")

    assert (code, out) == (1, "")
    assert_one_sentence(err, "configuration_error")
    assert rows(COLUMNS) == before


def test_a_change_is_kept_with_its_actor_and_without_the_key(run):
    run("integrations", "set", "openai", stdin=KEY)

    _, out, _ = run("settings", "history", "--json")

    (change,) = [each for each in json.loads(out)["changes"] if each["field"] == "openai_api_key"]
    assert change["actor"]
    assert change["new"].startswith("encrypted ")
    assert KEY not in out


# --- One real call ---


@pytest.mark.parametrize("provider", ["openai", "runware"])
def test_a_connection_that_works_says_how_long_it_took(run, simulator, provider):
    path = "" if provider == "openai" else "/runware/v1"
    connect(provider, simulator.url if not path else simulator.root + path)

    code, out, err = run("integrations", "test", provider)
    found = lines(run("integrations", "test", provider, "--json")[1])[0]

    assert (code, err) == (0, "")
    assert "took the key and answered in" in out
    assert (found["works"], found["error"]) == (True, None)
    assert found["latency_ms"] >= 0


@pytest.mark.parametrize("provider", ["openai", "dalle", "runware"])
def test_a_key_that_is_refused_is_said_in_one_sentence_without_it(run, simulator, provider):
    connect("openai", simulator.url)
    connect("runware", f"{simulator.root}/runware/v1", key="planted-wrong-key-1")
    run("integrations", "set", "dalle", stdin="planted-wrong-key-2")
    if provider == "openai":
        connect("openai", simulator.url, key="planted-wrong-key-3")

    code, out, err = run("integrations", "test", provider)

    assert (code, out) == (1, "")
    assert_one_sentence(err, "bad_credentials")
    assert "refused our API key (HTTP 401" in err
    assert "planted" not in err


@pytest.mark.parametrize("provider", ["openai", "runware"])
@pytest.mark.parametrize(
    ("path", "code", "told"),
    [
        (None,          "unreachable",       "Nothing answers at its address"),
        ("/elsewhere",  "bad_request",       "does not know the request"),
        ("/images/a",   "unreadable_answer", "is not the provider"),
    ],
)  # fmt: skip
def test_a_wrong_address_is_said(run, simulator, provider, path, code, told):
    if provider == "runware" and path == "/images/a":
        pytest.skip("nothing is posted there")
    address = "http://127.0.0.1:1" if path is None else simulator.root + path
    if path == "/images/a":
        # Its SDK adds /models, so a page of any other server.
        address = page_of_a_server()
    connect(provider, address)

    exit_code, out, err = run("integrations", "test", provider)

    assert (exit_code, out) == (1, "")
    assert_one_sentence(err, code)
    assert told in err


def page_of_a_server():
    """The address of a server that answers one request with a web page."""
    server = socket.create_server(("127.0.0.1", 0))

    def answer():
        with server, server.accept()[0] as connection:
            connection.recv(65_536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>")

    threading.Thread(target=answer, daemon=True).start()
    return f"http://127.0.0.1:{server.getsockname()[1]}/v1"


@pytest.mark.parametrize(("provider", "told"), [("openai", "No API key is set"), ("google", "No API key is set")])
def test_without_a_key_nothing_is_called(run, provider, told):
    code, out, err = run("integrations", "test", provider)

    assert (code, out) == (1, "")
    assert told in err


def test_a_provider_that_cannot_be_called_yet_is_said(run):
    run("integrations", "set", "google", stdin=KEY)

    code, _, err = run("integrations", "test", "google")

    assert code == 2
    assert "cannot be called yet" in err
