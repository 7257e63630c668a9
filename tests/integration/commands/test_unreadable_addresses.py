"""Every address that cannot be read, before every process that reads it: one sentence, exit 2, no word of a password.

Here the commands run in this process; tests/acceptance/workers/test_unreadable_addresses.py starts each in its own.
"""

from __future__ import annotations

import io
import sys
import traceback

import pytest

from config.settings import PROXIES, SettingError
from tasks.app import UnreadableBroker, app
from tests.conftest import SECRET_KEY
from workers import bootstrap, cli

# Whatever took such an address for a good one would go on for ever.
pytestmark = pytest.mark.timeout(20, method="signal")

ONE, OTHER = "hunter2", "swordfish"
"""What a password consists of; it is told in neither part."""
GOOD = {
    # Nobody answers there, and nobody is asked.
    "DATABASE_URL": "postgresql://mill@127.0.0.1:1/mill",
    "BROKER_URL": "redis://127.0.0.1:1/0",
    "CREDITMILL_SECRET_KEY": SECRET_KEY,
    "CREDITMILL_FLOWER_PORT": "0",
}
PLACE = "127.0.0.1:6379/0"
BROKERS = [
    # address                                      what is wrong
    (" ",                                          "it has no scheme"),
    (f"{ONE}@{PLACE}",                             "it has no scheme"),
    (f"rabbit://mill:{ONE}@{PLACE}",               "its scheme is not"),
    (f"amqp://mill:{ONE}@{PLACE}",                 "its scheme is not"),
    (f"sentinel://:{ONE}@{PLACE}",                 "its scheme is not"),
    (f"redis://:{ONE}/{OTHER}@{PLACE}",            "its password holds"),
    (f"redis://:{ONE}#{OTHER}@{PLACE}",            "its password holds"),
    (f"redis://:{ONE}?{OTHER}@{PLACE}",            "its password holds"),
    (f"redis://mill:1/{OTHER}@{PLACE}",            "its password holds"),
    (f"redis://:{ONE};{OTHER}@{PLACE}",            "its password holds"),
    (f"redis://:[{ONE}]{OTHER}@{PLACE}",           "its password holds"),
    (f"rediss://:{ONE}/{OTHER}@{PLACE}",           "its password holds"),
    (f"redis+socket://:{ONE}/{OTHER}@/run/redis",  "its password holds"),
    (f"redis://:{ONE}@127.0.0.1:word/0",           "its port is not"),
    (f"redis://:{ONE}@127.0.0.1:{OTHER}/0",        "its port is not"),
    (f"redis://:{ONE}@127.0.0.1:70000/0",          "its port is not"),
    (f"redis://mill:{ONE}",                        "its port is not"),
    (f"redis://:{ONE}@[::1/0",                     "its host is not"),
    ("redis://:x@[::1/0",                          "its host is not"),
    (f"redis://:{ONE}@::1/0",                      "its host is not"),
    (f"redis://:{ONE}@höst/0",                     "its host is not"),
    (f"redis://:{ONE}@one,two/0",                  "its host is more than one"),
    (f"redis://:{ONE}@ho\nst/0",                   "its host holds"),
    (f"redis://127.0.0.1/{ONE}",                   "its database is not"),
    (f"redis://127.0.0.1/0?password={ONE}",        "it holds options"),
    (f"redis://:{ONE}@{PLACE}#",                   "it ends with a #"),
    (f"rediss://127.0.0.1/0?ssl_cert_reqs={ONE}",  "its option ssl_cert_reqs has"),
    (f"redis+socket://{ONE}/redis.sock",           "its path is not"),
]  # fmt: skip
DATABASES = [
    (" ",                                                        "it has no scheme"),
    (f"mill:{ONE}@127.0.0.1/mill",                               "it has no scheme"),
    (f"mysql://mill:{ONE}@127.0.0.1/mill",                       "its scheme is not"),
    (f"postgres://mill:{ONE}@127.0.0.1/mill",                    "its scheme is not"),
    (f"postgresql+asyncpg://mill:{ONE}@127.0.0.1/mill",          "its scheme is not"),
    (f"postgresql://mill:{ONE}@127.0.0.1:word/mill",             "its port is not"),
    (f"postgresql://mill:{ONE}@127.0.0.1:{OTHER}/mill",          "its port is not"),
    (f"postgresql://mill:{ONE}@[::1/mill",                       "its host is not"),
    (f"postgresql://mill:{ONE}@a:1,b:2/mill",                    "its host is not"),
    (f"postgresql://mill:{ONE}/{OTHER}",                         "its port is not"),
    (f"postgresql://mill:{ONE}@{OTHER}@127.0.0.1/mill",          "its password holds"),
    (f"postgresql://mill:{ONE}\n{OTHER}@127.0.0.1/mill",         "its password holds"),
    (f"postgresql://mill:{ONE}@127.0.0.1/mill x",                "it holds a space"),
    (f"postgresql://mill@127.0.0.1/mill?{ONE}={OTHER}",          "PostgreSQL does not know"),
    (f"postgresql://mill:{ONE}@/mill?host=a:1&host=b&port={OTHER}", "the hosts and ports"),
]  # fmt: skip
BAD = [("BROKER_URL", *each) for each in BROKERS] + [("DATABASE_URL", *each) for each in DATABASES]
COMMANDS = [
    *("accounts list", "audit", "beat", "flower", "integrations show", "jobs list"),
    *("jobs unknown", "metrics", "metrics --json", "migrate", "models list", "models check", "operations list"),
    *("plans list", "quote", "revenue report", "submit --account 1", "up", "up --simulator", "worker billing"),
    "worker generation",
]


@pytest.fixture
def told(home, monkeypatch, capsys):
    """Run a command in this process; returns its exit code, stdout and stderr."""

    def run(command, **given):
        for name, value in {**GOOD, "CREDITMILL_FOLDER": str(home), **given}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["creditmill", *command.split()])
        monkeypatch.setattr(sys, "stdin", io.StringIO(""))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    return run


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("variable", "value", "part"), BAD)
def test_a_command_says_it_in_one_sentence(told, home, command, variable, value, part):
    code, out, err = told(command, **{variable: value})

    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"creditmill: {variable} cannot be read: {part}")
    assert err.endswith(" [configuration_error]\n")
    assert_kept_secret(err)
    assert [path.name for path in home.rglob("*") if path.name != "instance.lock"] == []


@pytest.mark.parametrize("command", ["doctor", "doctor --json"])
@pytest.mark.parametrize(("variable", "value", "part"), BAD)
def test_the_doctor_says_it_in_its_report(told, command, variable, value, part):
    code, out, err = told(command, **{variable: value})

    assert (code, out.count("\n"), err) == (2, 1, "")
    assert f"{variable} cannot be read: {part}" in out
    assert_kept_secret(out)


@pytest.mark.parametrize(("variable", "value", "part"), BAD)
def test_a_program_that_submits_is_told_by_an_error_without_it(monkeypatch, variable, value, part):
    for name, given in {**GOOD, variable: value}.items():
        monkeypatch.setenv(name, given)

    with pytest.raises(SettingError) as caught:
        bootstrap.publisher("shop")

    assert str(caught.value).startswith(f"{variable} cannot be read: {part}")
    assert_kept_secret(without_this_file(caught.value))


@pytest.mark.parametrize("connect", [app.connection_for_read, app.connection_for_write], ids=["read", "write"])
@pytest.mark.parametrize(("value", "part"), BROKERS)
def test_celerys_own_programs_connect_to_no_such_broker(connect, value, part):
    with pytest.raises(UnreadableBroker) as caught:
        connect(value)

    assert caught.value.exit_code == 2
    assert str(caught.value).startswith(f"BROKER_URL cannot be read: {part}")
    assert_kept_secret(without_this_file(caught.value))


@pytest.mark.parametrize("variable", PROXIES)
@pytest.mark.parametrize(
    ("value", "part"),
    [
        (f"http://mill:{ONE}/{OTHER}@proxy:3128", "its password holds"),
        (f"http://mill:{ONE}#{OTHER}@proxy:3128", "its password holds"),
        (f"mill:{ONE}/{OTHER}@proxy:3128",        "its password holds"),
        (f"http://mill:{ONE}@proxy:{OTHER}",      "its port is not"),
        (f"http://mill:{ONE}@[::1",               "its host is not"),
        (f"ftp://mill:{ONE}@proxy:3128",          "its scheme is not"),
        (f"http://mill:{ONE}@:3128",              "it has no host"),
    ],
)  # fmt: skip
def test_a_proxy_stops_whoever_calls_providers(told, variable, value, part):
    code, out, err = told("worker generation", **{variable: value})

    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"creditmill: {variable} cannot be read: {part}")
    assert_kept_secret(err)


def assert_kept_secret(said):
    assert ONE not in said
    assert OTHER not in said


def without_this_file(error):
    """The error as a program's log would have it, without the lines of this file, which may quote the address."""
    frames = traceback.TracebackException.from_exception(error)
    return "".join(line for line in frames.format() if __file__ not in line)
