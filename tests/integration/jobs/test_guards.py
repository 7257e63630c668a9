"""Single guards, one test each: what the database refuses by itself, and what stops a step that comes at a bad time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from decimal import Decimal
from threading import Barrier
from uuid import uuid4

import pytest
from celery.exceptions import Ignore
from kombu.exceptions import OperationalError as BrokerAway
from kombu.message import Message
from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from billing.catalog.pricing import Usage
from billing.errors import InvalidRequest
from billing.jobs import call_queries, calling, job_queries, policy, recovery, reserving, settling, unknown_calls
from billing.jobs.calling import Refusal
from billing.jobs.policy import Failure, Means, RetryBudget, Verdict
from billing.jobs.states import State
from billing.ledger import account_queries, accounts
from billing.plans import limits, plans
from billing.reports import audit, revenue
from billing.upkeep import worker_losses
from config import database
from config.database import DatabaseAway, transaction
from config.integrations import set_connection
from config.settings import Settings
from tasks import calls, generation, periodic, pipeline, runtime
from tasks.app import app
from tasks.calls import call_job
from tasks.messages import consumer, giving_up, intake
from tasks.runtime import Runtime
from tests.catalogue import a_settled_job, sql
from tests.factories import (
    HOUR,
    MINUTE,
    NOON,
    a_claim,
    a_delivery,
    a_generated_job,
    a_queued_job,
    a_reserved_job,
    a_subscription,
    an_account,
    rows,
    the_account,
    the_job,
)
from tests.system import wait_until

pytestmark = pytest.mark.usefixtures("db")
BUDGET = RetryBudget(attempts=4, wait_max=MINUTE)
SECOND = timedelta(seconds=1)


def at_once(*calls):
    """Run the calls side by side, each in a transaction of its own, starting together."""
    barrier = Barrier(len(calls))

    def run(call):
        barrier.wait()
        with transaction() as session:
            return call(session)

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def findings():
    with transaction(isolation="REPEATABLE READ", read_only=True) as session:
        return audit.audit(session, now=NOON)


def fail(claim, failure=Failure.RATE_LIMITED, usage=None):
    with transaction() as session:
        refusal = Refusal(failure, usage=usage)
        return calling.fail(session, claim, refusal, now=NOON, budget=BUDGET, look_after=MINUTE)


def lose(claim):
    with transaction() as session:
        jobs = job_queries.lock(session, [claim.job_id], {State.CALLING})
        calling.mark_unknown(session, jobs, Failure.WORKER_LOST, now=NOON, look_after=MINUTE)


def succeed(claim, delivery=None):
    with transaction() as session:
        return calling.succeed(session, claim, delivery or a_delivery(), now=NOON, publish_by=MINUTE)


def read_rows_as_they_lie(session):
    """PostgreSQL may choose any way to the rows; this one finds a row that was updated behind the others."""
    session.execute(text("SET LOCAL enable_indexscan = off; SET LOCAL enable_bitmapscan = off"))


# --- What the database refuses, whatever the code does ---

SETTLED = "(SELECT id FROM generation_jobs WHERE state = 'settled')"
LEDGER = "INSERT INTO credit_transactions (account_id, transaction_type, amount, balance_after, description, " \
         "job_id, idempotency_key, created_at) SELECT account_id, "  # fmt: skip
LOG = (
    "account_id, job_id, operation_type, model_used, credits_used, cost_usd, price_per_credit_usd, revenue_usd, "
    "tokens_input, tokens_input_cached, tokens_output, tokens_reasoning, images, created_at"
)
GRANTED = (
    "INSERT INTO credit_transactions (account_id, amount, balance_after, description, idempotency_key, "
    "created_at, transaction_type, subscription_id, period_start) SELECT 1, 1, 1001, '', gen_random_uuid(), now(),"
)
RESOLVED = "INSERT INTO resolutions (call_id, outcome, evidence, actor, resolved_at) "

REFUSED = [
    # accounts
    ("UPDATE accounts SET reserved = balance + 1",                       "ck_accounts_balance_covers_reserved"),
    ("UPDATE accounts SET reserved = -1",                                "ck_accounts_reserved_not_negative"),
    # generation_jobs
    ("UPDATE generation_jobs SET state = 'paid' WHERE state = 'queued'", "ck_generation_jobs_state"),
    ("UPDATE generation_jobs SET kind = 'video'",                        "ck_generation_jobs_kind"),
    ("UPDATE generation_jobs SET finished_at = NULL",                    "ck_generation_jobs_terminal_is_finished"),
    ("UPDATE generation_jobs SET finished_at = now() WHERE state = 'reserved'",
                                                                         "ck_generation_jobs_terminal_is_finished"),
    ("UPDATE generation_jobs SET price = NULL WHERE state = 'reserved'", "ck_generation_jobs_open_has_price"),
    ("UPDATE generation_jobs SET lease_until = NULL",                    "ck_generation_jobs_calling_is_leased"),
    ("UPDATE generation_jobs SET lease_until = now() WHERE state = 'reserved'", "ck_generation_jobs_calling_is_leased"),
    ("UPDATE generation_jobs SET credits_charged = NULL",                "ck_generation_jobs_settled_is_charged"),
    ("UPDATE generation_jobs SET credits_charged = 1 WHERE state = 'reserved'",
                                                                         "ck_generation_jobs_settled_is_charged"),
    ("UPDATE generation_jobs SET credits_charged = credits_reserved + 1 WHERE state = 'settled'",
                                                                         "ck_generation_jobs_charge_within_reservation"),
    ("UPDATE generation_jobs SET credits_charged = -1 WHERE state = 'settled'",
                                                                         "ck_generation_jobs_charge_within_reservation"),
    ("UPDATE generation_jobs SET limit_used = limit_reserved + 1",       "ck_generation_jobs_limit_within_reservation"),
    ("UPDATE generation_jobs SET credits_reserved = -1 WHERE state = 'queued'", "ck_generation_jobs_not_negative"),
    ("UPDATE generation_jobs SET credits_overrun = -1",                  "ck_generation_jobs_not_negative"),
    ("UPDATE generation_jobs SET cost_usd = -1",                         "ck_generation_jobs_not_negative"),
    ("UPDATE generation_jobs SET attempts = -1",                         "ck_generation_jobs_attempts"),
    # provider_calls
    ("UPDATE provider_calls SET outcome = 'paid' WHERE finished_at IS NOT NULL", "ck_provider_calls_outcome"),
    ("UPDATE provider_calls SET finished_at = NULL",                     "ck_provider_calls_finished_has_outcome"),
    ("UPDATE provider_calls SET usage = NULL",                           "ck_provider_calls_success_has_usage"),
    ("UPDATE provider_calls SET cost_usd = -1",                          "ck_provider_calls_cost_not_negative"),
    (
        "INSERT INTO provider_calls (job_id, attempt, provider, model_name, endpoint, idempotency_key, started_at) "
        "SELECT job_id, attempt, 'openai', '', '', '', now() FROM provider_calls",
        "uq_provider_calls_job_id_attempt",
    ),
    # credit_transactions
    (f"{LEDGER} 'gift', 1, 1, '', NULL, 'x', now() FROM generation_jobs WHERE state = 'settled'",
                                                                         "ck_credit_transactions_transaction_type"),
    (f"{LEDGER} 'purchase', -1, 1, '', NULL, 'x', now() FROM generation_jobs WHERE state = 'settled'",
                                                                         "ck_credit_transactions_sign"),
    (f"{LEDGER} 'adjustment', 0, 1, '', NULL, 'x', now() FROM generation_jobs WHERE state = 'settled'",
                                                                         "ck_credit_transactions_sign"),
    (f"{LEDGER} 'deduction', 1, 1, '', id, 'x', now() FROM generation_jobs WHERE state = 'reserved'",
                                                                         "ck_credit_transactions_sign"),
    (f"{LEDGER} 'purchase', 1, -1, '', NULL, 'x', now() FROM generation_jobs WHERE state = 'settled'",
                                                                         "ck_credit_transactions_balance_after_not_negative"),
    (f"{LEDGER} 'deduction', -1, 1, '', NULL, 'x', now() FROM generation_jobs WHERE state = 'settled'",
                                                                         "ck_credit_transactions_deduction_has_job"),
    (f"{LEDGER} 'purchase', 1, 1, '', id, 'x', now() FROM generation_jobs WHERE state = 'settled'",
                                                                         "ck_credit_transactions_deduction_has_job"),
    (f"{LEDGER} 'purchase', 1, 1, '', NULL, 'opening', now() FROM generation_jobs WHERE state = 'settled'",
                                                                         "uq_credit_transactions_account_id_idempotency_key"),
    (f"{LEDGER} 'deduction', -1, 1, '', id, 'x', now() FROM generation_jobs WHERE state = 'settled'",
                                                                         "uq_credit_transactions_one_deduction_a_job"),
    # what settled jobs and plans used
    (f"INSERT INTO credit_usage_logs ({LOG}) SELECT {LOG} FROM credit_usage_logs", "uq_credit_usage_logs_job_id"),
    ("UPDATE credit_usage_logs SET credits_used = -1",                   "ck_credit_usage_logs_not_negative"),
    ("UPDATE credit_usage_logs SET revenue_usd = -1",                    "ck_credit_usage_logs_not_negative"),
    ("INSERT INTO plan_limit_usage (account_id, limit_type, period_start, period_end) "
     "SELECT account_id, limit_type, period_start, period_end FROM plan_limit_usage",
                                                         "uq_plan_limit_usage_account_id_limit_type_period_start"),
    ("UPDATE plan_limit_usage SET amount_used = -1",                     "ck_plan_limit_usage_not_negative"),
    ("UPDATE plan_limit_usage SET amount_reserved = -1",                 "ck_plan_limit_usage_not_negative"),
    ("UPDATE plan_limit_usage SET period_end = period_start",            "ck_plan_limit_usage_period"),
    ("INSERT INTO revenue_rollups (day, account_id, "
     "operation_type, model_name, jobs, jobs_settled, credits, revenue_usd, cost_usd, exposure_usd, tokens_input, "
     "tokens_input_cached, tokens_output, tokens_reasoning, images, computed_at) SELECT day, account_id, "
     "operation_type, model_name, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, computed_at FROM revenue_rollups",
                                                                         "pk_revenue_rollups"),
    # plans and subscriptions
    ("UPDATE plans SET included_credits = -1",                           "ck_plans_amounts"),
    ("UPDATE plans SET price = -1",                                      "ck_plans_amounts"),
    ("UPDATE plans SET limits = '{\"content_ideas\": -1}'",              "ck_plans_limits_are_whole_numbers"),
    ("INSERT INTO plans (slug, name) SELECT slug, name FROM plans",      "uq_plans_slug"),
    ("UPDATE subscriptions SET status = 'canceled'",                     "ck_subscriptions_status"),
    ("UPDATE subscriptions SET current_period_end = current_period_start", "ck_subscriptions_period"),
    ("INSERT INTO subscriptions (account_id, plan_id, anchor_date, current_period_start, current_period_end, "
     "renews_at) SELECT account_id, plan_id, anchor_date, current_period_start, current_period_end, renews_at "
     "FROM subscriptions",                                               "uq_subscriptions_account_id"),
    ("UPDATE plans SET billing_interval = 'week'",                       "ck_plans_billing_interval"),
    ("UPDATE billing_configuration SET past_due_grace_days = -1",   "ck_billing_configuration_past_due_grace_days"),
    ("UPDATE subscriptions SET status = 'past_due'",                     "ck_subscriptions_past_due_has_grace"),
    ("UPDATE subscriptions SET grace_until = current_period_end",        "ck_subscriptions_past_due_has_grace"),
    ("UPDATE subscriptions SET status = 'cancelled'",                    "ck_subscriptions_live_renews"),
    ("UPDATE subscriptions SET renews_at = NULL",                        "ck_subscriptions_live_renews"),
    ("UPDATE subscription_periods SET period_end = period_start",        "ck_subscription_periods_period"),
    ("UPDATE subscription_periods SET status = 'cancelled'",             "ck_subscription_periods_status"),
    ("UPDATE subscription_periods SET credits = -1",                     "ck_subscription_periods_not_negative"),
    ("UPDATE subscription_periods SET credits_withheld = -1",            "ck_subscription_periods_not_negative"),
    ("UPDATE subscription_periods SET granted = true",                   "ck_subscription_periods_grants_something"),
    ("INSERT INTO subscription_periods (subscription_id, period_start, period_end, plan_id, status, starts_at, "
     "credits) SELECT subscription_id, period_start, period_end, plan_id, status, starts_at, credits "
     "FROM subscription_periods",
                                                                         "pk_subscription_periods"),
    (f"{GRANTED} 'subscription', NULL, NULL",             "ck_credit_transactions_subscription_has_period"),
    (f"{GRANTED} 'subscription', NULL, period_start FROM subscription_periods",
                                                          "ck_credit_transactions_subscription_has_period"),
    (f"{GRANTED} 'purchase', subscription_id, period_start FROM subscription_periods",
                                                          "ck_credit_transactions_subscription_has_period"),
    (f"{GRANTED} 'purchase', NULL, period_start FROM subscription_periods",
                                                          "ck_credit_transactions_subscription_has_period"),
    (f"{GRANTED} 'subscription', subscription_id, period_start + 1 FROM subscription_periods",
                                                          "fk_credit_transactions_subscription_id"),
    (f"{GRANTED} 'subscription', subscription_id, period_start FROM subscription_periods, generate_series(1, 2)",
                                                          "uq_credit_transactions_one_grant_a_period"),
    ("INSERT INTO periodic_runs VALUES ('a', 1, -1, 0, now(), now())",   "ck_periodic_runs_not_negative"),
    ("INSERT INTO periodic_runs SELECT 'a', 1, 0, 0, now(), now() FROM generate_series(1, 2)", "pk_periodic_runs"),
    # the catalogue
    ("UPDATE ai_model_config SET model_name = 'gpt-4o' WHERE model_name = 'gpt-4o-mini'",
                                                                         "uq_ai_model_config_model_name"),
    ("UPDATE ai_model_config SET is_default = true WHERE model_name = 'gpt-4o'",
                                                                         "uq_ai_model_config_one_default_a_type"),
    ("UPDATE ai_model_config SET max_images = 0 WHERE model_type = 'image'", "ck_ai_model_config_limits"),
    ("UPDATE ai_model_config SET api = 'images' WHERE model_type = 'text'",  "ck_ai_model_config_api_fits_type"),
    ("UPDATE ai_model_config SET provider = 'nobody'",                   "ck_ai_model_config_provider"),
    ("UPDATE credit_cost_config SET operation_type = 'clustering'",      "uq_credit_cost_config_operation_type"),
    ("UPDATE credit_cost_config SET tokens_per_credit = 0",              "ck_credit_cost_config_tokens_per_credit"),
    ("UPDATE credit_cost_config SET min_credits = -1",                   "ck_credit_cost_config_min_credits"),
    ("UPDATE credit_cost_config SET model_type = 'video', limit_unit = 'requests'", "ck_credit_cost_config_model_type"),
    ("UPDATE credit_cost_config SET limit_unit = 'images' WHERE model_type = 'text'",
                                                                         "ck_credit_cost_config_limit_unit_fits_type"),
    ("UPDATE billing_configuration SET default_tokens_per_credit = 0",   "ck_billing_configuration_tokens_per_credit"),
    ("UPDATE billing_configuration SET credit_rounding_mode = 'bankers'", "ck_billing_configuration_rounding"),
    ("UPDATE billing_configuration SET max_open_jobs = 0",               "ck_billing_configuration_max_open_jobs"),
    ("UPDATE billing_configuration SET max_open_jobs_per_account = 0",
                                                              "ck_billing_configuration_max_open_jobs_per_account"),
    ("INSERT INTO billing_configuration (id) VALUES (2)",                "ck_billing_configuration_singleton"),
    ("INSERT INTO global_integration_settings (id) VALUES (2)",          "ck_global_integration_settings_singleton"),
    # what operators find out and keep
    (f"{RESOLVED} SELECT id, 'perhaps', 'a log', 'anna', now() FROM provider_calls", "ck_resolutions_outcome"),
    (f"{RESOLVED} SELECT id, 'executed', '', 'anna', now() FROM provider_calls",     "ck_resolutions_evidence"),
    (f"{RESOLVED} SELECT id, 'executed', 'a log', 'anna', now() FROM provider_calls, generate_series(1, 2)",
                                                                         "uq_resolutions_call_id"),
    ("INSERT INTO worker_losses (subject, losses, last_at) VALUES ('job', 0, now())", "ck_worker_losses_counted"),
    ("INSERT INTO audit_runs (ran_at, findings, accounts_frozen) VALUES (now(), 0, -1)", "ck_audit_runs_not_negative"),
]  # fmt: skip


@pytest.fixture
def _books(db):
    """An account with a plan, and a job in each state that a statement needs; the settled one is the only one called.

    So a statement breaks the one rule that it is meant to break, wherever else it fits.
    """
    account_id = an_account(1000)
    a_subscription(account_id, {"content_ideas": 10})
    a_settled_job(account_id, "idea_generation")
    a_queued_job(account_id)
    a_reserved_job(account_id)
    sql("UPDATE subscriptions SET current_period_end = current_period_start + 30")
    with transaction() as session:
        revenue.roll_up(session, now=NOON)


@pytest.mark.usefixtures("_books")
@pytest.mark.parametrize("rule", dict.fromkeys(rule for _, rule in REFUSED))
def test_the_database_refuses_it_by_itself(rule):
    if rule == "ck_generation_jobs_calling_is_leased":
        a_claim(a_reserved_job(1))

    for statement in [statement for statement, broken in REFUSED if broken == rule]:
        with pytest.raises(IntegrityError) as caught:
            sql(statement)

        assert caught.value.orig.diag.constraint_name == rule


@pytest.mark.usefixtures("_books")
@pytest.mark.parametrize(
    "table",
    ["ai_model_config", "image_prices", "credit_cost_config", "billing_configuration", "plans", "subscriptions"],
)
def test_no_change_escapes_the_history(table):
    column = {
        "ai_model_config": "sort_order = sort_order + 1",
        "image_prices": "credits_per_image = credits_per_image + 1",
        "credit_cost_config": "min_credits = min_credits + 1",
        "billing_configuration": "default_tokens_per_credit = default_tokens_per_credit + 1",
        "plans": "included_credits = included_credits + 1",
        "subscriptions": "status = 'past_due', grace_until = '2026-12-24'",
    }[table]
    kept = "SELECT count(*) FROM change_history WHERE table_name = :table AND action = 'update'"
    before = rows(kept, table=table)[0][0]

    sql(f"UPDATE {table} SET {column}")

    assert rows(kept, table=table)[0][0] - before == rows(f"SELECT count(*) FROM {table}")[0][0] > 0


@pytest.mark.usefixtures("_books")
@pytest.mark.parametrize(
    "table",
    ["ai_model_config", "image_prices", "credit_cost_config", "billing_configuration", "plans", "subscriptions"],
)
def test_nothing_whose_history_is_kept_is_emptied_past_it(table):
    with pytest.raises(Exception, match=f"{table} keeps the history of its rows"):
        sql(f"TRUNCATE {table} CASCADE")


@pytest.mark.parametrize("table", ["credit_transactions", "change_history", "resolutions"])
def test_what_is_only_added_to_is_neither_changed_nor_removed(table):
    fill_the_append_only_tables()

    for statement in (f"UPDATE {table} SET id = DEFAULT", f"DELETE FROM {table}", f"TRUNCATE {table}"):
        with pytest.raises(Exception, match="append-only"):
            sql(statement)


def fill_the_append_only_tables():
    claim = a_claim(a_reserved_job(an_account(1000)))
    sql(f"{RESOLVED} VALUES (:call, 'executed', 'a log', 'anna', now())", call=claim.call_id)
    sql("UPDATE plans SET name = name || '!'")


# --- Steps that come late, twice, or side by side ---


def test_jobs_are_locked_in_the_order_of_their_ids():
    account_id = an_account(1000)
    jobs = [a_queued_job(account_id) for _ in range(12)]

    with transaction() as session:
        locked = [job.id for job in job_queries.lock(session, jobs, {State.QUEUED})]

    assert locked == sorted(jobs)


def test_accounts_are_locked_in_the_order_of_their_ids():
    accounts_made = [an_account(1000) for _ in range(4)]
    sql("UPDATE accounts SET name = 'Moved' WHERE id = :id", id=accounts_made[0])

    with transaction() as session:
        read_rows_as_they_lie(session)
        assert list(account_queries.lock(session, accounts_made)) == accounts_made


def test_a_claim_counts_on_from_the_calls_that_others_made_meanwhile():
    job_id = a_reserved_job(an_account(1000))

    with transaction() as session:
        # Kept, as a caller keeps what it has read: SQLAlchemy forgets rows that nobody holds.
        (seen,) = job_queries.find(session, [job_id])
        other = a_claim(job_id)
        fail(other)
        with transaction() as theirs:
            assert calling.postpone(theirs, other, until=NOON)
        assert seen.attempts == 0
        claim = calling.claim(session, job_id, now=NOON, lease=MINUTE)

    assert claim.attempt == 2


def test_looking_again_leaves_a_call_that_is_under_way_alone():
    job_id = a_reserved_job(an_account(1000))
    a_claim(job_id)

    with transaction() as session:
        assert job_queries.look_again(session, [job_id], now=NOON) == []

    assert the_job(job_id).next_at == NOON + MINUTE


@pytest.mark.parametrize("make", [a_reserved_job, a_generated_job, a_settled_job])
def test_a_verdict_is_written_on_a_job_that_is_being_called_and_on_no_other(make):
    job_id = make(an_account(1000))
    before = the_job(job_id)

    with transaction() as session:
        job_queries.note_verdict(session, job_id, "content_policy", "Refused.", due=NOON)

    after = the_job(job_id)
    assert (after.error_code, after.next_at, after.lease_until) == (before.error_code, before.next_at, None)


def test_a_job_keeps_its_first_result():
    job_id = a_generated_job(an_account(1000))

    with transaction() as session:
        call_queries.keep_result(session, job_id, {"text": "another"}, "stop")

    assert rows("SELECT content FROM generation_results") == [({"text": "a b c"},)]


@pytest.mark.parametrize("table", ["generation_results"])
def test_the_database_itself_keeps_one_result_a_job(table):
    a_generated_job(an_account(1000))

    with pytest.raises(IntegrityError):
        sql(f"INSERT INTO {table} (job_id, content) SELECT job_id, content FROM {table}")


def test_a_job_is_charged_for_the_call_that_delivered_for_it_and_not_for_a_late_one():
    account_id = an_account(1000)
    job_id = a_reserved_job(account_id)
    late = a_claim(job_id)
    fail(late)
    claim = a_claim(job_id, again=1)
    assert not succeed(late, a_delivery(Usage(input_tokens=100, output_tokens=900)))
    assert succeed(claim)
    sql("UPDATE provider_calls SET http_status = 200 WHERE attempt = 1")

    with transaction() as session:
        read_rows_as_they_lie(session)
        assert settling.settle(session, [job_id], now=NOON) == [job_id]

    assert (the_job(job_id).credits_charged, the_account(account_id).balance) == (5, 995)
    assert rows("SELECT content FROM generation_results") == [({"text": "a b c"},)]


def test_a_job_is_charged_for_the_call_that_delivered_for_it_and_not_for_a_failed_one():
    account_id = an_account(1000)
    job_id = a_reserved_job(account_id)
    fail(a_claim(job_id), usage=Usage(input_tokens=100, output_tokens=900))
    assert succeed(a_claim(job_id, again=1))
    sql("UPDATE provider_calls SET http_status = 500 WHERE attempt = 1")

    with transaction() as session:
        read_rows_as_they_lie(session)
        assert settling.settle(session, [job_id], now=NOON) == [job_id]

    assert (the_job(job_id).credits_charged, the_account(account_id).balance) == (5, 995)


def test_a_late_delivery_keeps_no_result():
    job_id = a_reserved_job(an_account(1000))
    claim = a_claim(job_id)
    fail(claim, Failure.CONTENT_POLICY)
    with transaction() as session:
        assert settling.refund(session, [job_id], now=NOON) == [job_id]

    assert not succeed(claim)

    assert rows("SELECT 1 FROM generation_results") == []


def test_jobs_settled_side_by_side_leave_a_continuous_ledger():
    account_id = an_account(1000)
    jobs = [a_generated_job(account_id) for _ in range(16)]

    settled = at_once(*[lambda session, job=job: settling.settle(session, [job], now=NOON) for job in jobs])

    assert settled == [[job] for job in jobs]
    assert findings() == []


def test_one_top_up_sent_by_many_at_once_is_added_once_and_answered_alike():
    account_id = an_account(0)

    def top_up(session):
        return accounts.top_up(session, account_id, 50, idempotency_key="order-1", description="", now=NOON).id

    added = at_once(*[top_up] * 8)

    assert (len(set(added)), the_account(account_id).balance) == (1, 50)


def test_all_attempts_of_a_job_carry_one_key():
    first = a_claim(a_reserved_job(an_account(1000)))
    fail(first)

    second = a_claim(first.job_id, again=1)

    assert (second.attempt, second.idempotency_key) == (2, first.idempotency_key)
    assert len({key for (key,) in rows("SELECT idempotency_key FROM provider_calls")}) == 1


def test_each_call_of_a_job_is_found_by_its_attempt():
    first = a_claim(a_reserved_job(an_account(1000)))
    fail(first)
    a_claim(first.job_id, again=1)

    with transaction() as session:
        found = [call_queries.latest(session, first.job_id, attempt) for attempt in (1, 2)]
    assert [(call.attempt, call.outcome) for call in found] == [(1, "failed"), (2, None)]


def test_an_old_claim_cannot_give_a_newer_one_back():
    job_id = a_reserved_job(an_account(1000))
    old = a_claim(job_id)
    fail(old)
    a_claim(job_id, again=1)

    with transaction() as session:
        assert not calling.postpone(session, old, until=NOON)

    assert the_job(job_id).state == "calling"


def test_a_late_verdict_of_an_old_attempt_says_nothing_about_the_newer_one():
    job_id = a_reserved_job(an_account(1000))
    old = a_claim(job_id)
    fail(old)
    a_claim(job_id, again=1)

    assert fail(old, Failure.BAD_REQUEST) is None

    assert (the_job(job_id).error_code, the_job(job_id).next_at) == (None, NOON + MINUTE)


def test_a_refusal_that_comes_after_the_job_was_given_up_is_no_verdict():
    job_id = a_reserved_job(an_account(1000))
    claim = a_claim(job_id)
    lose(claim)

    assert fail(claim, Failure.BAD_REQUEST) is None

    assert the_job(job_id).state == "unknown"


def test_losing_a_job_leaves_what_its_call_said_as_it_was():
    job_id = a_reserved_job(an_account(1000))
    claim = a_claim(job_id)
    assert fail(claim, Failure.CONTENT_POLICY) is Verdict.REFUND

    lose(claim)

    assert rows("SELECT outcome, failure FROM provider_calls") == [("failed", "content_policy")]


def claim_as(job_id, token, *, now=NOON):
    with transaction() as session:
        return calling.claim(session, job_id, now=now, lease=MINUTE, claimed_by=token)


def test_whoever_made_a_claim_gets_it_again_and_nobody_else():
    job_id, ours = a_reserved_job(an_account(1000)), uuid4()

    claim = claim_as(job_id, ours)

    assert [claim_as(job_id, token) for token in (ours, uuid4(), None)] == [claim, None, None]
    assert rows("SELECT attempt FROM provider_calls") == [(1,)]


def test_a_claim_that_was_worked_on_is_not_given_again():
    job_id, ours = a_reserved_job(an_account(1000)), uuid4()
    assert fail(claim_as(job_id, ours)) is Verdict.RETRY

    assert claim_as(job_id, ours) is None


def test_a_claim_past_its_lease_is_not_given_again():
    job_id, ours = a_reserved_job(an_account(1000)), uuid4()
    claim_as(job_id, ours)

    assert claim_as(job_id, ours, now=NOON + MINUTE) is None


def test_a_lost_call_is_asked_about_once_within_the_time_that_an_answer_takes():
    claim = a_claim(a_reserved_job(an_account(1000)))
    lose(claim)

    def ask(now):
        with transaction() as session:
            return unknown_calls.ask(session, claim.job_id, now=now, patience=MINUTE) is not None

    assert [ask(NOON), ask(NOON + SECOND), ask(NOON + MINUTE)] == [True, False, True]
    assert rows("SELECT asked FROM provider_calls") == [(2,)]


@pytest.mark.parametrize("end", [succeed, fail])
def test_only_a_call_of_unknown_outcome_is_exposed(end):
    claim = a_claim(a_reserved_job(an_account(1000)))
    end(claim)
    before = rows("SELECT c::text FROM provider_calls c")

    with transaction() as session:
        unknown_calls.expose(session, the_job(claim.job_id))

    assert rows("SELECT c::text FROM provider_calls c") == before


def test_what_is_known_of_an_exposed_call_is_not_replaced_by_a_guess():
    claim = a_claim(a_reserved_job(an_account(1000)))
    lose(claim)
    sql("UPDATE provider_calls SET exposure = true, cost_usd = 0.001")

    with transaction() as session:
        unknown_calls.expose(session, the_job(claim.job_id))

    assert rows("SELECT cost_usd FROM provider_calls") == [(Decimal("0.001"),)]


def test_a_check_that_comes_late_rejects_nothing():
    # All that it has is held by this very job.
    job_id = a_reserved_job(an_account(11))

    with transaction() as session:
        assert reserving.check(session, [job_id], now=NOON) == [job_id]

    assert the_job(job_id).state == "reserved"


def test_a_refund_that_comes_twice_releases_once():
    account_id = an_account(1000)
    job_id = a_reserved_job(account_id)
    fail(a_claim(job_id), Failure.CONTENT_POLICY)

    for expected in ([job_id], []):
        with transaction() as session:
            assert settling.refund(session, [job_id], now=NOON) == expected

    assert the_account(account_id).reserved == 0


def test_a_job_between_two_tries_is_not_refunded():
    job_id = a_reserved_job(an_account(1000))
    fail(a_claim(job_id))

    with transaction() as session:
        assert settling.refund(session, [job_id], now=NOON) == []


def test_a_verdict_over_a_call_that_is_still_being_made_refunds_nothing():
    job_id = a_reserved_job(an_account(1000))
    a_claim(job_id)

    with transaction() as session:
        session.execute(text("UPDATE generation_jobs SET error_code = 'refused'"))
        assert settling.refund(session, [job_id], now=NOON) == []


def test_a_decision_from_a_stale_count_of_units_is_refused_by_the_books(monkeypatch):
    account_id = an_account(1000)
    a_subscription(account_id, {"content_ideas": 1})
    a_reserved_job(account_id, "idea_generation")
    job_id = a_queued_job(account_id, "idea_generation")
    stale = limits.Allowance("content_ideas", date(2026, 11, 1), allowed=1, remaining=1)
    monkeypatch.setattr(reserving.limits, "allowances", lambda *_, **__: {(account_id, "content_ideas"): stale})

    with pytest.raises(AssertionError, match="allowance"), transaction() as session:
        reserving.reserve(session, [job_id], now=NOON, publish_by=MINUTE)

    assert (the_job(job_id).state, the_account(account_id).reserved) == ("queued", 11)


def test_a_release_locks_accounts_in_their_order_before_it_changes_any():
    accounts_made = [an_account(1000) for _ in range(3)]
    jobs = [a_reserved_job(account_id) for account_id in accounts_made]
    first, *others = accounts_made
    # Whatever order else it would take, by rows or by jobs: the first account comes last.
    sql("UPDATE accounts SET name = 'Moved' WHERE id = :id", id=first)

    def release(session):
        locked = job_queries.lock(session, jobs, {State.RESERVED})
        last = sorted(locked, key=lambda job: job.account_id, reverse=True)
        reasons = {job.id: settling.Release("gone", "gone") for job in last}
        return settling.release(session, last, reasons, now=NOON)

    with ThreadPoolExecutor(1) as pool:
        with transaction() as session:
            account_queries.lock(session, [first])
            released = pool.submit(at_once, release)
            wait_until(lambda: rows("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"), within_s=10)
            # It waits for the first, and has none of the others in its hands.
            session.execute(text("SELECT 1 FROM accounts WHERE id = ANY(:ids) FOR UPDATE NOWAIT"), {"ids": others})
        assert len(released.result()[0]) == 3


def test_whoever_waited_to_change_the_catalogue_reads_it_anew():
    with transaction() as session:
        plans.set_plan(session, "starter", {"content_ideas": "1"})

    with transaction() as session:
        seen = plans.named(session, "starter")
        with transaction() as other:
            plans.set_plan(other, "starter", {"image_prompts": "2"})
        plans.set_plan(session, "starter", {"content_ideas": "3"})

    assert seen.limits == {"content_ideas": 3, "image_prompts": 2}
    assert rows("SELECT limits FROM plans WHERE slug = 'starter'") == [(seen.limits,)]


def test_a_repeated_request_is_answered_although_the_bound_is_lower_by_now():
    account_id = an_account(1000)
    first = a_queued_job(account_id, idempotency_key="order-1")
    a_queued_job(account_id)
    sql("UPDATE billing_configuration SET max_open_jobs = 1, max_open_jobs_per_account = 1")

    assert a_queued_job(account_id, idempotency_key="order-1") == first


def test_losses_in_a_row_are_added_up_and_forgotten_at_the_end():
    def count():
        with transaction() as session:
            return worker_losses.count(session, "a job", now=NOON)

    assert [count(), count(), count()] == [1, 2, 3]
    with transaction() as session:
        worker_losses.forget(session, ["a job"])
    assert count() == 1


def test_a_cancelled_subscription_limits_nothing():
    account_id = an_account(1000)
    a_subscription(account_id, {"content_ideas": 0})
    sql("UPDATE subscriptions SET status = 'cancelled', renews_at = NULL")

    job = the_job(a_reserved_job(account_id, "idea_generation"))

    assert (job.state, job.limit_period_start) == ("reserved", None)


def test_units_that_open_jobs_hold_are_not_given_away_again():
    account_id = an_account(1000)
    a_subscription(account_id, {"content_ideas": 1})
    a_reserved_job(account_id, "idea_generation")
    second = a_queued_job(account_id, "idea_generation")

    with transaction() as session:
        assert reserving.reserve(session, [second], now=NOON, publish_by=MINUTE) == []

    assert the_job(second).error_code == "plan_limit_reached"


def test_a_batch_cannot_hold_more_units_than_are_left():
    account_id = an_account(1000)
    a_subscription(account_id, {"content_ideas": 1})
    jobs = [a_queued_job(account_id, "idea_generation") for _ in range(3)]

    with transaction() as session:
        assert len(reserving.reserve(session, jobs, now=NOON, publish_by=MINUTE)) == 1


# --- Commit first, then call; commit first, then publish ---


@pytest.fixture
def worker(db):
    """The runtime of this process, for the steps that need one; a test puts its own provider into it."""
    with transaction() as session:
        set_connection(session, "openai", api_key="sk-planted", base_url="http://127.0.0.1:9/v1")
    settings = Settings(DATABASE_URL=db, BROKER_URL="redis://127.0.0.1:9/0", secret_key="unused")
    made = Runtime(settings, {"openai": AProvider()})
    before = runtime._runtime
    runtime.use_runtime(made)
    yield made
    runtime._runtime = before


class AProvider:
    """Delivers, after it has done what a test wants to see done during the call."""

    def __init__(self):
        self.during = lambda claim: None

    def call(self, claim, connection, *, timeout_s):
        self.during(claim)
        return a_delivery()


def test_a_claim_and_its_call_are_committed_before_the_provider_is_called(worker):
    job_id = a_reserved_job(an_account(1000))
    seen = []

    def look(claim):
        # From another session, which sees what was committed and nothing else.
        seen.append((the_job(job_id).state, rows("SELECT attempt, outcome FROM provider_calls")))
        seen.append(rows("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"))

    worker.providers["openai"].during = look
    assert call_job(job_id, worker) == "generated"

    assert seen == [("calling", [(1, None)]), [(0,)]]


def test_what_was_delivered_is_recorded_although_the_database_was_away_for_a_moment(worker, monkeypatch):
    job_id = a_reserved_job(an_account(1000))
    succeed_in_earnest, tried = calling.succeed, []

    def succeed_at_the_third_try(*args, **given):
        tried.append(1)
        if len(tried) < 3:
            raise OperationalError("COMMIT", {}, Exception("the server closed the connection"))
        return succeed_in_earnest(*args, **given)

    monkeypatch.setattr(calls.calling, "succeed", succeed_at_the_third_try)

    assert call_job(job_id, worker) == "generated"
    assert (len(tried), the_job(job_id).state) == (3, "generated")


@pytest.fixture
def published(monkeypatch):
    """What was published, each time with the rows that were committed by then."""
    seen = []
    query = "SELECT id, state, republished FROM generation_jobs ORDER BY id"
    monkeypatch.setattr(pipeline, "publish", lambda signature: seen.append(rows(query)) or True)
    return seen


def lose_the_database():
    database.disconnect()
    database.connect(database.make_engine("postgresql://nobody@127.0.0.1:9/nothing"))


def a_request(account_id, **given):
    return {"account_id": account_id, "operation": "clustering", "params": {"prompt": "bread"}, **given}


def test_a_request_is_committed_before_it_is_published(worker, published):
    submitted = pipeline.submit(**a_request(an_account(1000)))

    assert published == [[(submitted.job_id, "queued", 0)]]


def test_a_repeated_request_is_not_published_again(worker, published):
    account_id = an_account(1000)

    for _ in range(2):
        pipeline.submit(**a_request(account_id, idempotency_key="order-1"))

    assert len(published) == 1


def test_recovery_commits_before_it_publishes_again(worker, published):
    job_id = a_queued_job(an_account(1000))
    sql("UPDATE generation_jobs SET next_at = now(), deadline_at = now() + interval '1 hour'")

    assert periodic.recover_jobs() == {"started": 1}

    assert published == [[(job_id, "queued", 1)]]


def test_a_request_whose_commit_was_not_confirmed_is_one_job(worker, published):
    account_id, lost = an_account(1000), []

    def lose_the_answer(session):
        if not lost:
            lost.append(session)
            raise OperationalError("COMMIT", {}, Exception("the server closed the connection"))

    event.listen(Session, "after_commit", lose_the_answer)
    try:
        submitted = pipeline.submit(**a_request(account_id))
    finally:
        event.remove(Session, "after_commit", lose_the_answer)

    assert lost
    assert published == [[(submitted.job_id, "queued", 0)]]


def test_a_message_that_is_delivered_twice_is_one_job(worker, published):
    request = a_request(an_account(1000))

    first, second = (intake.take_in((), request, message_id="m-1") for _ in range(2))

    assert first == second
    assert len(published) == 1


def test_a_request_that_could_not_be_kept_is_not_taken_for_done(worker):
    lose_the_database()

    with pytest.raises(DatabaseAway):
        intake.take_in((), {"nonsense": 1}, message_id="m-1")


def test_a_step_is_tried_again_while_the_database_is_away(db, monkeypatch):
    tried = []

    def be_away_once(session, job_ids, *, now):
        tried.append(job_ids)
        if len(tried) == 1:
            raise OperationalError("SELECT", {}, Exception("the server closed the connection"))
        return job_ids

    monkeypatch.setattr(settling, "settle", be_away_once)
    job_id = uuid4()

    assert generation.settle_charge.apply(([str(job_id)],)).get() == [str(job_id)]
    assert tried == [[job_id]] * 2


def test_a_message_that_ends_worker_after_worker_is_given_up(worker):
    account_id = an_account(1000)
    job_id = a_reserved_job(account_id)
    task = generation.call_provider
    task.push_request(id="m-1", args=([str(job_id)],), kwargs={}, delivery_info={"redelivered": True})
    try:
        for _ in range(giving_up.LOSSES_MAX):
            giving_up.begin(task, [[str(job_id)]])
        assert the_job(job_id).state == "reserved"
        with pytest.raises(Ignore):
            giving_up.begin(task, [[str(job_id)]])
    finally:
        task.pop_request()

    assert (the_job(job_id).state, the_job(job_id).error_code) == ("refunded", "worker_lost")
    assert the_account(account_id).reserved == 0


def test_messages_are_delivered_at_least_once():
    # Of a killed child's message, of a slow step's, and of a paid call when the broker goes away.
    assert app.conf.task_acks_late is True
    assert app.conf.task_reject_on_worker_lost is True
    assert app.conf.worker_cancel_long_running_tasks_on_connection_loss is False


def test_a_request_is_taken_in_while_the_broker_is_away(worker, monkeypatch):
    def be_away(self, *args, **given):
        raise BrokerAway("no broker")

    monkeypatch.setattr("celery.canvas.Signature.apply_async", be_away)
    monkeypatch.setattr("celery.canvas._chain.apply_async", be_away)

    submitted = pipeline.submit(**a_request(an_account(1000)))

    assert the_job(submitted.job_id).state == "queued"


def test_a_message_that_could_not_be_kept_is_not_acknowledged(db):
    message = Message(body="no task", delivery_tag="1", headers={}, channel=None)
    lose_the_database()

    consumer.CarefulConsumer._set_aside(consumer.CarefulConsumer, message, "not_a_task", "It is none.")

    assert not message.acknowledged


# --- Recovery ---


def recover(state, now, done=None):
    done = done or recovery.Recovered()
    patience = recovery.Patience(republish_after=MINUTE, unknown_wait=10 * MINUTE)
    with transaction() as session:
        recovery.recover(session, state, done, now=now, patience=patience)
    return done


def test_a_job_whose_deadline_has_not_come_is_published_and_not_given_up():
    account_id = an_account(1000)
    queued, reserved = a_queued_job(account_id), a_reserved_job(account_id)
    almost = NOON + HOUR - timedelta(seconds=1)

    assert recover(State.QUEUED, almost).counts() == {"started": 1}
    assert recover(State.RESERVED, almost).counts() == {"called": 1}

    assert (the_job(queued).state, the_job(reserved).state) == ("queued", "reserved")


def test_what_was_half_done_to_a_row_is_undone_and_the_others_go_on():
    good, bad = an_account(1000), an_account(1000)
    late = [a_reserved_job(account_id) for account_id in (good, bad)]
    # What the database itself refuses ends a whole transaction, where no savepoint ends it first.
    sql("UPDATE accounts SET reserved = 0 WHERE id = :id", id=bad)

    done = recover(State.RESERVED, NOON + HOUR)

    assert (done.expired, done.blocked) == ([late[0]], {late[1]: "IntegrityError"})
    assert [the_job(job_id).state for job_id in late] == ["refunded", "reserved"]


def test_what_was_delivered_and_given_up_is_our_exposure():
    account_id = an_account(1000)
    job_id = a_generated_job(account_id)

    with transaction() as session:
        assert recovery.give_up(session, [job_id], now=NOON) == [job_id]

    assert (the_job(job_id).state, the_account(account_id).reserved) == ("refunded", 0)
    assert rows("SELECT outcome, exposure FROM provider_calls") == [("succeeded", True)]
    assert findings() == []


# --- What is found out about a call whose outcome was not known ---


def resolve(job_id, outcome, **given):
    found = unknown_calls.Resolution(policy.Outcome(outcome), "Ticket 4711", "anna", **given)
    with transaction() as session:
        return unknown_calls.resolve(session, job_id, found, now=NOON, publish_by=MINUTE)


def learn(claim, told):
    with transaction() as session:
        return unknown_calls.resolve_by_answer(session, claim, told, Means.LOOK_UP, now=NOON, publish_by=MINUTE)


def everything_about_calls():
    return [rows(f"SELECT t::text FROM {table} t") for table in ("generation_jobs", "provider_calls", "resolutions")]


@pytest.fixture
def claim(db):
    """A call that was lost."""
    made = a_claim(a_reserved_job(an_account(1000)))
    lose(made)
    return made


def test_only_jobs_of_unknown_outcome_are_listed_to_be_resolved(claim):
    a_generated_job(an_account(1000))

    with transaction() as session:
        listed = unknown_calls.oldest(session, limit=10, unknown_wait=HOUR)

    assert [each.job_id for each in listed] == [claim.job_id]


def test_a_lost_result_is_resolved_once(claim):
    resolve(claim.job_id, "executed")

    with pytest.raises(InvalidRequest, match="no call whose outcome is unknown"):
        resolve(claim.job_id, "not_executed")


def test_what_is_learnt_of_a_call_that_is_known_changes_nothing(claim):
    assert succeed(claim)
    before = everything_about_calls()

    learn(claim, Refusal(Failure.BAD_REQUEST))

    assert everything_about_calls() == before


def test_what_is_learnt_after_a_resolution_by_hand_changes_nothing(claim):
    resolve(claim.job_id, "executed")
    before = everything_about_calls()

    learn(claim, a_delivery())

    assert everything_about_calls() == before


def test_what_is_learnt_after_the_refund_releases_nothing_again(claim):
    recover(State.UNKNOWN, NOON + HOUR)
    assert recover(State.UNKNOWN, NOON + 2 * HOUR).resolved == [claim.job_id]

    learn(claim, Refusal(Failure.BAD_REQUEST))

    assert (the_job(claim.job_id).state, the_job(claim.job_id).cost_usd) == ("refunded", 0)
    assert rows("SELECT outcome, exposure FROM provider_calls") == [("failed", False)]
    assert findings() == []


# --- The audit notices each part of a charge ---


def break_books(*statements):
    """Damage that no code of ours can do: with the tables' guards out of the way."""
    with transaction() as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))
        for statement in statements:
            session.execute(text(statement))


def broken_rules():
    return {finding.rule for finding in findings()}


FREE = (
    f"UPDATE generation_jobs SET credits_charged = 0 WHERE id = {SETTLED}",
    f"UPDATE credit_transactions SET amount = 0 WHERE job_id = {SETTLED}",
    f"UPDATE credit_usage_logs SET credits_used = 0, revenue_usd = 0 WHERE job_id = {SETTLED}",
)
"""The settled job was free: its records add up to nothing, but have to be there."""


@pytest.mark.usefixtures("_books")
def test_a_free_job_without_its_deduction_is_noticed():
    break_books(*FREE, f"DELETE FROM credit_transactions WHERE job_id = {SETTLED}")

    assert "settled_jobs_are_charged_once" in broken_rules()


@pytest.mark.usefixtures("_books")
def test_a_free_job_without_its_usage_log_is_noticed():
    break_books(*FREE, f"DELETE FROM credit_usage_logs WHERE job_id = {SETTLED}")

    assert "settled_jobs_are_charged_once" in broken_rules()


@pytest.mark.usefixtures("_books")
def test_a_deduction_of_another_amount_is_noticed():
    break_books(f"UPDATE credit_transactions SET amount = amount - 1 WHERE job_id = {SETTLED}")

    assert "settled_jobs_are_charged_once" in broken_rules()


@pytest.mark.usefixtures("_books")
def test_a_usage_log_of_another_amount_is_noticed():
    break_books(f"UPDATE credit_usage_logs SET credits_used = credits_used + 1 WHERE job_id = {SETTLED}")

    assert "settled_jobs_are_charged_once" in broken_rules()


@pytest.mark.usefixtures("_books")
def test_units_that_no_job_holds_are_noticed():
    break_books("UPDATE plan_limit_usage SET amount_reserved = amount_reserved + 1")

    assert "plan_usage_is_sum_of_jobs" in broken_rules()


def test_the_audit_reads_one_snapshot(monkeypatch):
    seen = []

    def look(session, *, now):
        for setting in ("transaction_isolation", "transaction_read_only"):
            seen.append(session.scalar(text(f"SHOW {setting}")))
        return []

    monkeypatch.setattr(audit, "audit", look)

    assert periodic.audit_books() == 0
    assert seen == ["repeatable read", "on"]


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
    "periods_are_granted_once": "UPDATE subscription_periods SET credits = 1, granted = true",
}  # fmt: skip
"""For each rule that freezes: damage that breaks it and no other rule that freezes."""


@pytest.mark.usefixtures("_books")
@pytest.mark.parametrize("rule", sorted(DAMAGE))
def test_each_rule_about_a_customers_credits_freezes_the_account_that_breaks_it(rule):
    if rule == "charge_within_reservation":
        sql(f"ALTER TABLE generation_jobs DROP CONSTRAINT ck_generation_jobs_{rule}")
    break_books(DAMAGE[rule])

    assert periodic.audit_books() > 0

    assert the_account(1).frozen_reason == f"audit: {rule}"


def test_there_is_damage_for_every_rule_that_freezes():
    assert set(DAMAGE) == {rule.name for rule in audit.RULES if rule.freezes}
