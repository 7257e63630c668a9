"""No statement that a job costs reads a whole table: PostgreSQL's own plans say so."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, text

from billing.catalog import current
from billing.catalog.usage import Usage
from billing.jobs import bounds, calling, recovery, requests, reserving, settling, submitting, taking
from billing.jobs.calling import KINDS, Delivery, Wanted
from billing.jobs.recovery import Patience, Recovered
from billing.settings import own
from config import database
from config.database import transaction
from tests.factories import HOUR, MINUTE, a_subscription, an_account

GROW = (
    "generation_jobs",
    "provider_calls",
    "generation_results",
    "credit_transactions",
    "credit_usage_logs",
    "accounts",
    "users",
    "subscriptions",
    "subscription_periods",
    "plan_limit_usage",
    "revenue_changes",
)
"""The tables that grow with the number of jobs or of accounts; the others have a few rows for ever."""
USAGE = Usage(input_tokens=100, output_tokens=400)


@pytest.fixture
def by_index(db):
    """A connection as the processes that work on jobs have it: a whole table is read only where no index leads."""
    database.disconnect()
    engine = database.make_engine(db, by_index=True)
    database.connect(engine)
    return engine


@pytest.fixture
def sent(by_index):
    """Every statement that is sent, with its values."""
    seen: list[tuple[str, Any]] = []

    def note(connection, cursor, statement, values, *_):
        seen.append((statement, values))

    event.listen(by_index, "before_cursor_execute", note)
    yield seen
    event.remove(by_index, "before_cursor_execute", note)


def live(account_id: int, operation: str) -> None:
    """A job's whole life, step by step, and a look of recovery at what is open."""
    data = {"account_id": account_id, "operation": operation, "params": {"prompt": "bread", "max_output_tokens": 64}}
    with transaction() as session:
        parsed = [requests.parse(data)]
        at = own.moment(session, {(account_id, None)})
        submitted = submitting.submit(session, parsed, at=at, deadline=HOUR, publish_by=MINUTE)
    ids = [job.job_id for job in submitted]
    with transaction() as session:
        assert taking.take(session, hold=MINUTE).job_ids == ids
    with transaction() as session:
        reserving.reserve(session, ids, at=current.moment(session), publish_by=MINUTE)
    with transaction() as session:
        claims = calling.claim_many(
            session,
            [Wanted(job_id) for job_id in ids],
            at=current.moment(session),
            leases=dict.fromkeys(KINDS, MINUTE),
        )
    delivery = Delivery({"text": "a b c"}, USAGE, {}, "req_1", "stop")
    with transaction() as session:
        calling.succeed_many(session, [(claim, delivery) for claim in claims.values()], publish_by=MINUTE)
    for state in recovery.states():
        with transaction() as session:
            now = current.moment(session).now
            patience = Patience(republish_after=MINUTE, unknown_wait=timedelta(hours=1))
            recovery.recover(session, state, Recovered(), now=now, patience=patience)
    with transaction() as session:
        assert settling.settle(session, ids) == ids


def submit_at_once(account_id: int, operation: str) -> None:
    """The statement by which most jobs are submitted."""
    data = {"account_id": account_id, "operation": operation, "params": {"prompt": "bread", "max_output_tokens": 64}}
    kept = current.kept(database.utc_now())
    assert kept is not None
    with database.single_statements() as connection:
        assert submitting.submit_at_once(connection, requests.parse(data), at=kept, deadline=HOUR, publish_by=MINUTE), (
            "what was known a moment ago still holds"
        )


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(each for inner in plan.get("Plans", []) for each in nodes(inner))]


def whole_tables(engine, statement: str, values: Any) -> set[str]:
    """The growing tables that PostgreSQL would read from end to end for this statement."""
    with engine.connect() as connection:
        cursor = connection.connection.cursor()
        cursor.execute(f"EXPLAIN (FORMAT JSON) {statement}", values)
        (found,) = cursor.fetchone()
        connection.rollback()
    plan = found if isinstance(found, list) else json.loads(found)
    return {each["Relation Name"] for each in nodes(plan[0]["Plan"]) if each["Node Type"] == "Seq Scan"} & set(GROW)


def test_no_statement_of_a_job_reads_a_table_that_grows_from_end_to_end(sent, by_index):
    account_id = an_account(10_000)
    a_subscription(account_id, {"content_ideas": 100})
    live(account_id, "idea_generation")
    sent.clear()

    live(account_id, "idea_generation")
    bounds._rooms.clear()
    for _ in range(2):
        # The open jobs are counted by the first, and known to the second.
        submit_at_once(account_id, "idea_generation")

    reading = {
        " ".join(statement.split())[:80]: found
        for statement, values in list(sent)
        if statement.lstrip().startswith(("SELECT", "WITH", "INSERT", "UPDATE"))
        and (found := whole_tables(by_index, statement, values))
    }
    assert reading == {}
    assert len(sent) > 15


def test_a_statement_that_reads_a_whole_table_is_noticed(by_index):
    assert whole_tables(by_index, "SELECT * FROM generation_jobs WHERE error_code = 'x'", None) == {"generation_jobs"}
    with by_index.connect() as connection:
        assert connection.scalar(text("SHOW enable_seqscan")) == "off"


def test_whoever_reads_whole_tables_says_so_for_one_transaction(by_index):
    with transaction(whole_tables=True) as session:
        assert session.scalar(text("SHOW enable_seqscan")) == "on"
    with transaction() as session:
        assert session.scalar(text("SHOW enable_seqscan")) == "off"
