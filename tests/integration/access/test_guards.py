"""Single guards of API keys, one test each: what the database refuses by itself, and what its triggers count."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from billing.access import keys
from billing.errors import KeyCapReached
from billing.jobs import recovery, reserving, submitting
from billing.jobs.admitting import Source
from billing.jobs.requests import parse
from config.database import transaction
from tests.catalogue import a_settled_job, change
from tests.factories import HOUR, MINUTE, NOON, a_queued_job, a_reserved_job, a_user, an_account, moment, rows
from tests.guarding import assert_refused

pytestmark = pytest.mark.usefixtures("db")

ADD = (
    "INSERT INTO api_keys (account_id, name, kind, scopes, key_hash, begins_with, ends_with, created_by{columns}) "
    "SELECT {account}, '', '{kind}', {scopes}, {key_hash}, 'a', 'z', 'x'{values} FROM accounts a"
)


def row(columns="", values="", account="a.id", kind="live", scopes="ARRAY['jobs:read']", key_hash="repeat('a', 64)"):
    return ADD.format(**locals())


REFUSED = [
    (row(key_hash="'a'"),                                       "ck_api_keys_key_hash"),
    (row(key_hash="repeat('A', 64)"),                           "ck_api_keys_key_hash"),
    (row(kind="prod"),                                          "ck_api_keys_kind"),
    (row(scopes="'{}'::text[]"),                                "ck_api_keys_scopes"),
    (row(scopes="ARRAY['admin:read']"),                         "ck_api_keys_scopes"),
    (row(scopes="ARRAY['jobs:read']", account="NULL"),          "ck_api_keys_scopes"),
    (row(", user_id", ", 1", account="NULL", scopes="ARRAY['admin:read']"), "ck_api_keys_user_has_account"),
    (row(", credit_cap", ", 0"),                                "ck_api_keys_credit_cap"),
    (row(", credit_cap", ", 5", account="NULL", scopes="ARRAY['admin:read']"), "ck_api_keys_credit_cap"),
    (row(", credit_cap, cap_of", ", 5, 1"),                     "ck_api_keys_cap_of_one_key"),
    (row(", credits_held", ", -1"),                             "ck_api_keys_counts_not_negative"),
    (row(", credits_used", ", -1"),                             "ck_api_keys_counts_not_negative"),
    (row() + ", generate_series(1, 2)",                         "uq_api_keys_key_hash"),
    (row(", user_id", ", (SELECT max(id) FROM users)", account="(SELECT max(id) FROM accounts)",
         key_hash="lpad(a.id::text, 64, '0')"), "fk_api_keys_user_id"),
]  # fmt: skip


@pytest.mark.parametrize("rule", dict.fromkeys(rule for _, rule in REFUSED))
def test_the_database_refuses_it_by_itself(rule):
    account_id = an_account()
    if rule == "fk_api_keys_user_id":
        a_user(account_id)
        an_account()

    assert_refused(REFUSED, rule)


def a_capped_key(account_id, cap):
    with transaction() as session:
        return keys.create(session, account_id, actor="anna", now=NOON, credit_cap=cap).view.id


def counts(key_id):
    return rows("SELECT credits_held, credits_used FROM api_keys WHERE id = :id", id=key_id)[0]


def submit(account_id, key_id, count=1):
    params = {"prompt": "bread", "max_output_tokens": 1000}
    parsed = [parse({"account_id": account_id, "operation": "clustering", "params": params}) for _ in range(count)]
    with transaction() as session:
        at = moment(session, of=parsed)
        return submitting.submit(session, parsed, at=at, deadline=HOUR, publish_by=MINUTE, source=Source(key_id, "k"))


def test_a_jobs_estimate_is_held_of_its_keys_cap_and_then_its_charge_is_used():
    account_id = an_account()
    key_id = a_capped_key(account_id, 30)
    reserved = a_reserved_job(account_id, api_key_id=key_id)
    estimate = rows("SELECT credits_reserved FROM generation_jobs")[0][0]
    assert counts(key_id) == (estimate, 0)

    a_settled_job(account_id, api_key_id=key_id)
    assert counts(key_id) == (estimate, 5)
    with transaction() as session:
        recovery.release_if_reserved(session, reserved, now=NOON)
    assert counts(key_id) == (0, 5)


def test_a_job_that_the_cap_does_not_cover_is_refused_and_nothing_is_written():
    account_id = an_account()
    key_id = a_capped_key(account_id, 21)
    submit(account_id, key_id)
    held = counts(key_id)[0]
    assert 10 <= held <= 11

    with pytest.raises(KeyCapReached):
        submit(account_id, key_id, count=2)
    assert counts(key_id) == (held, 0)
    assert rows("SELECT count(*) FROM generation_jobs") == [(1,)]


def test_of_two_requests_at_once_the_cap_covers_one():
    account_id = an_account()
    key_id = a_capped_key(account_id, 15)

    def one(_):
        try:
            return submit(account_id, key_id)
        except KeyCapReached:
            return None

    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(one, range(6)))

    assert len([each for each in found if each]) == 1
    assert counts(key_id)[0] <= 15


def test_a_job_whose_price_rose_after_it_was_let_in_is_charged_all_the_same():
    account_id = an_account()
    key_id = a_capped_key(account_id, 12)
    job_id = a_queued_job(account_id, api_key_id=key_id)
    change("set_operation", "clustering", tokens_per_credit="50", force=True)

    with transaction() as session:
        reserving.reserve(session, [job_id], at=moment(session), publish_by=MINUTE)

    assert counts(key_id)[0] == rows("SELECT credits_reserved FROM generation_jobs")[0][0] > 12


def test_keys_without_a_cap_count_nothing_and_keep_nobody_waiting():
    account_id = an_account()
    with transaction() as session:
        key_id = keys.create(session, account_id, actor="anna", now=NOON).view.id

    submit(account_id, key_id)

    assert counts(key_id) == (0, 0)


def test_a_key_that_takes_anothers_place_shares_its_cap():
    account_id = an_account()
    key_id = a_capped_key(account_id, 15)
    with transaction() as session:
        second = keys.rotate(session, key_id, overlap=HOUR, actor="anna", now=NOON).view.id
    with transaction() as session:
        third = keys.rotate(session, second, overlap=HOUR, actor="anna", now=NOON).view

    submit(account_id, second)

    assert counts(second) == (0, 0)
    with pytest.raises(KeyCapReached):
        submit(account_id, third.id)
    assert third.credit_cap == 15
