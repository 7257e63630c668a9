"""The audit: clean books say nothing, and each rule notices when what it promises is broken."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import text

from billing.access import keys
from billing.jobs import reserving, settling
from billing.ledger import accounts
from billing.reports import audit, revenue
from config.database import transaction
from tests.factories import (
    HOUR,
    NOON,
    a_claim,
    a_generated_job,
    a_queued_job,
    a_reserved_job,
    a_subscription,
    an_account,
    moment,
    rows,
    the_account,
)

pytestmark = pytest.mark.usefixtures("db")


@pytest.fixture
def _books(db):
    """An account with a job in every state, a plan limit in use, and rolled-up revenue."""
    account_id = an_account(10_000)
    a_subscription(account_id, {"content_ideas": 100})
    with transaction() as session:
        key_id = keys.create(session, account_id, actor="anna", now=NOON, credit_cap=1000).view.id
    a_queued_job(account_id, api_key_id=key_id)
    a_reserved_job(account_id)
    a_claim(a_reserved_job(account_id))
    a_generated_job(account_id)
    for operation in ("idea_generation", "clustering"):
        with transaction() as session:
            settling.settle(session, [a_generated_job(account_id, operation)], now=NOON)
    with transaction() as session:
        revenue.roll_up(session, now=NOON)


def findings(now=NOON):
    with transaction(isolation="REPEATABLE READ", read_only=True) as session:
        return audit.audit(session, now=now)


def break_books(*statements):
    """Damage that no code of ours can do: with the table's guards out of the way."""
    with transaction() as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))
        for statement in statements:
            session.execute(text(statement))


@pytest.mark.usefixtures("_books")
def test_good_books_have_no_findings():
    assert findings() == []


GRANTED = "UPDATE subscription_periods SET granted = true, included_credits = 5, credits"
GRANT = (
    "INSERT INTO credit_transactions (account_id, transaction_type, description, balance_after, created_at, "
    "subscription_id, period_start, amount, idempotency_key) SELECT 1, 'subscription', '', 0, now(), subscription_id, "
    "period_start"
)
SETTLED = "(SELECT id FROM generation_jobs WHERE state = 'settled' ORDER BY id LIMIT 1)"


@pytest.mark.usefixtures("_books")
@pytest.mark.parametrize(
    ("damage", "rule", "problem"),
    [
        ("UPDATE accounts SET balance = balance + 1", "balance_is_sum_of_transactions", "balance 9991, ledger 9990"),
        ("UPDATE accounts SET reserved = reserved - 1", "reserved_is_sum_of_open_jobs", "open jobs hold 33"),
        (
            "UPDATE credit_transactions SET balance_after = balance_after + 7 WHERE transaction_type = 'purchase'",
            "balance_after_is_continuous",
            "balance_after 10007, expected 10000",
        ),
        (f"DELETE FROM credit_usage_logs WHERE job_id = {SETTLED}", "settled_jobs_are_charged_once", "usage logs 0"),
        (f"DELETE FROM credit_transactions WHERE job_id = {SETTLED}", "settled_jobs_are_charged_once", "deductions 0"),
        (
            f"UPDATE credit_usage_logs SET job_id = (SELECT id FROM generation_jobs WHERE state = 'queued') "
            f"WHERE job_id = {SETTLED}",
            "settled_jobs_are_charged_once",
            "state queued, charged 0, deductions 0 of 0 credits, usage logs 1",
        ),
        (
            "INSERT INTO provider_calls (job_id, attempt, provider, model_name, endpoint, idempotency_key, started_at) "
            "SELECT id, 9, provider, model_name, '/x', 'x', created_at FROM generation_jobs WHERE state = 'settled'; "
            "UPDATE generation_jobs SET finished_at = finished_at - interval '16 minutes' WHERE state = 'settled'",
            "finished_jobs_have_no_open_call", "attempt 9",
        ),
        (
            "UPDATE generation_jobs SET state = 'refunded', credits_charged = NULL, parts_delivered = 0, "
            "error_code = 'outcome_unknown' WHERE state = 'settled'",
            "unknown_outcomes_are_exposure", "no call of it counts as exposure",
        ),
        ("UPDATE provider_calls SET exposure = true", "settled_jobs_have_a_successful_call", "calls that delivered 0"),
        (
            f"UPDATE generation_jobs SET attempts = 2, parts_delivered = 2 WHERE id = {SETTLED}",
            "settled_jobs_have_a_successful_call", "parts delivered 2, calls that delivered 1",
        ),
        (
            "UPDATE generation_jobs SET attempts = 1, parts_delivered = 1 WHERE state = 'reserved'",
            "settled_jobs_have_a_successful_call", "state reserved, parts delivered 1, calls that delivered 0",
        ),
        ("UPDATE generation_jobs SET cost_usd = cost_usd + 1", "cost_is_sum_of_calls", "cost 1.00"),
        ("UPDATE api_keys SET credits_used = 1", "capped_keys_count_their_jobs", "used 1, its jobs hold 11 and used 0"),
        ("UPDATE api_keys SET credits_held = 9", "capped_keys_count_their_jobs", "held 9 and used 0, its jobs hold 11"),
        ("UPDATE plan_limit_usage SET amount_used = 5", "plan_usage_is_sum_of_jobs", "used 5 and reserved 0, jobs"),
        (
            "DELETE FROM plan_limit_usage",
            "plan_usage_is_sum_of_jobs", "used 0 and reserved 0, jobs used",
        ),
        (
            f"{GRANTED} = 5",
            "periods_are_granted_once", "granted 5, transactions 0 of 0 credits",
        ),
        (
            f"{GRANT}, 5, 'a' FROM subscription_periods",
            "periods_are_granted_once", "not granted, transactions 1 of 5 credits",
        ),
        (
            f"{GRANTED} = 4; {GRANT}, 5, 'a' FROM subscription_periods",
            "periods_are_granted_once", "granted 4, transactions 1 of 5 credits",
        ),
        (
            f"{GRANTED} = 5; {GRANT}, 5, 'a' FROM subscription_periods; "
            "UPDATE credit_transactions SET account_id = 2 WHERE transaction_type = 'subscription'",
            "periods_are_granted_once", "granted 5, transactions 1 of 5 credits",
        ),
        (
            "INSERT INTO subscription_periods (subscription_id, period_start, period_end, plan_id, status, starts_at, "
            "included_credits, credits) SELECT subscription_id, '2026-10-01', '2026-11-21', plan_id, status, "
            "starts_at, 5, 5 FROM subscription_periods; "
            "UPDATE subscription_periods SET included_credits = 9, credits = 6",
            "no_day_is_granted_twice", "grants 6 credits, and earlier ones left 5.47 of 9",
        ),
        (
            "UPDATE subscriptions SET current_period_start = '2026-10-01'",
            "subscriptions_stand_in_their_last_period", "its last period is 2026-11-01 up to 2026-12-01",
        ),
        (
            "UPDATE subscriptions SET current_period_end = '2026-12-02'",
            "subscriptions_stand_in_their_last_period", "its last period is 2026-11-01 up to 2026-12-01",
        ),
        ("DELETE FROM subscription_periods", "subscriptions_stand_in_their_last_period", "its last period is none"),
        (
            "UPDATE subscriptions SET renews_at = '2026-11-20T11:44Z'",
            "nothing_owed_long_past_its_time", "should have turned at 2026-11-20 11:44:00+00",
        ),
        (
            "UPDATE subscription_periods SET included_credits = 7, credits = 7",
            "nothing_owed_long_past_its_time", "7 credits are owed since 2026-11-01 00:00:00+00",
        ),
        ("UPDATE credit_usage_logs SET tokens_output = 0", "usage_logs_say_what_was_delivered", "differs"),
        ("UPDATE credit_usage_logs SET revenue_usd = 7", "usage_logs_say_what_was_delivered", "differs"),
        (
            "UPDATE provider_calls SET usage = usage || '{\"images\": 3}'",
            "usage_logs_say_what_was_delivered",
            "differs",
        ),
        (
            "UPDATE revenue_rollups SET revenue_usd = 0, images = 2",
            "roll_ups_equal_their_source",
            "images 2, source 0; revenue_usd 0.0000000000, source 0.05",
        ),
        ("DELETE FROM revenue_rollups", "roll_ups_equal_their_source", "jobs 0, source 1; jobs_settled 0, source 1"),
        (
            "UPDATE revenue_rollups SET day = '1999-01-01'",
            "roll_ups_equal_their_source", "jobs 1, source 0; jobs_settled 1, source 0",
        ),
        (
            "INSERT INTO revenue_changes (day, account_id, operation_type, model_name, exposure_usd) "
            "SELECT day, account_id, operation_type, model_name, 0.0000000001 FROM revenue_rollups",
            "roll_ups_equal_their_source", "exposure_usd 0.0000000001, source 0",
        ),
    ],
)  # fmt: skip
def test_each_rule_notices_its_damage(damage, rule, problem):
    break_books(damage)

    found = [finding for finding in findings() if finding.rule == rule]

    assert found
    assert any(problem in finding.problem for finding in found), found


@pytest.mark.usefixtures("_books")
def test_a_charge_above_its_reservation_is_noticed():
    break_books(
        "ALTER TABLE generation_jobs DROP CONSTRAINT ck_generation_jobs_charge_within_reservation",
        f"UPDATE generation_jobs SET credits_charged = 12 WHERE id = {SETTLED}",
    )

    assert "charge_within_reservation" in {finding.rule for finding in findings()}


@pytest.mark.usefixtures("_books")
def test_work_that_nobody_brings_to_its_end_is_noticed():
    late = NOON + HOUR + audit.GRACE + timedelta(seconds=1)

    assert {finding.rule for finding in findings(late)} == {"nothing_open_past_its_deadline"}
    assert len(findings(late)) == 4


@pytest.mark.usefixtures("_books")
def test_an_account_whose_credits_do_not_add_up_is_frozen_and_no_other():
    other = an_account(1000)
    break_books("UPDATE accounts SET balance = balance + 1 WHERE id = 1", "UPDATE revenue_rollups SET revenue_usd = 0")

    for frozen in ([1], []):
        with transaction() as session:
            assert audit.freeze(session, audit.audit(session, now=NOON)) == frozen

    assert the_account(1).frozen_reason == "audit: balance_is_sum_of_transactions"
    assert the_account(other).frozen_reason is None


@pytest.mark.usefixtures("_books")
def test_a_frozen_account_finishes_what_it_began_and_starts_nothing_new():
    break_books("UPDATE accounts SET balance = balance + 1 WHERE id = 1")
    with transaction() as session:
        audit.freeze(session, audit.audit(session, now=NOON))
    open_before = rows("SELECT id FROM generation_jobs WHERE state = 'generated'")
    refused = a_queued_job(1)

    with transaction() as session:
        assert reserving.reserve(session, [refused], at=moment(session), publish_by=HOUR).job_ids == []
        settled = settling.settle(session, [job_id for (job_id,) in open_before], now=NOON)

    assert [(job_id,) for job_id in settled] == open_before
    assert rows("SELECT error_code FROM generation_jobs WHERE id = :id", id=refused) == [("account_frozen",)]
    with transaction() as session:
        assert accounts.unfreeze(session, 1)
        assert not accounts.unfreeze(session, 1)


@pytest.mark.usefixtures("_books")
def test_what_is_ours_alone_freezes_nobody():
    break_books("UPDATE revenue_rollups SET revenue_usd = 0", "UPDATE generation_jobs SET cost_usd = cost_usd + 1")

    with transaction() as session:
        found = audit.audit(session, now=NOON)
        assert {finding.rule for finding in found} >= {"roll_ups_equal_their_source", "cost_is_sum_of_calls"}
        assert audit.freeze(session, found) == []


def test_every_rule_has_a_test_that_breaks_it():
    marks = test_each_rule_notices_its_damage.pytestmark
    (cases,) = [mark.args[1] for mark in marks if mark.name == "parametrize"]
    elsewhere = {"charge_within_reservation", "nothing_open_past_its_deadline"}

    assert {rule.name for rule in audit.RULES} == {case[1] for case in cases} | elsewhere
