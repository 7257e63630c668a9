"""A page costs the same wherever it is in its list: PostgreSQL walks an index to it, as its own plans say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event

from config import database
from tests.catalogue import sql
from tests.factories import NOON
from tests.integration.lists import CALLS, LISTS, OTHERS

ROWS = 5_000
CHANGES = 400
"""Of each of the others, too."""
UNKNOWN = 45
"""Jobs whose outcome is unknown, beside all others."""
OPEN_EVERY = {"jobs of an account": 4, "open jobs of an account": 2}
"""One job in so many is unfinished, in 16 where nothing is said: an account has more than PostgreSQL likes to sort."""
RETRIES = """
    INSERT INTO provider_calls OVERRIDING USER VALUE
    SELECT (jsonb_populate_record(c, jsonb_build_object('attempt', n))).*
    FROM provider_calls c, generate_series(2, 6) n
"""
SMALL = {"plans"}
"""Tables that have a few rows for ever: these may be read whole."""
WALKS = {
    "jobs": {"ix_generation_jobs_listed", "ix_generation_jobs_unfinished"},
    "jobs of an account": {"ix_generation_jobs_listed_by_account", "ix_generation_jobs_unfinished"},
    "finished jobs": {"ix_generation_jobs_listed"},
    "open jobs of an account": {"ix_generation_jobs_unfinished"},
    "unknown calls": {"ix_generation_jobs_due", "uq_provider_calls_job_id_attempt"},
    "accounts": {"pk_accounts"},
    "messages": {"pk_dead_messages"},
    "changes": {"ix_change_history_table_name_row_name_id", "pk_change_history"},
    "periods": {"pk_subscription_periods"},
    # Of an account with many rows among the newest, walking all is as quick.
    "ledger": {"ix_credit_transactions_account_id_id", "pk_credit_transactions", "pk_accounts"},
    "users": {"pk_users"},
    "keys": {"pk_api_keys"},
    "webhook messages": {"pk_webhook_messages"},
    "webhook messages of an account": {"ix_webhook_messages_account_id_id", "pk_webhook_messages"},
    "keys of an account": {"ix_api_keys_account_id_id", "pk_api_keys", "pk_accounts"},
    "users of an account": {"ix_users_account_id", "pk_users", "pk_accounts"},
}
"""The indexes that lead to a page of each list, all in its order but those of what is sorted."""
SORTED = {
    "jobs": {"ix_generation_jobs_unfinished"},
    "unknown calls": {"ix_generation_jobs_due", "uq_provider_calls_job_id_attempt"},
}
"""What a list sorts, by its index: open jobs, of which there is a bounded number. No other list sorts anything."""

Plan = dict[str, Any]


@pytest.fixture(params=LISTS)
def name(db, request):
    """A list with many rows, of which PostgreSQL knows how many."""
    found = LISTS[request.param]
    found.begin()
    if request.param == "unknown calls":
        LISTS["jobs"].begin()
        LISTS["jobs"].add(1, ROWS, others=OTHERS, open_every=16)
        sql(CALLS, first=1, last=ROWS, at=NOON)
        sql(RETRIES)
        found.add(ROWS + 1, ROWS + UNKNOWN)
    else:
        last = CHANGES if request.param == "changes" else ROWS
        found.add(1, last, others=OTHERS, open_every=OPEN_EVERY.get(request.param, 16))
    sql("ANALYZE")
    return request.param


@pytest.fixture
def asked(db):
    """Every query that is sent, with its values."""
    seen: list[tuple[str, Any]] = []

    def note(connection, cursor, statement, values, *_):
        seen.append((statement, values))

    event.listen(database.engine(), "before_cursor_execute", note)
    return seen


def plan_of(statement: str, values: Any) -> Plan:
    with database.engine().connect() as connection:
        cursor = connection.connection.cursor()
        cursor.execute(f"EXPLAIN (FORMAT JSON) {statement}", values)
        (found,) = cursor.fetchone()
    return (found if isinstance(found, list) else json.loads(found))[0]["Plan"]


def nodes(plan: Plan) -> Iterator[Plan]:
    yield plan
    for inner in plan.get("Plans", []):
        yield from nodes(inner)


def indexes(plan: Plan) -> set[str]:
    return {each["Index Name"] for each in nodes(plan) if "Index Name" in each}


def read_whole(plan: Plan) -> set[str]:
    return {each["Relation Name"] for each in nodes(plan) if each["Node Type"] == "Seq Scan"} - SMALL


def sorts(plan: Plan) -> set[str]:
    """The indexes of all that is sorted, and the tables."""
    under = [each for each in nodes(plan) if "Sort" in each["Node Type"]]
    return {index for each in under for index in indexes(each) | read_whole(each)}


def test_a_page_walks_an_index_and_sorts_no_more_than_open_jobs(name, asked):
    first = LISTS[name].read(20)
    later = LISTS[name].read(20, first.next)

    assert [len(first.rows), len(later.rows)] == [20, 20]
    plans = [plan_of(*each) for each in list(asked) if "LIMIT" in each[0]]
    assert [read_whole(plan) for plan in plans] == [set(), set()]
    assert all(indexes(plan) - {"pk_plans"} <= WALKS[name] for plan in plans)
    assert [sorts(plan) for plan in plans] == [SORTED.get(name, set())] * 2


@pytest.mark.parametrize("name", ["jobs"], indirect=True)
def test_what_reads_a_table_whole_and_sorts_it_is_noticed(name):
    plan = plan_of("SELECT * FROM generation_jobs ORDER BY error_code LIMIT 20", None)

    assert read_whole(plan) == sorts(plan) == {"generation_jobs"}
