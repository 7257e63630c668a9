"""Commands for operators: the audit, the providers' keys, and a doctor who says what to do about each problem."""

from __future__ import annotations

from datetime import timedelta

import pytest
import redis
from sqlalchemy import text

from billing.reports import audit
from config.addresses import AddressError
from config.database import transaction, utc_now
from config.integrations import set_connection
from tests.factories import a_queued_job, an_account, rows
from tests.integration.commands.told import assert_one_sentence, lines


def test_the_audit_exits_with_0_only_when_the_books_balance(run):
    account_id = an_account()
    assert run("audit")[:2] == (0, f"The books balance: {audit.PROMISES} rules hold.\n")

    with transaction() as session:
        session.execute(text("UPDATE accounts SET balance = 5"))

    code, out, _ = run("audit", "--json")
    assert code == 1
    assert lines(out)[0]["findings"][0]["row"] == f"account {account_id}"


def test_a_providers_key_is_read_from_a_variable_and_never_shown(run, env):
    env.setenv("MY_KEY", "sk-planted-key-123456")

    code, out, err = run(
        "integrations", "set", "openai", "--key-variable", "MY_KEY", "--base-url", "http://127.0.0.1:1/v1"
    )
    assert (code, err) == (0, "")

    shown = run("integrations", "show", "--json")
    assert lines(shown[1])[0]["openai"]["has_key"] is True
    assert lines(shown[1])[0]["openai"]["base_url"] == "http://127.0.0.1:1/v1"
    assert "planted" not in out + shown[1] + str(rows("SELECT * FROM global_integration_settings"))


def test_a_server_that_honours_keys_is_said_to_with_its_address_only(run, env):
    env.setenv("MY_KEY", "sk-one")
    address = ("--base-url", "http://127.0.0.1:1/v1")

    refused = run("integrations", "set", "openai", "--key-variable", "MY_KEY", "--honours-keys")
    done = run("integrations", "set", "openai", "--key-variable", "MY_KEY", *address, "--honours-keys")
    honoured = rows("SELECT openai_honours_keys FROM global_integration_settings")
    run("integrations", "set", "openai", "--key-variable", "MY_KEY", *address)

    assert (refused[0], done[0], honoured) == (2, 0, [(True,)])
    assert rows("SELECT openai_honours_keys FROM global_integration_settings") == [(False,)]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://mill:hunter2@host/v1",   "it holds a user or a password"),
        ("https://mill:hunter2/x@host/v1", "its port"),
        ("https://host:hunter2/v1",        "its port"),
        ("https://host/v1?key=hunter2",    "it holds options"),
        ("hunter2",                        "it has no scheme"),
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_read_is_refused_and_changes_nothing(run, env, url, said):
    env.setenv("MY_KEY", "sk-planted-key-123456")

    code, out, err = run("integrations", "set", "openai", "--key-variable", "MY_KEY", "--base-url", url)

    assert (code, out) == (2, "")
    assert_one_sentence(err, "configuration_error")
    assert f"--base-url cannot be read: {said}" in err
    assert "hunter2" not in err
    assert rows("SELECT openai_api_key, openai_base_url FROM global_integration_settings") == [(None, None)]


def test_no_address_that_holds_a_password_is_stored_by_whoever_sets_it(db):
    with pytest.raises(AddressError, match="The base URL of runware cannot be read"), transaction() as session:
        set_connection(session, "runware", api_key="sk-planted", base_url="https://mill:hunter2@host/v1")


def test_a_password_in_an_address_from_before_is_not_shown(run):
    with transaction() as session:
        set_connection(session, "openai", api_key="sk-planted", base_url=None)
        session.execute(
            text("UPDATE global_integration_settings SET openai_base_url = 'https://mill:hunter2@host.example/v1'")
        )

    told = [run("doctor")[1], run("doctor", "--json")[1], run("integrations", "show")[1]]

    assert [("host.example" in each, "hunter2" in each) for each in told] == [(True, False)] * 3


def test_the_doctor_without_its_settings_exits_with_2(run, env):
    env.setenv("BROKER_URL", "redis://:hunter2/x@host/0")

    code, out, _ = run("doctor", "--json")

    (report,) = lines(out)
    assert (code, report["healthy"]) == (2, False)
    assert [check["name"] for check in report["checks"]] == ["settings"]
    assert "hunter2" not in out


def test_an_empty_key_is_refused(run):
    code, _, err = run("integrations", "set", "openai", "--key-variable", "NOT_SET")

    assert code == 2
    assert "empty" in err


def test_the_doctor_says_what_to_do_about_each_problem(run):
    code, out, _ = run("doctor", "--json")

    (report,) = lines(out)
    health = {check["name"]: check["healthy"] for check in report["checks"]}
    assert (code, report["healthy"]) == (1, False)
    assert health == {
        "settings": True, "database": True, "migrations": True, "clock": True, "keys": False, "tenants": True,
        "models": True, "overrun": True, "messages": True, "webhooks": True, "jobs": True, "periodic": True,
        "books": True, "broker": True, "redelivery": True, "queues": True, "billing": False, "generation": False,
    }  # fmt: skip
    assert "creditmill integrations set openai" in out


def test_the_doctor_says_so_when_redis_goes_away_while_it_looks(run, monkeypatch):
    def cut(**_):
        raise redis.ConnectionError("Connection reset by peer")

    monkeypatch.setattr("tasks.app.app.control.ping", cut)

    (report,) = lines(run("doctor", "--json")[1])

    told = {check["name"]: (check["healthy"], check["sentence"]) for check in report["checks"]}
    assert told["broker"] == (False, "Redis does not answer: start it, or correct BROKER_URL.")
    assert "billing" not in told


def test_the_doctor_sees_what_waits_too_long_and_what_earns_too_little(run, env, broker_url):
    a_queued_job(an_account(), now=utc_now() - timedelta(hours=2))
    env.setenv("CREDITMILL_VISIBILITY_TIMEOUT_S", "60")
    with redis.Redis.from_url(broker_url) as client:
        client.lpush("text", "a message")
    with transaction() as session:
        session.execute(text("UPDATE image_prices SET credits_per_image = 5 WHERE model_name = 'google:4@2'"))
        session.execute(text("UPDATE ai_model_config SET deprecation_date = '2026-01-01' WHERE model_name = 'gpt-4o'"))

    (report,) = lines(run("doctor", "--json")[1])

    told = {check["name"]: (check["healthy"], check["sentence"]) for check in report["checks"]}
    assert told["jobs"][0] is False
    assert told["jobs"][1].startswith("1 job waits to be looked at since ")
    assert told["models"] == (
        False,
        "The provider has taken gpt-4o away on 2026-01-01: use another model. "
        "1 price earns too little: run `creditmill models check`.",
    )
    assert told["redelivery"][0] is False
    assert told["queues"] == (True, "Messages wait in queues: text 1.")
