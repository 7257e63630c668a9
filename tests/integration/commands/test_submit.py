"""`creditmill submit`: a job for each line, and a bad line is named and nothing is submitted."""

from __future__ import annotations

import pytest

from tests.factories import an_account, rows
from tests.integration.commands.told import PLANTED, a_line, assert_one_sentence, lines


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
