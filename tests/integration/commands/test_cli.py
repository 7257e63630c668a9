"""The command line: what it prints, what it refuses in one sentence, and with which exit code."""

from __future__ import annotations

import json
from datetime import timedelta
from uuid import uuid4

import click
import pytest
import redis
from sqlalchemy import text

from billing.jobs import calling, settling
from billing.jobs.policy import Failure
from billing.reports import audit, revenue
from config.database import transaction, utc_now
from tests.factories import (
    NOON,
    a_claim,
    a_generated_job,
    a_queued_job,
    a_reserved_job,
    an_account,
    rows,
    the_account,
    the_job,
)
from workers import cli

PLANTED = "planted-prompt"


def lines(told):
    return [json.loads(line) for line in told.splitlines()]


def a_line(operation="clustering", **given):
    return json.dumps({"operation": operation, "params": {"prompt": PLANTED, "max_output_tokens": 100}} | given)


def assert_one_sentence(told, code):
    assert told.startswith("creditmill: ")
    assert told.rstrip().endswith(f"[{code}]")
    assert told.count("\n") == 1
    assert len(told) < 400
    assert PLANTED not in told


def test_every_command_explains_itself():
    def walk(command, path):
        assert command.help, path
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.name != "help":
                assert parameter.help, f"{path} {parameter.opts}"
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, [*path, name])

    walk(cli.creditmill, ["creditmill"])


def test_an_account_is_created_shown_and_topped_up(run):
    code, out, _ = run("accounts", "create", "Corner Bakery", "--credits", 500, "--json")
    assert code == 0
    account_id = lines(out)[0]["id"]

    told = [run("accounts", "top-up", account_id, 250, "--idempotency-key", "k")[:2] for _ in range(2)]
    assert told[0] == (0, f"Account {account_id} got 250 credits; its balance is 750.\n")
    assert (told[1][0], told[1][1].split(":")[0]) == (0, "Nothing was added")

    shown = lines(run("accounts", "show", account_id, "--json")[1])[0]
    assert (shown["balance"], shown["reserved"], shown["available"]) == (750, 0, 750)
    assert "750 credits" in run("accounts", "show", account_id)[1]
    assert "Corner Bakery" in run("accounts", "list")[1]


@pytest.mark.parametrize("name", ["a [/b]", "[bold red]free[/]", ":boom:"])
def test_a_name_is_shown_as_it_is(run, name):
    account_id = an_account(0, name=name)

    for arguments in (["accounts", "list"], ["accounts", "show", account_id]):
        code, out, _ = run(*arguments)
        assert (code, name in out) == (0, True)


@pytest.mark.parametrize("option", ["--description", "--idempotency-key"])
@pytest.mark.parametrize("given", ["\x1b[2Jgone", "two\nlines", "x" * 256])
def test_a_top_up_cannot_be_described_by_what_a_terminal_obeys(run, option, given):
    account_id = an_account(0)

    code, _, err = run("accounts", "top-up", account_id, 250, option, given)

    assert code == 2
    assert_one_sentence(err, "invalid_text")
    assert the_account(account_id).balance == 0


def test_a_conflicting_top_up_is_refused(run):
    account_id = an_account(0)
    run("accounts", "top-up", account_id, 250, "--idempotency-key", "k")

    code, _, err = run("accounts", "top-up", account_id, 251, "--idempotency-key", "k")

    assert code == 2
    assert_one_sentence(err, "idempotency_conflict")
    assert the_account(account_id).balance == 250


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
def test_wrong_usage_is_exit_code_2_without_a_traceback(run, arguments):
    code, _, err = run(*arguments)

    assert code == 2
    assert "Traceback" not in err
    assert "Error: " in err


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("{not json",                                                  "invalid_json"),
        ("[" * 100_000,                                                "invalid_json"),
        ("[]",                                                         "invalid_request"),
        ('"text"',                                                     "invalid_request"),
        ('{"operation": "clustering"}',                                "invalid_request"),
        (a_line("juggling"),                                           "unknown_operation"),
        (a_line(model="gpt-9"),                                        "unknown_model"),
        (a_line(user_id=-1),                                           "invalid_request"),
        (a_line(idempotency_key=""),                                   "invalid_request"),
        (a_line(surprise=1),                                           "invalid_request"),
        (a_line(params={"prompt": PLANTED + "\x00"}),                  "invalid_text"),
        (a_line(params={"prompt": PLANTED + "\ud800"}),                "invalid_text"),
        ('{"operation": "clustering", "params": {"prompt": "\udcff"}}', "invalid_text"),
        (a_line(params={"prompt": "x" * 1_000_001}),                   "body_too_large"),
        (a_line(params={"prompt": "x", "temperature": float("nan")}),  "invalid_request"),
        (a_line(params={"prompt": "x", "max_output_tokens": 10**30}),  "invalid_params"),
        ("x" * 3_000_000,                                              "body_too_large"),
        ("",                                                           "no_requests"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["submit"])
def test_a_bad_line_is_named_and_nothing_is_submitted(run, command, line, code):
    account_id = an_account()
    good = "" if code == "no_requests" else a_line() + "\n"

    exit_code, out, err = run(command, "--account", account_id, stdin=good + line + "\n")

    assert (exit_code, out) == (2, "")
    assert_one_sentence(err, code)
    assert code == "no_requests" or "line 2: " in err
    assert rows("SELECT count(*) FROM generation_jobs") == [(0,)]


def test_submitting_without_waiting_prints_a_job_for_each_line(run):
    account_id = an_account()

    code, out, err = run(
        "submit", "--account", account_id, "--no-wait", stdin=f"{a_line()}\n\n{a_line(idempotency_key='k')}\n"
    )

    assert (code, err) == (0, "")
    assert [(line["line"], line["state"], line["created"]) for line in lines(out)] == [
        (1, "queued", True),
        (3, "queued", True),
    ]


def test_waiting_ends_with_an_error_when_jobs_do_not_finish(run):
    code, out, err = run("submit", "--account", an_account(), "--timeout", 0.1, stdin=a_line())

    assert code == 1
    assert lines(out)[0]["state"] == "queued"
    assert "1 of 1 jobs are not finished after 0.1 s" in err


def test_a_request_is_quoted_at_its_worst_case(run):
    account_id = an_account(3)
    a_reserved_job(account_id, params={"prompt": "x", "max_output_tokens": 16})
    image = json.dumps({"operation": "image_generation", "params": {"prompt": "x", "n": 2}})

    code, out, _ = run("quote", "--account", account_id, stdin=f"{a_line()}\n{image}\n")

    text, two_images = lines(out)
    assert code == 0
    assert (text["credits"], text["affordable"], text["available"]) == (2, True, 2)
    assert (two_images["credits"], two_images["short"], two_images["held"]) == (10, 8, 1)
    assert two_images["error"] == "insufficient_credits"
    assert rows("SELECT count(*) FROM generation_jobs") == [(1,)]


def test_a_usage_is_quoted_with_cost_and_margin(run):
    usage = {
        "operation": "clustering",
        "model": "gpt-4o-mini",
        "input_tokens": 1000,
        "cached_input_tokens": 1000,
        "output_tokens": 500,
    }
    image = {
        "operation": "image_generation",
        "model": "dall-e-3",
        "images": 1,
        "size": "1024x1024",
        "quality": "standard",
    }
    wrong = {"operation": "clustering", "input_tokens": -1}

    code, out, _ = run("quote", "--account", an_account(), stdin="\n".join(map(json.dumps, [usage, image, wrong])))

    text, picture, refused = lines(out)
    assert code == 2
    assert text == {
        "line": 1,
        "credits": 25,
        "cost_usd": "0.0005250000",
        "revenue_usd": "0.2500000000",
        "margin_usd": "0.2494750000",
    }
    assert (picture["credits"], picture["margin_usd"]) == (5, "0.0600000000")
    assert refused["error"] == "invalid_usage"


def test_a_jobs_story_has_each_step_with_credits_and_cost(run):
    job_id = a_generated_job(an_account())
    with transaction() as session:
        settling.settle(session, [job_id], now=NOON)

    code, out, _ = run("jobs", "show", job_id, "--json", "--content")

    story = lines(out)[0]
    assert code == 0
    assert [(step["step"], step["credits"]) for step in story["timeline"]] == [
        ("queued", None),
        ("reserved", 11),
        ("calling", None),
        ("generated", None),
        ("settled", -5),
    ]
    assert story["timeline"][3]["cost_usd"] == "0.0041250000"
    assert story["content"] == {"text": "a b c"}
    assert "settled" in run("jobs", "show", job_id)[1]


def test_jobs_are_listed_without_their_prompts(run):
    account_id = an_account()
    job_id = a_queued_job(account_id, params={"prompt": PLANTED})
    a_reserved_job(account_id)

    shown = lines(run("jobs", "list", "--account", account_id, "--state", "queued", "--json")[1])

    assert [job["job_id"] for job in shown] == [str(job_id)]
    assert PLANTED not in run("jobs", "list")[1] + json.dumps(shown)


@pytest.mark.parametrize(("make", "state"), [(a_queued_job, "cancelled"), (a_reserved_job, "refunded")])
def test_a_job_can_be_cancelled_before_its_call(run, make, state):
    account_id = an_account()
    job_id = make(account_id)

    for _ in range(2):
        assert run("jobs", "cancel", job_id)[0] == 0

    assert the_job(job_id).state == state
    assert the_account(account_id).reserved == 0


def test_a_generated_job_cannot_be_cancelled(run):
    code, _, err = run("jobs", "cancel", a_generated_job(an_account()))

    assert code == 2
    assert_one_sentence(err, "not_cancellable")


def test_an_account_is_frozen_for_a_reason_and_unfrozen(run):
    account_id = an_account(1000)

    told = [run("accounts", "freeze", account_id, "--reason", reason)[1] for reason in ("chargeback", "again")]
    assert told == [f"Account {account_id} is frozen.\n", f"Account {account_id} was already frozen.\n"]
    assert "frozen: chargeback" in run("accounts", "show", account_id)[1]
    code, _, err = run("accounts", "freeze", account_id, "--reason", " ")
    assert code == 2
    assert_one_sentence(err, "invalid_text")

    told = [run("accounts", "unfreeze", account_id)[1] for _ in range(2)]
    assert told == [f"Account {account_id} starts jobs again.\n", f"Account {account_id} was not frozen.\n"]
    assert the_account(account_id).frozen_reason is None


def test_an_unknown_outcome_is_listed_and_resolved_with_its_evidence(run, home):
    account_id = an_account(1000)
    job_id = a_reserved_job(account_id)
    a_claim(job_id)
    with transaction() as session:
        calling.mark_unknown(
            session, [the_job(job_id)], Failure.WORKER_LOST, now=NOON, look_after=timedelta(minutes=10)
        )
    (home / "result.json").write_text('{"text": "bread"}')
    usage = '{"input_tokens": 100, "output_tokens": 400}'

    listed = lines(run("jobs", "unknown", "--json")[1])
    refused = run("jobs", "resolve", job_id, "--outcome", "delivered", "--evidence", "Ticket 4711", "--usage", "[]")
    code, out, _ = run(
        "jobs", "resolve", job_id, "--outcome", "delivered", "--evidence", "Ticket 4711",
        "--usage", usage, "--content", home / "result.json", "--json",
    )  # fmt: skip

    assert [(each["job_id"], each["failure"], each["worst_cost_usd"]) for each in listed] == [
        (str(job_id), "worker_lost", "0.0100312500")
    ]
    assert refused[0] == 2
    assert_one_sentence(refused[2], "invalid_json")
    assert (code, lines(out)[0]["state"], lines(out)[0]["cost_usd"]) == (0, "generated", "0.0041250000")
    assert "Ticket 4711" in run("jobs", "show", job_id)[1]
    assert lines(run("jobs", "unknown", "--json")[1]) == []


def test_the_audit_exits_with_0_only_when_the_books_balance(run):
    account_id = an_account()
    assert run("audit")[:2] == (0, f"The books balance: {len(audit.RULES)} rules hold.\n")

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
    assert lines(shown[1])[0]["openai"] == {"has_key": True, "base_url": "http://127.0.0.1:1/v1"}
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
        "settings": True, "database": True, "migrations": True, "clock": True, "keys": False, "models": True,
        "messages": True, "jobs": True, "periodic": True, "books": True, "broker": True, "redelivery": True,
        "queues": True, "billing": False, "generation": False,
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


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("DATABASE_URL", None, "DATABASE_URL is not set"),
        ("BROKER_URL", None, "BROKER_URL is not set"),
        ("CREDITMILL_SECRET_KEY", None, "CREDITMILL_SECRET_KEY is not set"),
        ("CREDITMILL_SECRET_KEY", "short", "CREDITMILL_SECRET_KEY is not a list of Fernet keys"),
        ("CREDITMILL_CALL_ATTEMPTS", "many", "CREDITMILL_CALL_ATTEMPTS is not valid"),
        ("DATABASE_URL", "postgresql://127.0.0.1:1/none", "The database cannot be reached"),
    ],
)
def test_a_wrong_environment_is_one_sentence(run, env, variable, value, said):
    env.delenv(variable, raising=False)
    if value is not None:
        env.setenv(variable, value)

    code, _, err = run("accounts", "list")

    assert code == 1
    assert said in err
    assert err.count("\n") == 1


def test_the_roll_up_of_nothing_is_nothing(db):
    with transaction() as session:
        assert revenue.roll_up(session, now=NOON) == 0
