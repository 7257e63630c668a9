"""Images that their model makes by calls of their own: one job, one charge, and what is left when a call fails."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from billing.catalog.usage import Usage
from billing.jobs import calling, recovery, settling, unknown_calls
from billing.jobs.calling import Refusal
from billing.jobs.policy import Failure, Means, Outcome, RetryBudget, Verdict
from billing.jobs.recovery import Patience, Recovered
from billing.jobs.states import State
from billing.jobs.unknown_calls import Resolution
from config.database import transaction
from tests.catalogue import TOKEN_IMAGE, change
from tests.factories import (
    HOUR,
    MINUTE,
    NOON,
    a_claim,
    a_delivery,
    a_reserved_job,
    an_account,
    rows,
    the_account,
    the_job,
)
from tests.guarding import findings

IMAGE_USD, IMAGE_CREDITS = Decimal("0.04"), 5
"""What dall-e-3, which makes one image a call, costs by the image."""
PATIENCE = Patience(republish_after=MINUTE, unknown_wait=10 * MINUTE)
BUDGET = RetryBudget(attempts=2, wait_max=MINUTE)


@pytest.fixture(autouse=True)
def _the_books_balance(db):
    yield
    assert findings() == []


@pytest.fixture
def account_id(db):
    return an_account(1000)


@pytest.fixture
def job_id(account_id):
    """A job for three images of a model that makes one a call."""
    return a_reserved_job(account_id, "image_generation", params={"prompt": "A fox.", "n": 3})


def deliver(claim, number=1, *, now=NOON):
    made = a_delivery(Usage(images=1), images=[{"url": f"https://images.example/{number}.png"}])
    with transaction() as session:
        return calling.succeed(session, claim, made, now=now, publish_by=MINUTE)


def delivered(job_id, parts=1):
    """So many parts of the job, delivered one after the other."""
    for number in range(parts):
        deliver(a_claim(job_id), number + 1)


def fail(claim, failure, *, reason=None):
    with transaction() as session:
        refusal = Refusal(failure, reason=reason)
        return calling.fail(session, claim, refusal, now=NOON, budget=BUDGET, look_after=MINUTE)


def settle(job_id):
    with transaction() as session:
        return settling.settle(session, [job_id], now=NOON)


def recover(now):
    done = Recovered()
    for state in recovery.states():
        with transaction() as session:
            recovery.recover(session, state, done, now=now, patience=PATIENCE)
    return done


def calls(job_id):
    return rows(
        "SELECT attempt, outcome, exposure, cost_usd FROM provider_calls WHERE job_id = :job ORDER BY attempt",
        job=job_id,
    )


def result(job_id):
    (found,) = rows("SELECT content, finish_reason FROM generation_results WHERE job_id = :job", job=job_id)
    return [image["url"][-5:] for image in found[0]["images"]], found[1]


def paid(account_id):
    account = the_account(account_id)
    return 1000 - account.balance, account.reserved


def test_each_part_is_a_call_of_its_own_and_the_job_is_charged_once(account_id, job_id):
    states = [deliver(a_claim(job_id), number) for number in (1, 2, 3)]

    assert states == [State.RESERVED, State.RESERVED, State.GENERATED]
    assert settle(job_id) == [job_id]
    assert paid(account_id) == (3 * IMAGE_CREDITS, 0)
    assert rows("SELECT amount FROM credit_transactions WHERE job_id = :job", job=job_id) == [(-3 * IMAGE_CREDITS,)]
    assert rows("SELECT images, cost_usd FROM credit_usage_logs") == [(3, 3 * IMAGE_USD)]
    assert calls(job_id) == [(number, "succeeded", False, IMAGE_USD) for number in (1, 2, 3)]
    assert result(job_id) == (["1.png", "2.png", "3.png"], "stop")


def test_between_two_parts_the_whole_hold_stays(account_id, job_id):
    delivered(job_id, 2)

    assert (the_job(job_id).state, the_job(job_id).parts_delivered) == ("reserved", 2)
    assert paid(account_id) == (0, 3 * IMAGE_CREDITS)


def test_each_part_asks_for_its_images_under_a_key_of_its_own_and_all_attempts_at_it_carry_that_key(job_id):
    first = a_claim(job_id)
    fail(first, Failure.RATE_LIMITED)
    again = a_claim(job_id, again=1)
    deliver(again)
    second = a_claim(job_id)

    keys = [f"creditmill-{job_id}", f"creditmill-{job_id}", f"creditmill-{job_id}-2"]
    assert [claim.idempotency_key for claim in (first, again, second)] == keys
    assert [claim.images for claim in (first, again, second)] == [1, 1, 1]
    with transaction() as session:
        calling.postpone(session, second, until=NOON)


def test_a_repeated_report_of_a_part_counts_once(account_id, job_id):
    claim = a_claim(job_id)

    assert (deliver(claim), deliver(claim)) == (State.RESERVED, State.RESERVED)

    assert (the_job(job_id).parts_delivered, result(job_id)) == (1, (["1.png"], "stop"))


def test_how_often_a_part_is_tried_does_not_count_for_the_next(job_id):
    for number in (1, 3):
        assert fail(a_claim(job_id, again=number - 1 or None), Failure.RATE_LIMITED) is Verdict.RETRY
        deliver(a_claim(job_id, again=number))

    assert (the_job(job_id).attempts, the_job(job_id).parts_delivered) == (4, 2)


# What ends a job before its last part, and the reason that the job keeps.
REFUSED = [
    (Failure.CONTENT_POLICY,  "content_policy"),
    (Failure.BAD_REQUEST,     "bad_request"),
    (Failure.EMPTY_ANSWER,    "empty_answer"),
    (Failure.QUOTA_EXHAUSTED, "quota_exhausted"),
]  # fmt: skip


@pytest.mark.parametrize(("failure", "code"), REFUSED)
def test_when_a_later_part_is_refused_what_was_delivered_is_charged(account_id, job_id, failure, code):
    delivered(job_id, 2)

    assert fail(a_claim(job_id), failure) is Verdict.CONCLUDE

    assert settle(job_id) == [job_id]
    assert (the_job(job_id).state, the_job(job_id).error_code) == ("settled", code)
    assert paid(account_id) == (2 * IMAGE_CREDITS, 0)
    assert result(job_id) == (["1.png", "2.png"], "fewer_images")
    assert the_job(job_id).cost_usd == 2 * IMAGE_USD


def test_when_a_later_part_is_tried_in_vain_its_own_tries_are_told(job_id):
    delivered(job_id)
    assert fail(a_claim(job_id), Failure.OVERLOADED) is Verdict.RETRY

    assert fail(a_claim(job_id, again=2), Failure.OVERLOADED) is Verdict.CONCLUDE

    told = "1 of 3 calls delivered their part, and these are charged. The provider is overloaded. It was tried 2 times."
    assert (the_job(job_id).error_code, the_job(job_id).error_message) == ("retries_exhausted", told)


def test_when_the_first_part_is_refused_nothing_is_charged(account_id, job_id):
    assert fail(a_claim(job_id), Failure.CONTENT_POLICY) is Verdict.REFUND

    with transaction() as session:
        assert settling.refund(session, [job_id], now=NOON) == [job_id]
    assert paid(account_id) == (0, 0)


def test_a_later_part_of_unknown_outcome_keeps_the_hold_and_is_our_exposure_in_the_end(account_id, job_id):
    delivered(job_id)
    assert fail(a_claim(job_id), Failure.TIMED_OUT) is Verdict.UNKNOWN

    assert recover(NOON + MINUTE).asked == [job_id]
    assert (the_job(job_id).state, paid(account_id)) == ("unknown", (0, 3 * IMAGE_CREDITS))
    done = recover(NOON + 10 * MINUTE)

    assert (done.settled, done.resolved) == ([job_id], [job_id])
    assert settle(job_id) == [job_id]
    assert paid(account_id) == (IMAGE_CREDITS, 0)
    assert calls(job_id) == [(1, "succeeded", False, IMAGE_USD), (2, "unknown", True, IMAGE_USD)]
    assert the_job(job_id).error_code == "outcome_unknown"


def test_a_part_that_is_delivered_after_the_job_was_concluded_is_our_exposure(account_id, job_id):
    delivered(job_id)
    late = a_claim(job_id)
    fail(late, Failure.TIMED_OUT)
    recover(NOON + MINUTE)
    recover(NOON + 10 * MINUTE)

    assert deliver(late, 2) is None

    assert settle(job_id) == [job_id]
    assert paid(account_id) == (IMAGE_CREDITS, 0)
    assert calls(job_id) == [(1, "succeeded", False, IMAGE_USD), (2, "succeeded", True, IMAGE_USD)]
    assert result(job_id) == (["1.png"], "fewer_images")


def test_a_part_whose_worker_was_lost_is_unknown_and_the_parts_before_it_stay(job_id):
    delivered(job_id)
    a_claim(job_id)

    assert recover(NOON + MINUTE).unknown == [job_id]

    assert (the_job(job_id).state, the_job(job_id).parts_delivered) == ("unknown", 1)


def test_an_unknown_part_that_the_provider_delivered_after_all_leads_to_the_next(job_id):
    delivered(job_id)
    claim = a_claim(job_id)
    fail(claim, Failure.TIMED_OUT)

    with transaction() as session:
        found = a_delivery(Usage(images=1), images=[{"url": "https://images.example/2.png"}])
        job = unknown_calls.resolve_by_answer(session, claim, found, Means.LOOK_UP, now=NOON, publish_by=MINUTE)

    assert job.state == "reserved"
    assert (the_job(job_id).parts_delivered, the_job(job_id).error_code) == (2, None)
    assert a_claim(job_id).idempotency_key == f"creditmill-{job_id}-3"


def test_an_unknown_part_that_was_refused_concludes_the_job(account_id, job_id):
    delivered(job_id)
    claim = a_claim(job_id)
    fail(claim, Failure.TIMED_OUT)

    with transaction() as session:
        refusal = Refusal(Failure.CONTENT_POLICY)
        job = unknown_calls.resolve_by_answer(session, claim, refusal, Means.LOOK_UP, now=NOON, publish_by=MINUTE)

    assert job.state == "generated"
    assert settle(job_id) == [job_id]
    assert paid(account_id) == (IMAGE_CREDITS, 0)


# How an operator resolves the second of three parts: what is charged then, and what it costs us.
RESOLVED = [
    (Outcome.EXECUTED,     IMAGE_CREDITS, 2 * IMAGE_USD, "result_lost"),
    (Outcome.NOT_EXECUTED, IMAGE_CREDITS, IMAGE_USD,     "not_executed"),
]  # fmt: skip


@pytest.mark.parametrize(("outcome", "credits", "usd", "code"), RESOLVED)
def test_an_unknown_part_that_is_resolved_by_hand_concludes_the_job(account_id, job_id, outcome, credits, usd, code):
    delivered(job_id)
    fail(a_claim(job_id), Failure.TIMED_OUT)

    with transaction() as session:
        said = Resolution(outcome, "Ticket 4711", "anna")
        assert unknown_calls.resolve(session, job_id, said, now=NOON, publish_by=MINUTE).state == "generated"

    assert settle(job_id) == [job_id]
    assert paid(account_id) == (credits, 0)
    assert (the_job(job_id).cost_usd, the_job(job_id).error_code) == (usd, code)


def test_a_part_that_is_delivered_by_hand_without_a_list_of_images_keeps_what_came_before(job_id):
    delivered(job_id)
    fail(a_claim(job_id), Failure.TIMED_OUT)

    with transaction() as session:
        said = Resolution(Outcome.DELIVERED, "Ticket 4711", "anna", Usage(images=1), {"note": "by mail"})
        assert unknown_calls.resolve(session, job_id, said, now=NOON, publish_by=MINUTE).state == "reserved"

    assert result(job_id)[0] == ["1.png"]


def test_past_its_deadline_a_job_between_two_parts_is_charged_for_those_it_has(account_id, job_id):
    delivered(job_id)

    done = recover(NOON + HOUR)

    assert (done.settled, done.expired) == ([job_id], [job_id])
    assert settle(job_id) == [job_id]
    assert (paid(account_id), the_job(job_id).error_code) == ((IMAGE_CREDITS, 0), "expired")


def test_a_job_that_is_cancelled_between_two_parts_is_charged_for_those_it_has(account_id, job_id):
    delivered(job_id)

    with transaction() as session:
        assert recovery.release_if_reserved(session, job_id, now=NOON) == [job_id]

    assert settle(job_id) == [job_id]
    assert (paid(account_id), the_job(job_id).error_code) == ((IMAGE_CREDITS, 0), "cancelled")


def test_a_job_that_kills_its_workers_between_two_parts_is_refunded_and_the_parts_are_our_cost(account_id, job_id):
    delivered(job_id, 2)

    with transaction() as session:
        assert recovery.give_up(session, [job_id], now=NOON) == [job_id]

    assert (the_job(job_id).state, paid(account_id)) == ("refunded", (0, 0))
    assert [exposure for _, _, exposure, _ in calls(job_id)] == [True, True]


def test_a_job_that_lost_its_message_between_two_parts_is_called_again(job_id):
    delivered(job_id)

    assert recover(NOON + MINUTE).called == [job_id]


def test_an_image_model_that_bills_by_tokens_is_held_the_prompt_for_each_call(account_id):
    change("add_model", "gpt-image-1", **{**TOKEN_IMAGE, "images_per_call": "2"})
    params = {"prompt": "Two dogs.", "n": 3}
    job_id = a_reserved_job(account_id, "image_generation", model="gpt-image-1", params=params)

    # 57 tokens of the prompt and the platform's style for each of two calls, and 6,240 for each of three images, at 50
    # a credit.
    assert the_job(job_id).work == {
        "input_tokens": 114, "max_output_tokens": 18_720, "images": 3, "images_per_call": 2,
    }  # fmt: skip
    assert the_job(job_id).credits_reserved == 377

    first = a_claim(job_id)
    assert (first.images, first.max_output_tokens) == (2, 12_480)
    used = Usage(input_tokens=20, image_output_tokens=2112, images=2)
    with transaction() as session:
        calling.succeed(session, first, a_delivery(used, images=[{}, {}]), now=NOON, publish_by=MINUTE)
    last = a_claim(job_id)
    assert (last.images, last.max_output_tokens) == (1, 6_240)
    with transaction() as session:
        used = replace(used, image_output_tokens=1056, images=1)
        calling.succeed(session, last, a_delivery(used, images=[{}]), now=NOON, publish_by=MINUTE)

    assert settle(job_id) == [job_id]
    # 40 + 3,168 tokens at 50 a credit.
    assert paid(account_id) == (65, 0)


def test_without_a_bound_one_call_makes_all_images(account_id):
    params = {"prompt": "A fox.", "n": 3}
    job_id = a_reserved_job(account_id, "image_generation", model="runware:97@1", params=params)

    claim = a_claim(job_id)

    assert claim.images == 3
    assert deliver(claim) is State.GENERATED
