"""Single guards of jobs, one test each: what the database refuses, and what stops a step that comes at a bad time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from billing.jobs import job_queries, recovery, reserving, settling
from billing.jobs.policy import Failure
from billing.jobs.states import State
from billing.ledger import account_queries
from config.database import transaction
from tests.catalogue import a_settled_job, sql
from tests.factories import (
    HOUR,
    MINUTE,
    NOON,
    a_claim,
    a_generated_job,
    a_queued_job,
    a_reserved_job,
    an_account,
    moment,
    rows,
    the_account,
    the_job,
)
from tests.guarding import assert_refused, at_once, fail, findings, recover
from tests.system import wait_until

pytestmark = pytest.mark.usefixtures("db")

LOG = (
    "account_id, job_id, operation_type, model_used, credits_used, cost_usd, price_per_credit_usd, revenue_usd, "
    "tokens_input, tokens_input_cached, tokens_output, tokens_reasoning, images, created_at"
)

RESOLVED = "INSERT INTO resolutions (call_id, outcome, evidence, actor, resolved_at) "

REFUSED = [
    ("UPDATE generation_jobs SET state = 'paid' WHERE state = 'queued'", "ck_generation_jobs_state"),
    ("UPDATE generation_jobs SET kind = 'video'",                        "ck_generation_jobs_kind"),
    ("UPDATE generation_jobs SET finished_at = NULL",                    "ck_generation_jobs_terminal_is_finished"),
    ("UPDATE generation_jobs SET finished_at = now() WHERE state = 'reserved'",
                                                                         "ck_generation_jobs_terminal_is_finished"),
    ("UPDATE generation_jobs SET taken_until = now() WHERE state = 'reserved'",
                                                                         "ck_generation_jobs_taken_is_queued"),
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
    ("UPDATE generation_jobs SET attempts = -1, parts_delivered = 0",    "ck_generation_jobs_attempts"),
    ("UPDATE generation_jobs SET parts_delivered = attempts + 1",        "ck_generation_jobs_parts_delivered"),
    ("UPDATE generation_jobs SET parts_delivered = -1",                  "ck_generation_jobs_parts_delivered"),
    ("UPDATE generation_jobs SET state = 'refunded', credits_charged = NULL WHERE state = 'settled'",
                                                                     "ck_generation_jobs_refunded_delivers_nothing"),
    ("UPDATE provider_calls SET outcome = 'paid' WHERE finished_at IS NOT NULL", "ck_provider_calls_outcome"),
    ("UPDATE provider_calls SET finished_at = NULL",                     "ck_provider_calls_finished_has_outcome"),
    ("UPDATE provider_calls SET usage = NULL",                           "ck_provider_calls_success_has_usage"),
    ("UPDATE provider_calls SET cost_usd = -1",                          "ck_provider_calls_cost_not_negative"),
    ("UPDATE provider_calls SET reported_cost_usd = -1",        "ck_provider_calls_reported_cost_not_negative"),
    (
        "INSERT INTO provider_calls (job_id, attempt, provider, model_name, endpoint, idempotency_key, started_at) "
        "SELECT job_id, attempt, 'openai', '', '', '', now() FROM provider_calls",
        "uq_provider_calls_job_id_attempt",
    ),
    (f"INSERT INTO credit_usage_logs ({LOG}) SELECT {LOG} FROM credit_usage_logs", "uq_credit_usage_logs_job_id"),
    ("UPDATE credit_usage_logs SET credits_used = -1",                   "ck_credit_usage_logs_not_negative"),
    ("UPDATE credit_usage_logs SET revenue_usd = -1",                    "ck_credit_usage_logs_not_negative"),
    (f"{RESOLVED} SELECT id, 'perhaps', 'a log', 'anna', now() FROM provider_calls", "ck_resolutions_outcome"),
    (f"{RESOLVED} SELECT id, 'executed', '', 'anna', now() FROM provider_calls",     "ck_resolutions_evidence"),
    (f"{RESOLVED} SELECT id, 'executed', 'a log', 'anna', now() FROM provider_calls, generate_series(1, 2)",
                                                                         "uq_resolutions_call_id"),
]  # fmt: skip


@pytest.mark.usefixtures("books")
@pytest.mark.parametrize("rule", dict.fromkeys(rule for _, rule in REFUSED))
def test_the_database_refuses_it_by_itself(rule):
    if rule == "ck_generation_jobs_calling_is_leased":
        a_claim(a_reserved_job(1))

    assert_refused(REFUSED, rule)


@pytest.mark.parametrize("table", ["generation_results"])
def test_the_database_itself_keeps_one_result_a_job(table):
    a_generated_job(an_account(1000))

    with pytest.raises(IntegrityError):
        sql(f"INSERT INTO {table} (job_id, content) SELECT job_id, content FROM {table}")


# --- Steps that come late, twice, or side by side ---


def test_jobs_are_locked_in_the_order_of_their_ids():
    account_id = an_account(1000)
    jobs = [a_queued_job(account_id) for _ in range(12)]

    with transaction() as session:
        locked = [job.id for job in job_queries.lock(session, jobs, {State.QUEUED})]

    assert locked == sorted(jobs)


@pytest.mark.parametrize("make", [a_reserved_job, a_generated_job, a_settled_job])
def test_a_verdict_is_written_on_a_job_that_is_being_called_and_on_no_other(make):
    job_id = make(an_account(1000))
    before = the_job(job_id)

    with transaction() as session:
        job_queries.note_verdict(session, job_id, "content_policy", "Refused.", due=NOON)

    after = the_job(job_id)
    assert (after.error_code, after.next_at, after.lease_until) == (before.error_code, before.next_at, None)


def test_jobs_settled_side_by_side_leave_a_continuous_ledger():
    account_id = an_account(1000)
    jobs = [a_generated_job(account_id) for _ in range(16)]

    settled = at_once(*[lambda session, job=job: settling.settle(session, [job], now=NOON) for job in jobs])

    assert settled == [[job] for job in jobs]
    assert findings() == []


def test_a_check_that_comes_late_rejects_nothing():
    # All that it has is held by this very job.
    job_id = a_reserved_job(an_account(11))

    with transaction() as session:
        assert reserving.check(session, [job_id], at=moment(session)) == [job_id]

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


def test_a_repeated_request_is_answered_although_the_bound_is_lower_by_now():
    account_id = an_account(1000)
    first = a_queued_job(account_id, idempotency_key="order-1")
    a_queued_job(account_id)
    sql("UPDATE billing_configuration SET max_open_jobs = 1, max_open_jobs_per_account = 1")

    assert a_queued_job(account_id, idempotency_key="order-1") == first


# --- Recovery ---


def test_a_job_whose_deadline_has_not_come_is_published_and_not_given_up():
    account_id = an_account(1000)
    queued, reserved = a_queued_job(account_id), a_reserved_job(account_id)
    almost = NOON + HOUR - timedelta(seconds=1)

    assert recover(State.QUEUED, almost).counts() == {"started": 1}
    assert recover(State.RESERVED, almost).counts() == {"called": 1}

    assert (the_job(queued).state, the_job(reserved).state) == ("queued", "reserved")


def test_looking_again_leaves_a_call_that_is_under_way_alone():
    job_id = a_reserved_job(an_account(1000))
    a_claim(job_id)

    with transaction() as session:
        assert job_queries.look_again(session, [job_id], now=NOON) == []

    assert the_job(job_id).next_at == NOON + MINUTE


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
