"""The audit computes charges again: all of them when it is asked, and what changed when it runs by itself."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from billing.catalog.usage import Usage
from billing.jobs import receipts
from billing.reports import audit
from billing.reports.audit import CHARGES_FOLLOW
from config.database import transaction
from tasks import periodic
from tests.catalogue import a_settled_job, change, sql
from tests.factories import NOON, a_generated_job, a_reserved_job, an_account, rows, the_account, the_job

pytestmark = pytest.mark.usefixtures("db")
QUEUED = "SELECT job_id FROM audit_changes"


def wrong(**given):
    with transaction() as session:
        found = audit.audit(session, now=NOON, **given)
    return [finding.row for finding in found if finding.rule == CHARGES_FOLLOW]


def by_itself():
    with transaction(isolation="REPEATABLE READ") as session:
        found = audit.audit_changed(session, now=NOON)
    return [finding.row for finding in found if finding.rule == CHARGES_FOLLOW]


DAMAGE = [
    "UPDATE generation_jobs SET credits_charged = credits_charged - 1",
    "UPDATE generation_jobs SET credits_overrun = 1",
    "UPDATE generation_jobs SET price = price || '{\"tokens_per_credit\": 50}'",
    "UPDATE provider_calls SET usage = usage || '{\"output_tokens\": 4000}'",
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_charge_that_does_not_follow_from_price_and_usage_is_named(damage):
    job_id = a_settled_job(an_account())
    assert wrong() == []

    sql(damage)

    assert wrong() == [f"job {job_id}"]
    assert wrong(changed=[]) == []


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_charge_that_changed_is_looked_at_by_the_next_run(damage):
    job_id = a_settled_job(an_account())
    assert rows(QUEUED) == [(job_id,)]
    assert by_itself() == []
    assert rows(QUEUED) == []

    sql(damage)

    # Until it is mended, each run names it.
    assert [by_itself(), by_itself()] == [[f"job {job_id}"]] * 2
    sql("DELETE FROM audit_changes")


def test_a_call_that_goes_and_a_job_that_comes_by_hand_are_queued_too():
    job_id = a_settled_job(an_account())
    sql("DELETE FROM audit_changes")

    sql("DELETE FROM generation_results")
    sql("DELETE FROM provider_calls")
    gone = rows(QUEUED)
    copied = "jsonb_build_object('id', gen_random_uuid(), 'idempotency_key', 'copy')"
    sql(f"INSERT INTO generation_jobs SELECT (jsonb_populate_record(j, {copied})).* FROM generation_jobs j")

    assert gone == [(job_id,)]
    assert len(rows(QUEUED)) == 2


def test_what_leaves_a_charge_as_it_is_is_not_queued():
    a_generated_job(an_account())
    a_reserved_job(an_account())
    a_settled_job(an_account())
    sql("DELETE FROM audit_changes")

    sql("UPDATE generation_jobs SET next_at = next_at + interval '1 second'")
    sql("UPDATE provider_calls SET asked = asked + 1")

    assert rows(QUEUED) == []


def test_what_is_committed_late_is_found_by_the_next_run():
    job_id = a_settled_job(an_account())
    by_itself()

    with transaction() as session:
        session.execute(text(DAMAGE[0]))
        first = by_itself()

    assert (first, by_itself()) == ([], [f"job {job_id}"])


def test_a_run_that_fails_takes_nothing_off_the_queue():
    a_settled_job(an_account())

    def fail():
        with transaction(isolation="REPEATABLE READ") as session:
            audit.audit_changed(session, now=NOON)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert len(rows(QUEUED)) == 1


def test_the_periodic_audit_freezes_the_account_whose_charge_does_not_follow():
    a_settled_job(an_account())
    other = an_account()
    sql("UPDATE provider_calls SET usage = usage || '{\"output_tokens\": 4000}'")

    assert periodic.audit_books() > 0

    assert the_account(1).frozen_reason == f"audit: {CHARGES_FOLLOW}"
    assert the_account(other).frozen_reason is None


PRICES = [
    {},
    {"output_weight": "3"},
    {"min_credits": "40"},
    {"priced_by": "cost", "markup_percent": "150"},
]


@pytest.mark.parametrize("fields", PRICES, ids=range(len(PRICES)))
@pytest.mark.parametrize("usage", [(1, 1), (100, 400), (25, 999), (25, 2_000)])
def test_every_charge_follows_and_so_does_its_receipt(fields, usage):
    if fields:
        change("set_operation", "clustering", force=True, **fields)

    job_id = a_settled_job(an_account(), usage=Usage(input_tokens=usage[0], output_tokens=usage[1]))

    assert wrong() == []
    with transaction() as session:
        found = receipts.receipt(session, job_id)
    job = the_job(job_id)
    assert found.follows
    assert found.credits_recomputed == job.credits_charged
    assert found.credits_held == found.credits_charged + found.credits_released
    assert f"; {job.credits_reserved:,} held, {found.credits_released:,} released." in found.sentence
