"""Single guards of accounts and their ledger, one test each: what the database refuses, and what comes side by side."""

from __future__ import annotations

import pytest

from billing.ledger import account_queries, by_hand
from config.database import transaction
from tests.catalogue import sql
from tests.factories import NOON, an_account, rows, the_account
from tests.guarding import assert_refused, meanwhile, read_rows_as_they_lie

pytestmark = pytest.mark.usefixtures("db")

LEDGER = "INSERT INTO credit_transactions (account_id, transaction_type, amount, balance_after, description, " \
         "job_id, idempotency_key, created_at) SELECT account_id, "  # fmt: skip

GRANTED = (
    "INSERT INTO credit_transactions (account_id, amount, balance_after, description, idempotency_key, "
    "created_at, transaction_type, subscription_id, period_start) SELECT 1, 1, 1001, '', gen_random_uuid(), now(),"
)

REFUSED = [
    ("UPDATE accounts SET reserved = balance + 1",                       "ck_accounts_balance_covers_reserved"),
    ("UPDATE accounts SET reserved = -1",                                "ck_accounts_reserved_not_negative"),
    (f"{LEDGER} 'gift', 1, 1, '', NULL, 'x', now() FROM generation_jobs WHERE state = 'settled'",
                                                                         "ck_credit_transactions_transaction_type"),
    ("INSERT INTO credit_transactions (account_id, transaction_type, goodwill, amount, balance_after, description, "
     "idempotency_key, created_at) SELECT id, 'purchase', true, 1, 1, '', 'x', now() FROM accounts",
                                                                         "ck_credit_transactions_goodwill_is_given"),
    ("INSERT INTO credit_transactions (account_id, transaction_type, actor, amount, balance_after, description, "
     "idempotency_key, created_at) SELECT id, 'purchase', '', 1, 1, '', 'x', now() FROM accounts",
                                                                         "ck_credit_transactions_actor"),
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
]  # fmt: skip


@pytest.mark.usefixtures("books")
@pytest.mark.parametrize("rule", dict.fromkeys(rule for _, rule in REFUSED))
def test_the_database_refuses_it_by_itself(rule):
    assert_refused(REFUSED, rule)


def test_accounts_are_locked_in_the_order_of_their_ids():
    accounts_made = [an_account(1000) for _ in range(4)]
    sql("UPDATE accounts SET name = 'Moved' WHERE id = :id", id=accounts_made[0])

    with transaction() as session:
        read_rows_as_they_lie(session)
        assert list(account_queries.lock(session, accounts_made)) == accounts_made


def top_up(account_id, key):
    """What makes a top-up of 50 credits in a transaction, and answers with its row's id."""

    def add(session):
        return by_hand.top_up(session, account_id, 50, idempotency_key=key, description="", now=NOON).id

    return add


def test_a_top_up_continues_the_balance_that_another_one_left_while_it_waited():
    account_id = an_account(0)

    meanwhile(top_up(account_id, "order-1"), top_up(account_id, "order-2"))

    assert rows("SELECT amount, balance_after FROM credit_transactions ORDER BY id") == [(50, 50), (50, 100)]
    assert the_account(account_id).balance == 100


def test_a_top_up_that_waited_for_the_same_one_adds_nothing_and_answers_alike():
    account_id = an_account(0)
    first = []

    second = meanwhile(lambda s: first.append(top_up(account_id, "order-1")(s)), top_up(account_id, "order-1"))

    assert [second] == first
    assert the_account(account_id).balance == 50
