"""What the database itself refuses, whatever the code does: a ledger that is changed, rows that cannot be true."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from config.database import transaction
from tests.factories import a_generated_job, an_account
from tests.integration.jobs.charging import settle

pytestmark = pytest.mark.usefixtures("db", "the_books_balance")


def test_the_ledger_is_append_only():
    an_account(1000)
    for statement in (
        "UPDATE credit_transactions SET amount = 1",
        "DELETE FROM credit_transactions",
        "TRUNCATE credit_transactions",
    ):
        with pytest.raises(DBAPIError, match="append-only"), transaction() as session:
            session.execute(text(statement))


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        ("UPDATE accounts SET reserved = balance + 1", "balance_covers_reserved"),
        ("UPDATE accounts SET reserved = -1", "reserved_not_negative"),
        ("UPDATE generation_jobs SET credits_charged = credits_reserved + 1", "charge_within_reservation"),
        ("UPDATE generation_jobs SET credits_charged = NULL", "settled_is_charged"),
        ("UPDATE generation_jobs SET finished_at = NULL", "terminal_is_finished"),
        ("UPDATE generation_jobs SET state = 'calling'", "ck_generation_jobs"),
        ("UPDATE generation_jobs SET state = 'x', credits_charged = NULL, finished_at = NULL", "generation_jobs_state"),
        ("UPDATE provider_calls SET usage = NULL", "success_has_usage"),
        ("UPDATE provider_calls SET cost_usd = -1", "cost_not_negative"),
        ("UPDATE ai_model_config SET is_default = true WHERE model_name = 'gpt-4o'", "one_default_a_type"),
        ("UPDATE ai_model_config SET input_cost_per_1m = 'NaN'", "rates"),
        ("UPDATE ai_model_config SET input_cost_per_1m = 0", "rates"),
        ("UPDATE image_prices SET cost_per_image_usd = -1", "image_prices_cost"),
        ("UPDATE credit_cost_config SET tokens_per_credit = 0", "tokens_per_credit"),
        ("INSERT INTO billing_configuration (id) VALUES (2)", "singleton"),
        ("INSERT INTO global_integration_settings (id) VALUES (2)", "singleton"),
        (
            "INSERT INTO credit_transactions (account_id, transaction_type, amount, balance_after, description, "
            "job_id, idempotency_key, created_at) SELECT account_id, 'deduction', -1, 1, '', id, 'again', now() "
            "FROM generation_jobs",
            "one_deduction_a_job",
        ),
        (
            "INSERT INTO credit_transactions (account_id, transaction_type, amount, balance_after, description, "
            "idempotency_key, created_at) SELECT id, 'purchase', -1, 1, '', 'p', now() FROM accounts",
            "sign",
        ),
        (
            "INSERT INTO provider_calls (job_id, attempt, provider, model_name, endpoint, idempotency_key, started_at) "
            "SELECT job_id, attempt, 'openai', '', '', '', now() FROM provider_calls",
            "uq_provider_calls_job_id_attempt",
        ),
    ],
)  # fmt: skip
def test_the_database_itself_refuses(statement, rule):
    settle(a_generated_job(an_account(1000)))

    with pytest.raises(IntegrityError, match=rule), transaction() as session:
        session.execute(text(statement))
