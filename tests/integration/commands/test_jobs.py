"""`creditmill jobs`: the story of a job, lists without prompts, cancelling, resolving an unknown outcome."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from sqlalchemy import text

from billing.jobs import calling, settling
from billing.jobs.policy import Failure
from config.database import transaction
from tests.catalogue import a_settled_job, change, sql
from tests.factories import (
    NOON,
    a_claim,
    a_generated_job,
    a_queued_job,
    a_reserved_job,
    an_account,
    the_account,
    the_job,
)
from tests.integration.commands.told import PLANTED, assert_one_sentence, lines, one


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


def test_a_jobs_story_says_how_its_usage_was_mended_and_what_the_provider_reports(run):
    job_id = a_generated_job(an_account())
    with transaction() as session:
        session.execute(text("UPDATE provider_calls SET usage_note = 'input_counted', reported_cost_usd = 0.5"))

    generated = one(run("jobs", "show", job_id, "--json")[1])["timeline"][3]

    assert generated["usage_note"] == "input_counted"
    assert "(by count: the input tokens are those of the text, counted here)" in generated["detail"]
    assert "(the provider reports a cost of 0.5 USD)" in generated["detail"]


def test_jobs_are_listed_without_their_prompts(run):
    account_id = an_account()
    job_id = a_queued_job(account_id, params={"prompt": PLANTED})
    a_reserved_job(account_id)

    shown = one(run("jobs", "list", "--account", account_id, "--state", "queued", "--json")[1])["jobs"]

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

    listed = one(run("jobs", "unknown", "--json")[1])["calls"]
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
    assert one(run("jobs", "unknown", "--json")[1]) == {"calls": [], "next": None}


def test_a_receipt_tells_what_was_asked_used_priced_and_charged(run):
    job_id = a_settled_job(an_account())

    code, out, _ = run("jobs", "receipt", job_id)
    whole = one(run("jobs", "receipt", job_id, "--json")[1])
    customers = (
        run("jobs", "receipt", job_id, "--customer")[1] + run("jobs", "receipt", job_id, "--customer", "--json")[1]
    )

    assert code == 0
    assert "500 tokens at 100 a credit, rounded up: 5 credits; 11 held, 6 released." in out
    assert (whole["credits_charged"], whole["credits_recomputed"], whole["follows"]) == (5, 5, True)
    assert whole["asked"]["max_output_tokens"] == 1000
    assert whole["settings_used"]["model"] == "platform"
    assert "model by the platform" in out
    assert "usd" not in customers.lower()
    assert "$" not in customers
    assert "bread" not in out + customers


def test_a_customers_receipt_of_a_charge_by_cost_tells_no_cost(run):
    change("set_operation", "clustering", priced_by="cost", markup_percent="150")
    job_id = a_settled_job(an_account())

    ours = run("jobs", "receipt", job_id)[1] + run("jobs", "receipt", job_id, "--json")[1]
    customers = run("jobs", "receipt", job_id, "--customer")[1]
    customers += run("jobs", "receipt", job_id, "--customer", "--json")[1]

    assert "markup of 150 %" in ours
    assert "$" in ours
    assert [word for word in ("$", "usd", "markup", "150") if word in customers.lower()] == []


def test_a_receipt_of_a_charge_that_does_not_follow_exits_with_1(run):
    job_id = a_settled_job(an_account())
    sql("UPDATE provider_calls SET usage = usage || '{\"output_tokens\": 600}'")

    code, out, _ = run("jobs", "receipt", job_id)

    assert code == 1
    assert "7 credits" in out
    assert "But 5 credits were charged." in out


def test_a_receipt_says_what_is_held_released_or_refused(run):
    account_id = an_account(12)
    reserved, queued = a_reserved_job(account_id), a_queued_job(account_id)

    assert "11 credits are held; nothing is charged yet." in run("jobs", "receipt", reserved)[1]
    assert "Nothing is held or charged yet." in run("jobs", "receipt", queued)[1]
    run("jobs", "cancel", reserved)
    assert "Nothing was charged; 11 credits were held, and all were released." in run("jobs", "receipt", reserved)[1]
    assert run("jobs", "receipt", "0b1f4c1e-8a64-4d0e-9a6f-2f5e8f3b7c11")[0] == 2
