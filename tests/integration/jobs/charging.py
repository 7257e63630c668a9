"""The steps of a job's money, each in a transaction of its own; and what the books then say."""

from __future__ import annotations

from billing.jobs import calling, reserving, settling
from billing.jobs.calling import Refusal
from billing.jobs.policy import RetryBudget
from config.database import transaction
from tests.factories import HOUR, MINUTE, NOON, moment, rows, the_account

BUDGET = RetryBudget(attempts=2, wait_max=MINUTE)


def reserve(*job_ids):
    with transaction() as session:
        return reserving.reserve(session, job_ids, at=moment(session), publish_by=MINUTE).job_ids


def settle(*job_ids):
    with transaction() as session:
        return settling.settle(session, job_ids, now=NOON)


def refund(*job_ids):
    with transaction() as session:
        return settling.refund(session, job_ids, now=NOON)


def fail(claim, failure, usage=None):
    with transaction() as session:
        refusal = Refusal(failure, usage=usage)
        return calling.fail(session, claim, refusal, now=NOON, budget=BUDGET, look_after=HOUR)


def books(account_id):
    account = the_account(account_id)
    return account.balance, account.reserved


def ledger(account_id):
    query = "SELECT transaction_type, amount, balance_after FROM credit_transactions WHERE account_id = :a ORDER BY id"
    return rows(query, a=account_id)
