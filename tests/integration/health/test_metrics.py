"""Figures for monitoring: what waits, what was set aside, and what the last audit found."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from sqlalchemy import text

from billing.catalog.usage import Usage
from config.database import transaction
from tasks import periodic
from tasks.messages import setting_aside
from tests.catalogue import a_settled_job
from tests.factories import a_claim, a_generated_job, a_queued_job, a_reserved_job, an_account, rows, the_account


@pytest.fixture
def figures(run):
    """Read the figures, by name and labels."""

    def read():
        code, out, err = run("metrics", "--json")
        assert code == 0, err
        found = [json.loads(line) for line in out.splitlines()]
        return {(each["name"], *each["labels"].values()): each["value"] for each in found}

    return read


def an_hour_ago():
    return rows("SELECT now()")[0][0] - timedelta(hours=1)


def test_unfinished_jobs_are_counted_by_state(figures):
    account_id = an_account(10_000)
    now = rows("SELECT now()")[0][0]
    a_queued_job(account_id, now=now)
    a_reserved_job(account_id, now=now)
    a_claim(a_reserved_job(account_id, now=now), now=now)
    a_generated_job(account_id, now=now)

    found = figures()

    counted = {state: found["creditmill_jobs", state] for state in ("queued", "reserved", "calling", "generated")}
    assert set(counted.values()) == {1}
    assert found["creditmill_jobs", "unknown"] == 0
    assert found["creditmill_jobs_overdue",] == 0


def test_jobs_that_recovery_forgot_are_counted(figures):
    a_queued_job(an_account(), now=an_hour_ago())

    assert figures()["creditmill_jobs_overdue",] == 1


def test_overrun_is_a_figure_by_model_and_much_of_it_a_check(figures, run):
    now = rows("SELECT now()")[0][0]
    account_id = an_account(100_000)

    def overrun():
        (report,) = [json.loads(line) for line in run("doctor", "--json")[1].splitlines()]
        (check,) = [check for check in report["checks"] if check["name"] == "overrun"]
        return check["healthy"], check["sentence"]

    assert overrun() == (True, "No job of the last 30 days used more than was held.")
    # 11 credits are held for each, the first comes to 12, and 100 others are within.
    a_settled_job(account_id, usage=Usage(output_tokens=1101), now=now)
    for _ in range(25):
        a_settled_job(account_id, usage=Usage(output_tokens=400), now=now)

    assert figures()["creditmill_credits_overrun", "gpt-5.1"] == 1
    assert overrun() == (True, "In the last 30 days, 1 credit was used beyond what was held.")

    a_settled_job(account_id, usage=Usage(output_tokens=5000), now=now)
    a_settled_job(account_id, usage=Usage(output_tokens=9000), now=now - timedelta(days=32))

    assert figures()["creditmill_credits_overrun", "gpt-5.1"] == 40
    healthy, sentence = overrun()
    assert (healthy, "which is our loss: gpt-5.1 40." in sentence) == (False, True)


def test_messages_are_counted_where_they_wait_and_where_they_were_set_aside(figures, broker_url):
    import redis

    with redis.Redis.from_url(broker_url) as client:
        client.lpush("billing", "a", "b")
        client.hset("unacked", "tag", "message")
    setting_aside.set_aside(message_id="m", task_name=None, code="no_task", reason="No.", body="x")

    found = figures()

    assert found["creditmill_queue_messages", "billing"] == 2
    assert found["creditmill_queue_messages", "text"] == 0
    assert (found["creditmill_unacknowledged_messages",], found["creditmill_dead_messages",]) == (1, 1)


def test_the_last_audit_is_a_figure_and_a_check(figures, run):
    assert ("creditmill_audit_findings",) not in figures()
    account_id = an_account(100)
    assert periodic.audit_books() == 0
    well = json.loads(run("doctor", "--json")[1])
    with transaction() as session:
        session.execute(text("UPDATE accounts SET balance = balance + 7"))

    assert periodic.audit_books() > 0

    found = figures()
    assert found["creditmill_audit_findings",] == 1
    assert found["creditmill_accounts_frozen",] == 1
    assert 0 <= found["creditmill_audit_age_seconds",] < 60
    assert the_account(account_id).frozen_reason == "audit: balance_is_sum_of_transactions"
    ill = json.loads(run("doctor", "--json")[1])
    assert [{c["name"]: c["healthy"] for c in each["checks"]}["books"] for each in (well, ill)] == [True, False]


def test_prometheus_can_read_them(run):
    from prometheus_client.parser import text_string_to_metric_families

    out = run("metrics")[1]

    names = {family.name for family in text_string_to_metric_families(out)}
    assert {"creditmill_jobs", "creditmill_queue_messages", "creditmill_dead_messages"} <= names


def test_without_the_broker_the_database_is_still_measured(figures, env):
    env.setenv("BROKER_URL", "redis://127.0.0.1:1/0")

    found = figures()

    assert found["creditmill_dead_messages",] == 0
    assert not any(name == "creditmill_queue_messages" for name, *_ in found)


def test_mended_usage_and_costs_that_differ_are_told(figures):
    a_generated_job(an_account(10_000))
    with transaction() as session:
        told = "usage_note = 'rounded', reported_cost_usd = cost_usd + 1, finished_at = now()"
        session.execute(text(f"UPDATE provider_calls SET {told}"))

    found = figures()

    assert (found["creditmill_usage_mended", "rounded"], found["creditmill_usage_mended", "from_total"]) == (1, 0)
    assert found["creditmill_cost_difference_usd", "gpt-5.1"] == 1
