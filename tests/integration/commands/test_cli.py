"""The command line as a whole: every command explains itself; what is wrong is one sentence and an exit code."""

from __future__ import annotations

from uuid import uuid4

import click
import pytest

from billing.ledger import accounts
from tests.factories import rows
from tests.integration.commands.told import a_line, assert_one_sentence
from workers import cli


def test_every_command_explains_itself():
    def walk(command, path):
        assert command.help, path
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.name != "help":
                assert parameter.help, f"{path} {parameter.opts}"
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, [*path, name])

    walk(cli.creditmill, ["creditmill"])


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["accounts", "show", "77"],                     "unknown_account"),
        (["accounts", "show", str(2**80)],               "unknown_account"),
        (["accounts", "show", "--", "-1"],               "unknown_account"),
        (["accounts", "create", ""],                     "invalid_name"),
        (["accounts", "create", "x", "--time-zone", "Mars/North"], "invalid_time_zone"),
        (["accounts", "create", "x", "--credits", "-5"], "invalid_amount"),
        (["accounts", "top-up", "77", "5"],              "unknown_account"),
        (["jobs", "show", str(uuid4())],                 "unknown_job"),
        (["jobs", "cancel", str(uuid4())],               "unknown_job"),
        (["submit", "--account", "77"],                  "unknown_account"),
    ],
)  # fmt: skip
def test_what_does_not_exist_is_one_sentence_and_exit_code_2(run, arguments, code):
    exit_code, out, err = run(*arguments, stdin=a_line() + "\n")

    assert (exit_code, out) == (2, "")
    assert_one_sentence(err, code)
    assert rows("SELECT count(*) FROM accounts") == [(0,)]


@pytest.mark.parametrize(
    "arguments", [["accounts", "show", "x"], ["jobs", "show", "x"], ["nonsense"], ["jobs", "list", "--state", "x"]]
)
def test_wrong_usage_is_one_sentence_with_a_code(run, arguments):
    code, out, err = run(*arguments)

    assert (code, out) == (2, "")
    assert_one_sentence(err, "invalid_command" if arguments == ["nonsense"] else "invalid_argument")


@pytest.mark.parametrize(
    ("variable", "value", "said", "exit_code"),
    [
        ("DATABASE_URL", None, "DATABASE_URL is not set", 2),
        ("BROKER_URL", None, "BROKER_URL is not set", 2),
        ("CREDITMILL_SECRET_KEY", None, "CREDITMILL_SECRET_KEY is not set", 2),
        ("CREDITMILL_SECRET_KEY", "short", "CREDITMILL_SECRET_KEY is not a list of Fernet keys", 2),
        ("CREDITMILL_CALL_ATTEMPTS", "many", "CREDITMILL_CALL_ATTEMPTS is not valid", 2),
        ("DATABASE_URL", "postgresql://u:p@localhost:word/d", "DATABASE_URL cannot be read: its port", 2),
        ("BROKER_URL", "redis://:p/w@localhost/0", "BROKER_URL cannot be read: its password", 2),
        ("DATABASE_URL", "postgresql://127.0.0.1:1/none", "The database cannot be reached", 1),
    ],
)
def test_a_wrong_environment_is_one_sentence(run, env, variable, value, said, exit_code):
    env.delenv(variable, raising=False)
    if value is not None:
        env.setenv(variable, value)

    code, _, err = run("accounts", "list")

    assert code == exit_code
    assert said in err
    assert err.count("\n") == 1


def test_an_error_that_nobody_expected_is_traced_without_secrets(run, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("key sk-planted-0123 at postgresql://mill:hunter2@db/mill")

    monkeypatch.setattr(accounts, "newest", fail)

    code, out, err = run("accounts", "list")

    assert (code, out) == (1, "")
    assert err.startswith("Traceback")
    assert "RuntimeError: key [scrubbed] at postgresql://[scrubbed]@db/mill" in err
    assert "planted-0123" not in err
