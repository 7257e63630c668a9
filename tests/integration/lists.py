"""Every list that is read in pages, and rows for it: as many as a test wants, some at the same instant."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy.orm import Session

from billing.access import keys
from billing.catalog import history
from billing.jobs import calling, story, unknown_calls
from billing.jobs.policy import Failure
from billing.ledger import accounts, statements, users
from billing.paging import Page
from billing.plans import subscriptions
from billing.upkeep import dead_letters
from billing.webhooks import deliveries
from config.database import transaction
from tests.catalogue import sql
from tests.factories import HOUR, NOON, a_claim, a_queued_job, a_reserved_job, a_subscription, an_account, the_job

OURS = 1
"""The account whose rows are listed where a list is that of one account."""
OTHERS = 20
"""Other accounts than ours, which begin with no rows."""

# Copies of a job: three were created at each second, for our account and the others in turn.
JOBS = """
    INSERT INTO generation_jobs
    SELECT (jsonb_populate_record(j, jsonb_build_object(
        'id', gen_random_uuid(), 'account_id', 1 + i % (1 + :others), 'idempotency_key', i,
        'created_at', CAST(:at AS timestamptz) + i / 3 * interval '1 second',
        'state', CASE WHEN i % :open_every = 0 THEN 'queued' ELSE 'rejected' END,
        'finished_at', CASE WHEN i % :open_every > 0 THEN CAST(:at AS timestamptz) END))).*
    FROM generate_series(CAST(:first AS bigint), :last) i, generation_jobs j
    WHERE j.id = (SELECT id FROM generation_jobs LIMIT 1)
"""
UNKNOWN_JOBS = """
    INSERT INTO generation_jobs
    SELECT (jsonb_populate_record(j, jsonb_build_object('id', gen_random_uuid(), 'idempotency_key', i))).*
    FROM generate_series(CAST(:first AS bigint), :last) i, generation_jobs j
    WHERE j.id = (SELECT id FROM generation_jobs WHERE state = 'unknown' LIMIT 1)
"""
CALLS = """
    INSERT INTO provider_calls OVERRIDING USER VALUE
    SELECT (jsonb_populate_record(c, jsonb_build_object('job_id', j.id, 'started_at',
        CAST(:at AS timestamptz) + CAST(j.idempotency_key AS int) / 3 * interval '1 second'))).*
    FROM generation_jobs j, provider_calls c
    WHERE c.id = (SELECT id FROM provider_calls LIMIT 1)
      AND j.idempotency_key = ANY (SELECT generate_series(CAST(:first AS bigint), :last)::text)
"""
ACCOUNTS = "INSERT INTO accounts (name) SELECT 'Bakery ' || i FROM generate_series(CAST(:first AS bigint), :last) i"
# Between any two that wait is one that was worked on.
MESSAGES = """
    INSERT INTO dead_messages (code, reason, redriven_at) SELECT 'undecodable', 'Why not.', redriven
    FROM generate_series(CAST(:first AS bigint), :last) i, (VALUES (NULL), (CAST(:at AS timestamptz))) AS of(redriven)
"""
CHANGES = """
    INSERT INTO change_history (table_name, row_name, action, old, new, actor)
    SELECT CASE i % 2 WHEN 0 THEN 'ai_model_config' ELSE 'image_prices' END, 'model ' || other, 'update',
           same || '{"credits": 0}', same || jsonb_build_object('credits', i), 'ada'
    FROM generate_series(CAST(:first AS bigint), :last) i, generate_series(0, :others) other,
         CAST('{"size": "1024x1024", "quality": "hd"}' AS jsonb) same
"""
ENTRIES = """
    INSERT INTO credit_transactions (account_id, transaction_type, amount, balance_after, description, idempotency_key,
        created_at)
    SELECT a.id, 'purchase', 1, i, '', CAST(i AS text), :at
    FROM generate_series(CAST(:first AS bigint), :last) i, accounts a WHERE a.id <= 1 + :others
"""
USERS = """
    INSERT INTO users (account_id, email) SELECT a.id, i || '@' || a.id || '.example'
    FROM generate_series(CAST(:first AS bigint), :last) i, accounts a WHERE a.id <= 1 + :others
"""
KEYS = """
    INSERT INTO api_keys (account_id, name, kind, scopes, key_hash, begins_with, ends_with, created_by)
    SELECT a.id, '', 'live', ARRAY['jobs:read'], encode(sha256(convert_to(i || ' ' || a.id, 'UTF8')), 'hex'), '', '',
           'ada'
    FROM generate_series(CAST(:first AS bigint), :last) i, accounts a WHERE a.id <= 1 + :others
"""
TOLD = """
    INSERT INTO webhook_messages (endpoint_id, account_id, event, subject, data)
    SELECT e.id, e.account_id, 'job.settled', 'job ' || i, '{}'
    FROM generate_series(CAST(:first AS bigint), :last) i, webhook_endpoints e WHERE e.account_id <= 1 + :others
"""
PERIODS = """
    INSERT INTO subscription_periods (subscription_id, period_start, period_end, plan_id, status, starts_at, credits)
    SELECT s.id, date '2030-01-01' + CAST(i AS int), date '2030-01-02' + CAST(i AS int), s.plan_id, 'active', :at, 0
    FROM generate_series(CAST(:first AS bigint), :last) i, subscriptions s
"""


class List(NamedTuple):
    """A list: what it begins with, what adds rows to it, how a page of it is read, what tells its rows apart."""

    begin: Callable[[], object]
    statements: tuple[str, ...]
    page: Callable[..., Page[Any]]
    name_of: Callable[[Any], Any]

    def add(self, first: int, last: int, *, others: int = 1, open_every: int = 5) -> None:
        """Add the rows of these numbers, the greater the later: ours and those of others, one open job in so many."""
        for statement in self.statements:
            sql(statement, first=first, last=last, at=NOON, others=others, open_every=open_every)

    def read(self, limit: int, after: str | None = None) -> Page[Any]:
        """A page, in a transaction of its own; of each row, what tells it from the others."""
        with transaction() as session:
            page = self.page(session, limit=limit, after=after)
        return Page([self.name_of(row) for row in page.rows], page.next)


def some_endpoints() -> None:
    """An endpoint of the account whose messages are listed, and of others."""
    some_accounts()
    sql(
        "INSERT INTO webhook_endpoints (id, account_id, url, events, secret_encrypted) "
        "SELECT gen_random_uuid(), id, 'https://app.example', ARRAY['job.settled'], '' FROM accounts"
    )


def some_accounts() -> None:
    """The account whose rows are listed, and others."""
    an_account(0)
    sql("INSERT INTO accounts (name) SELECT 'Bakery' FROM generate_series(1, :others)", others=OTHERS)


def a_job() -> None:
    """What jobs are copied from, and the accounts that they belong to."""
    a_queued_job(an_account(1000))
    sql("INSERT INTO accounts (name) SELECT 'Bakery' FROM generate_series(1, :others)", others=OTHERS)


def an_unknown_call() -> None:
    """What unknown calls are copied from."""
    job_id = a_reserved_job(an_account(1000))
    a_claim(job_id)
    with transaction() as session:
        calling.mark_unknown(session, [the_job(job_id)], Failure.WORKER_LOST, now=NOON, look_after=HOUR)


def two_subscriptions() -> None:
    """The subscription whose periods are listed, and another one."""
    for _ in range(2):
        a_subscription(an_account(), {})


def _jobs(session: Session, **given: Any) -> Page[Any]:
    return story.newest(session, **{"account_id": None, "state": None} | given)


def _job_id(row: Any) -> Any:
    return row.job_id


LISTS = {
    "jobs": List(a_job, (JOBS,), _jobs, _job_id),
    "jobs of an account": List(a_job, (JOBS,), partial(_jobs, account_id=OURS), _job_id),
    "finished jobs": List(a_job, (JOBS,), partial(_jobs, state="rejected"), _job_id),
    "open jobs of an account": List(a_job, (JOBS,), partial(_jobs, account_id=OURS, state="queued"), _job_id),
    "unknown calls": List(
        an_unknown_call,
        (UNKNOWN_JOBS, CALLS),
        partial(unknown_calls.oldest, unknown_wait=timedelta(hours=1)),
        _job_id,
    ),
    "ledger": List(
        some_accounts, (ENTRIES,), partial(statements.entries, account_id=OURS), lambda row: (row.id, row.balance_after)
    ),
    "users": List(some_accounts, (USERS,), users.newest, lambda row: row.id),
    "users of an account": List(some_accounts, (USERS,), partial(users.newest, account_id=OURS), lambda row: row.id),
    "keys": List(some_accounts, (KEYS,), partial(keys.newest, now=NOON), lambda row: row.id),
    "keys of an account": List(
        some_accounts, (KEYS,), partial(keys.newest, account_id=OURS, now=NOON), lambda row: row.id
    ),
    "webhook messages": List(
        some_endpoints, (TOLD,), partial(deliveries.newest, account_id=None, state=None), lambda row: row.id
    ),
    "webhook messages of an account": List(
        some_endpoints, (TOLD,), partial(deliveries.newest, account_id=OURS, state=None), lambda row: row.id
    ),
    "accounts": List(an_account, (ACCOUNTS,), accounts.newest, lambda row: row.id),
    "messages": List(lambda: None, (MESSAGES,), dead_letters.newest, lambda row: row.id),
    "changes": List(
        lambda: None,
        (CHANGES,),
        partial(history.changes, tables=history.MODEL, name="model 0"),
        lambda row: (row.field, row.new),
    ),
    "periods": List(
        two_subscriptions,
        (PERIODS,),
        partial(subscriptions.periods, account_id=OURS),
        lambda row: row.period_start,
    ),
}
