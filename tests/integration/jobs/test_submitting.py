"""Submitting requests: checked whole, written once, and refused in one sentence with nothing half-written."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from uuid import uuid4

import pytest

from billing.catalog import changing, current
from billing.errors import BillingError, IdempotencyConflict, InvalidRequest, NotCancellable, UnknownThing
from billing.jobs import bounds, requests, submitting
from billing.ledger import accounts, by_hand
from config.database import single_statements, transaction, utc_now
from tests.catalogue import sql
from tests.factories import (
    HOUR,
    MINUTE,
    NOON,
    a_queued_job,
    a_reserved_job,
    a_user,
    an_account,
    moment,
    rows,
    the_account,
    the_job,
)

pytestmark = pytest.mark.usefixtures("db")
PLANTED = "planted-prompt"


def submit(*data):
    with transaction() as session:
        parsed = [requests.parse(each) for each in data]
        return submitting.submit(session, parsed, at=moment(session, of=parsed), deadline=HOUR, publish_by=MINUTE)


def a_request(account_id, operation="clustering", **given):
    return {"account_id": account_id, "operation": operation, "params": {"prompt": PLANTED}} | given


def test_the_same_key_and_body_is_the_same_job():
    request = a_request(an_account(), idempotency_key="k")

    (first,), (second,) = submit(request), submit(request)

    assert first.job_id == second.job_id
    assert (first.created, second.created) == (True, False)
    assert rows("SELECT count(*) FROM generation_jobs") == [(1,)]


def test_the_same_key_with_another_body_is_a_conflict():
    request = a_request(an_account(), idempotency_key="k")
    submit(request)

    with pytest.raises(IdempotencyConflict):
        submit(request | {"params": {"prompt": "another"}})


@pytest.mark.parametrize("spellings", [(1, 1.0), (1.0, 1), (0, -0.0)])
def test_equal_numbers_are_the_same_request(spellings):
    request = a_request(an_account(), model="gpt-4o", idempotency_key="k")
    one, other = ({**request, "params": {"prompt": PLANTED, "temperature": each}} for each in spellings)

    (first,), (second,) = submit(one), submit(other)

    assert (first.job_id, first.created, second.created) == (second.job_id, True, False)


@pytest.mark.parametrize("spelling", ["1", "1.0", "0", "0.0", "-0.0", "0.7"])
def test_a_request_of_an_earlier_version_is_still_the_same(spelling):
    request = a_request(an_account(), model="gpt-4o", idempotency_key="k")
    request["params"]["temperature"] = json.loads(spelling)
    (first,) = submit(request)
    canonical = (
        f'{{"model":"gpt-4o","operation":"clustering","params":{{"prompt":"{PLANTED}","temperature":{spelling}}},'
        '"user_id":null}'
    )
    sql("UPDATE generation_jobs SET request_hash = encode(sha256(convert_to(:text, 'UTF8')), 'hex')", text=canonical)

    (second,) = submit(request)

    assert (second.job_id, second.created) == (first.job_id, False)
    with pytest.raises(IdempotencyConflict):
        submit({**request, "params": {"prompt": PLANTED, "temperature": 0.5}})


def test_two_accounts_may_use_the_same_key():
    first, second = an_account(), an_account()

    assert submit(a_request(first, idempotency_key="k")) != submit(a_request(second, idempotency_key="k"))


def test_a_job_id_of_another_request_is_a_conflict_even_across_accounts():
    job_id = str(uuid4())
    submit(a_request(an_account(), job_id=job_id))

    with pytest.raises(IdempotencyConflict):
        submit(a_request(an_account(), job_id=job_id))
    assert rows("SELECT count(*) FROM generation_jobs") == [(1,)]


def test_a_repeat_within_one_batch_is_one_job():
    request = a_request(an_account(), idempotency_key="k")

    first, second = submit(request, request)

    assert first.job_id == second.job_id
    assert [first.created, second.created].count(True) == 1


def test_one_key_submitted_by_eight_at_once_is_one_job():
    request = a_request(an_account(), idempotency_key="k")

    with ThreadPoolExecutor(8) as pool:
        submitted = [job for (job,) in pool.map(lambda _: submit(request), range(8))]

    assert len({job.job_id for job in submitted}) == 1
    assert [job.created for job in submitted].count(True) == 1


def test_one_bad_request_leaves_nothing_of_its_batch():
    account_id = an_account()

    with pytest.raises(UnknownThing):
        submit(a_request(account_id), a_request(account_id, "juggling"))
    assert rows("SELECT count(*) FROM generation_jobs") == [(0,)]


TEXT, IMAGE = "clustering", "image_generation"


@pytest.mark.parametrize(
    ("operation", "params", "model", "code"),
    [
        ("juggling",   {},                                    None,           "unknown_operation"),
        (TEXT,         {},                                    "gpt-9",        "unknown_model"),
        (TEXT,         {},                                    "dall-e-3",     "model_type_mismatch"),
        (IMAGE,        {},                                    "gpt-4o",       "model_type_mismatch"),
        (TEXT,         {"max_output_tokens": -1},             None,           "invalid_params"),
        (TEXT,         {"max_output_tokens": 2**70},          None,           "invalid_params"),
        (TEXT,         {"max_output_tokens": 200_000},        None,           "invalid_params"),
        (TEXT,         {"max_output_tokens": "500"},          None,           "invalid_params"),
        (TEXT,         {"temperature": 0.5},                  "gpt-5.1",      "invalid_params"),
        (TEXT,         {"messages": [{"role": "user", "content": "x"}]}, None, "invalid_params"),
        (TEXT,         {"surprise": 1},                       None,           "invalid_params"),
        (TEXT,         {"prompt": "1 2 3 4 5 " * 60_000},     "gpt-4o",       "input_too_long"),
        (IMAGE,        {"n": 0},                              None,           "invalid_params"),
        (IMAGE,        {"n": 11},                             None,           "invalid_params"),
        (IMAGE,        {"size": "big"},                       None,           "invalid_params"),
        (IMAGE,        {"size": "999x999"},                   None,           "invalid_size"),
        (IMAGE,        {"quality": "ultra"},                  None,           "invalid_quality"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_in_one_sentence(operation, params, model, code):
    request = a_request(an_account(), operation, model=model)
    request["params"] = request["params"] | params

    with pytest.raises(BillingError) as refused:
        submit(request)

    assert refused.value.code == code
    assert PLANTED not in refused.value.message
    assert "\n" not in refused.value.message
    assert len(refused.value.message) < 300
    assert rows("SELECT count(*) FROM generation_jobs") == [(0,)]


@pytest.mark.parametrize("account_id", [1, 2**62])
def test_an_unknown_account_is_refused(account_id):
    with pytest.raises(UnknownThing, match="There is no account"):
        submit(a_request(account_id))


def test_a_user_of_another_account_is_refused():
    with pytest.raises(UnknownThing, match="There is no user"):
        submit(a_request(an_account(), user_id=1))


def test_a_queued_job_can_be_cancelled_and_a_repeat_is_quiet():
    job_id = a_queued_job(an_account())

    for _ in range(2):
        with transaction() as session:
            submitting.cancel(session, job_id, now=NOON)

    assert the_job(job_id).state == "cancelled"


def test_a_reserved_job_is_not_cancelled_as_if_it_held_nothing():
    account_id = an_account()
    job_id = a_reserved_job(account_id)

    with pytest.raises(NotCancellable), transaction() as session:
        submitting.cancel(session, job_id, now=NOON)
    assert the_account(account_id).reserved == 11


def test_a_top_up_with_one_key_adds_its_credits_once():
    account_id = an_account(0)

    def top_up(credits):
        with transaction() as session:
            row = by_hand.top_up(session, account_id, credits, idempotency_key="k", description="x", now=NOON)
            return row.id

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(top_up, [50] * 8))) == 1
    assert the_account(account_id).balance == 50
    with pytest.raises(IdempotencyConflict):
        top_up(51)


@pytest.mark.parametrize("credits", [0, -5, 2**53 + 1, 2**70])
def test_an_impossible_top_up_changes_nothing(credits):
    account_id = an_account(10)

    with pytest.raises(InvalidRequest), transaction() as session:
        by_hand.top_up(session, account_id, credits, idempotency_key="k", description="x", now=NOON)
    assert the_account(account_id).balance == 10


@pytest.mark.parametrize(
    ("name", "zone"),
    [("", "UTC"), ("  ", "UTC"), ("a\x00b", "UTC"), ("x" * 201, "UTC"), ("a", "Mars"), ("a", "../etc/passwd")],
)
def test_an_impossible_account_is_refused(name, zone):
    with pytest.raises(InvalidRequest), transaction() as session:
        accounts.create(session, name, time_zone=zone)
    assert rows("SELECT count(*) FROM accounts") == [(0,)]


def at_once(data, **changed):
    """Submit by one statement, on what this process keeps of the catalogue."""
    at = replace(current.kept(utc_now()), **changed)
    with single_statements() as connection:
        return submitting.submit_at_once(connection, requests.parse(data), at=at, deadline=HOUR, publish_by=MINUTE)


@pytest.fixture
def known(db):
    """The catalogue is kept."""
    submit_now(a_request(an_account()))


def submit_now(data):
    with transaction() as session:
        parsed = [requests.parse(data)]
        return submitting.submit(
            session, parsed, at=moment(session, utc_now(), of=parsed), deadline=HOUR, publish_by=MINUTE
        )[0]


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("given", [{}, {"params": {"prompt": 'a\\b "c" ü', "related_object_type": "page"}}])
def test_one_statement_writes_the_same_job_as_a_transaction(given):
    account_id = an_account()
    request = a_request(account_id, user_id=a_user(account_id), **given)
    carefully = submit_now(request)

    job = at_once(request)

    assert (job.kind, job.state, job.created) == (carefully.kind, carefully.state, True)
    own = {"id", "idempotency_key", "created_at", "next_at", "deadline_at"}
    first, second = (
        {name: value for name, value in vars(the_job(each.job_id)).items() if name not in own and name[0] != "_"}
        for each in (carefully, job)
    )
    assert first == second
    made = the_job(job.job_id)
    assert (made.next_at - made.created_at, made.deadline_at - made.created_at) == (MINUTE, HOUR)
    assert abs(made.created_at - utc_now()) < HOUR


@pytest.mark.usefixtures("known")
def test_one_statement_writes_nothing_by_a_catalogue_that_has_changed():
    kept = current.kept(utc_now())
    sql("UPDATE credit_cost_config SET is_active = false WHERE operation_type = 'clustering'")

    assert current.kept(utc_now()).version == kept.version
    assert at_once(a_request(an_account())) is None

    assert rows("SELECT count(*) FROM generation_jobs") == [(1,)]


@pytest.mark.usefixtures("known")
def test_one_statement_writes_nothing_on_another_day():
    assert at_once(a_request(an_account()), now=utc_now() - 24 * HOUR) is None

    assert rows("SELECT count(*) FROM generation_jobs") == [(1,)]


@pytest.mark.usefixtures("known")
def test_one_statement_leaves_whatever_needs_a_sentence_to_a_closer_look():
    mine, other = an_account(), an_account()
    job = at_once(a_request(mine, idempotency_key="k"))

    for request in (
        a_request(999_999),
        a_request(mine, user_id=a_user(other)),
        a_request(mine, idempotency_key="k"),
        a_request(other, job_id=str(job.job_id)),
        a_request(mine, operation="unknown"),
        a_request(mine, params={"prompt": PLANTED, "max_output_tokens": 10_000_000}),
    ):
        assert at_once(request) is None

    assert rows("SELECT count(*) FROM generation_jobs") == [(2,)]


def test_one_statement_counts_what_its_account_has_open():
    with transaction() as session:
        changing.set_defaults(session, {"max_open_jobs_per_account": "3"})
    account_id = an_account()
    submit_now(a_request(an_account()))

    made = [at_once(a_request(account_id)) for _ in range(4)]

    assert [job is not None for job in made] == [True, True, True, False]


def test_one_statement_counts_what_all_have_open(known):
    with transaction() as session:
        changing.set_defaults(session, {"max_open_jobs": "3"})
    submit_now(a_request(an_account()))
    bounds._rooms.clear()

    made = [at_once(a_request(an_account())) for _ in range(2)]

    assert [job is not None for job in made] == [True, False]
