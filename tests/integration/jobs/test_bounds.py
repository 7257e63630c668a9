"""How many unfinished jobs there may be: more are refused, and a repeat never is."""

from __future__ import annotations

import pytest

from billing.catalog import changing
from billing.errors import TooManyOpenJobs
from billing.jobs import requests, settling, submitting
from config.database import transaction
from tests.factories import HOUR, MINUTE, NOON, a_generated_job, a_queued_job, an_account, moment, rows

pytestmark = pytest.mark.usefixtures("db")


def bound(**fields):
    with transaction() as session:
        changing.set_defaults(session, fields)


def submit(account_id, count):
    data = {"account_id": account_id, "operation": "clustering", "params": {"prompt": "bread", "max_output_tokens": 16}}
    with transaction() as session:
        parsed = [requests.parse(data)] * count
        return submitting.submit(session, parsed, at=moment(session, of=parsed), deadline=HOUR, publish_by=MINUTE)


def jobs():
    return rows("SELECT count(*) FROM generation_jobs")[0][0]


def test_an_account_may_have_as_many_unfinished_jobs_as_its_bound_and_no_more():
    bound(max_open_jobs_per_account="3")
    crowded, other = an_account(), an_account()
    submit(crowded, 3)

    with pytest.raises(TooManyOpenJobs, match="may have 3 unfinished jobs; one more would exceed that"):
        submit(crowded, 1)

    assert jobs() == 3
    assert len(submit(other, 3)) == 3


def test_a_batch_that_does_not_fit_as_a_whole_adds_nothing():
    bound(max_open_jobs_per_account="3")
    account_id = an_account()
    submit(account_id, 2)

    with pytest.raises(TooManyOpenJobs) as caught:
        submit(account_id, 2)

    assert caught.value.facts() == {"asked": 2, "limit": 3}
    assert jobs() == 2


def test_all_accounts_together_have_a_bound_too():
    bound(max_open_jobs="4")
    submit(an_account(), 3)

    with pytest.raises(TooManyOpenJobs, match="This installation may have 4"):
        submit(an_account(), 2)

    assert jobs() == 3


def test_a_finished_job_makes_room_for_another():
    bound(max_open_jobs_per_account="1")
    account_id = an_account()
    job_id = a_generated_job(account_id)
    with transaction() as session:
        settling.settle(session, [job_id], now=NOON)

    assert len(submit(account_id, 1)) == 1


def test_a_repeated_request_is_never_refused():
    bound(max_open_jobs_per_account="1")
    account_id = an_account()

    first = a_queued_job(account_id, idempotency_key="order-1")

    assert a_queued_job(account_id, idempotency_key="order-1") == first
