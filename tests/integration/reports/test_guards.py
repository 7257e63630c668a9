"""Single guards of the reports, one test each: what the database refuses, and what the audit notices and does."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from billing.reports import audit
from tasks import periodic
from tests.catalogue import sql
from tests.factories import the_account
from tests.guarding import assert_refused, break_books, findings

pytestmark = pytest.mark.usefixtures("db")

REFUSED = [
    ("INSERT INTO revenue_rollups (day, account_id, "
     "operation_type, model_name, jobs, jobs_settled, credits, revenue_usd, cost_usd, exposure_usd, tokens_input, "
     "tokens_input_cached, tokens_output, tokens_reasoning, images, credits_overrun, computed_at) SELECT day, "
     "account_id, operation_type, model_name, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, computed_at FROM revenue_rollups",
                                                                         "pk_revenue_rollups"),
    ("INSERT INTO audit_runs (ran_at, findings, accounts_frozen) VALUES (now(), 0, -1)", "ck_audit_runs_not_negative"),
]  # fmt: skip


@pytest.mark.usefixtures("books")
@pytest.mark.parametrize("rule", dict.fromkeys(rule for _, rule in REFUSED))
def test_the_database_refuses_it_by_itself(rule):
    assert_refused(REFUSED, rule)


# --- The audit notices each part of a charge ---

SETTLED = "(SELECT id FROM generation_jobs WHERE state = 'settled')"


def broken_rules():
    return {finding.rule for finding in findings()}


FREE = (
    f"UPDATE generation_jobs SET credits_charged = 0 WHERE id = {SETTLED}",
    f"UPDATE credit_transactions SET amount = 0 WHERE job_id = {SETTLED}",
    f"UPDATE credit_usage_logs SET credits_used = 0, revenue_usd = 0 WHERE job_id = {SETTLED}",
)
"""The settled job was free: its records add up to nothing, but have to be there."""


@pytest.mark.usefixtures("books")
def test_a_free_job_without_its_deduction_is_noticed():
    break_books(*FREE, f"DELETE FROM credit_transactions WHERE job_id = {SETTLED}")

    assert "settled_jobs_are_charged_once" in broken_rules()


@pytest.mark.usefixtures("books")
def test_a_free_job_without_its_usage_log_is_noticed():
    break_books(*FREE, f"DELETE FROM credit_usage_logs WHERE job_id = {SETTLED}")

    assert "settled_jobs_are_charged_once" in broken_rules()


@pytest.mark.usefixtures("books")
def test_a_deduction_of_another_amount_is_noticed():
    break_books(f"UPDATE credit_transactions SET amount = amount - 1 WHERE job_id = {SETTLED}")

    assert "settled_jobs_are_charged_once" in broken_rules()


@pytest.mark.usefixtures("books")
def test_a_usage_log_of_another_amount_is_noticed():
    break_books(f"UPDATE credit_usage_logs SET credits_used = credits_used + 1 WHERE job_id = {SETTLED}")

    assert "settled_jobs_are_charged_once" in broken_rules()


@pytest.mark.usefixtures("books")
def test_units_that_no_job_holds_are_noticed():
    break_books("UPDATE plan_limit_usage SET amount_reserved = amount_reserved + 1")

    assert "plan_usage_is_sum_of_jobs" in broken_rules()


def test_the_audit_reads_one_snapshot(monkeypatch):
    seen = []

    def look(session, *, now):
        for setting in ("transaction_isolation", "transaction_read_only"):
            seen.append(session.scalar(text(f"SHOW {setting}")))
        return []

    monkeypatch.setattr(audit, "audit_changed", look)

    assert periodic.audit_books() == 0
    assert seen == ["repeatable read", "off"]


# --- The audit freezes whoever's credits do not add up ---

DAMAGE = {
    "balance_is_sum_of_transactions": "UPDATE accounts SET balance = balance + 1",
    "reserved_is_sum_of_open_jobs": "UPDATE accounts SET reserved = reserved + 1",
    "balance_after_is_continuous":
        "UPDATE credit_transactions SET balance_after = balance_after + 1 WHERE transaction_type = 'deduction'",
    "settled_jobs_are_charged_once": "DELETE FROM credit_usage_logs",
    "charge_within_reservation":
        "UPDATE generation_jobs SET credits_reserved = 0 WHERE state = 'settled'",
    "plan_usage_is_sum_of_jobs": "UPDATE plan_limit_usage SET amount_used = amount_used + 1",
    "periods_are_granted_once": "UPDATE subscription_periods SET included_credits = 1, credits = 1, granted = true",
}  # fmt: skip
"""For each rule that freezes: damage that breaks it and no other rule that freezes."""


@pytest.mark.usefixtures("books")
@pytest.mark.parametrize("rule", sorted(DAMAGE))
def test_each_rule_about_a_customers_credits_freezes_the_account_that_breaks_it(rule):
    if rule == "charge_within_reservation":
        sql(f"ALTER TABLE generation_jobs DROP CONSTRAINT ck_generation_jobs_{rule}")
    break_books(DAMAGE[rule])

    assert periodic.audit_books() > 0

    assert the_account(1).frozen_reason == f"audit: {rule}"


def test_there_is_damage_for_every_rule_that_freezes():
    assert set(DAMAGE) == {rule.name for rule in audit.RULES if rule.freezes}
