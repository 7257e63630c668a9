"""Reserve, settle, refund against real PostgreSQL: what is held, what is charged, and that repeats change nothing."""

from __future__ import annotations

from decimal import Decimal

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from billing.catalog.pricing import Usage
from billing.jobs import calling, reserving, settling, unknown_calls
from billing.jobs.calling import Refusal
from billing.jobs.policy import Failure, RetryBudget, Verdict
from billing.reports import audit
from config.database import transaction
from tests.factories import (
    HOUR,
    MINUTE,
    NOON,
    a_claim,
    a_delivery,
    a_generated_job,
    a_queued_job,
    a_reserved_job,
    a_subscription,
    an_account,
    rows,
    the_account,
    the_job,
)

pytestmark = pytest.mark.usefixtures("db")
BUDGET = RetryBudget(attempts=2, wait_max=MINUTE)


@pytest.fixture(autouse=True)
def _the_books_balance(db):
    """Whatever a test does, the books balance afterwards."""
    yield
    with transaction(isolation="REPEATABLE READ", read_only=True) as session:
        assert audit.audit(session, now=NOON) == []


def reserve(*job_ids):
    with transaction() as session:
        return reserving.reserve(session, job_ids, now=NOON, publish_by=MINUTE)


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


def test_a_reservation_holds_the_estimate():
    account_id = an_account(1000)
    job_id = a_queued_job(account_id)

    assert reserve(job_id) == [job_id]

    job = the_job(job_id)
    # "bread" and its framing are 25 tokens at most; with 1,000 of output that is 11 credits of 100 tokens.
    assert (job.state, job.credits_reserved, job.credits_estimated) == ("reserved", 11, 11)
    assert books(account_id) == (1000, 11)


def test_reserving_twice_holds_once_and_passes_the_job_on_again():
    account_id = an_account(1000)
    job_id = a_queued_job(account_id)

    assert [reserve(job_id), reserve(job_id)] == [[job_id], [job_id]]
    assert books(account_id) == (1000, 11)


def test_a_job_that_cannot_be_paid_is_rejected_with_its_shortfall_and_holds_nothing():
    account_id = an_account(10)
    job_id = a_queued_job(account_id)

    assert reserve(job_id) == []

    job = the_job(job_id)
    assert (job.state, job.error_code) == ("rejected", "insufficient_credits")
    assert job.error_message == f"Account {account_id} needs 11 credits and has 10 available: 1 short."
    assert books(account_id) == (10, 0)


def test_the_refusal_says_what_is_held_by_open_jobs():
    account_id = an_account(20)
    first, second = a_queued_job(account_id), a_queued_job(account_id)

    assert len(reserve(first, second)) == 1
    (refused,) = [job for job in (the_job(first), the_job(second)) if job.state == "rejected"]
    assert "has 9 available (11 more are held by open jobs): 2 short" in refused.error_message


def test_a_batch_is_served_in_the_order_in_which_it_came():
    account_id = an_account(25)
    jobs = [a_queued_job(account_id, now=NOON + n * MINUTE) for n in range(4)]

    assert sorted(reserve(*reversed(jobs))) == sorted(jobs[:2])
    assert books(account_id) == (25, 22)


def test_check_rejects_what_clearly_cannot_be_paid_and_holds_nothing():
    rich, poor = an_account(1000), an_account(1)
    jobs = a_queued_job(rich), a_queued_job(poor)

    with transaction() as session:
        assert reserving.check(session, jobs, now=NOON) == [jobs[0]]

    assert [the_job(job).state for job in jobs] == ["queued", "rejected"]
    assert books(rich) == (1000, 0)


def test_check_sees_a_plan_limit_and_writes_nothing():
    account_id = an_account(10_000)
    a_subscription(account_id, {"content_ideas": 0, "image_prompts": 1})
    refused, fits = a_queued_job(account_id, "idea_generation"), a_queued_job(account_id, "image_prompt_extraction")

    with transaction() as session:
        assert reserving.check(session, [refused, fits], now=NOON) == [fits]

    assert the_job(refused).error_code == "plan_limit_reached"
    assert rows("SELECT count(*) FROM plan_limit_usage") == [(0,)]


def test_a_frozen_account_starts_no_new_job():
    account_id = an_account(1000)
    with transaction() as session:
        session.execute(text("UPDATE accounts SET frozen_reason = 'audit' WHERE id = :a"), {"a": account_id})
    job_id = a_queued_job(account_id)

    assert reserve(job_id) == []
    assert the_job(job_id).error_code == "account_frozen"


def test_a_price_that_was_taken_away_rejects_the_job():
    account_id = an_account(1000)
    job_id = a_queued_job(account_id, "image_generation")
    with transaction() as session:
        session.execute(text("DELETE FROM image_prices WHERE model_name = 'dall-e-3'"))

    assert reserve(job_id) == []
    assert the_job(job_id).error_code == "price_not_configured"


def test_settling_charges_the_usage_and_releases_the_rest():
    account_id = an_account(1000)
    job_id = a_generated_job(account_id, usage=Usage(input_tokens=100, output_tokens=401))

    assert settle(job_id) == [job_id]

    job = the_job(job_id)
    assert (job.state, job.credits_charged, job.credits_overrun) == ("settled", 6, 0)
    assert books(account_id) == (994, 0)
    assert ledger(account_id) == [("purchase", 1000, 1000), ("deduction", -6, 994)]


def test_settling_twice_charges_once():
    account_id = an_account(1000)
    job_id = a_generated_job(account_id)

    assert [settle(job_id), settle(job_id)] == [[job_id], []]
    assert books(account_id) == (995, 0)


def test_a_usage_log_keeps_tokens_cost_and_revenue():
    account_id = an_account(1000)
    usage = Usage(input_tokens=100, cached_input_tokens=50, output_tokens=200, reasoning_tokens=50)
    job_id = a_generated_job(
        account_id, usage=usage, params={"prompt": "x", "related_object_type": "task", "related_object_id": 7}
    )

    settle(job_id)

    logged = rows(
        "SELECT credits_used, tokens_input, tokens_input_cached, tokens_output, tokens_reasoning, images, cost_usd, "
        "revenue_usd, model_used, related_object_type, related_object_id FROM credit_usage_logs"
    )
    # gpt-5.1: 100 x 1.25 + 50 x 0.125 + 250 x 10 dollars per million tokens.
    assert logged == [(4, 100, 50, 200, 50, 0, Decimal("0.0026312500"), Decimal("0.0400000000"), "gpt-5.1", "task", 7)]


def test_images_are_charged_as_delivered_and_cost_what_was_delivered():
    account_id = an_account(1000)
    params = {"prompt": "a fox", "n": 4, "size": "1024x1792", "quality": "hd"}
    job_id = a_generated_job(account_id, "image_generation", params=params, usage=Usage(images=3))
    assert books(account_id) == (1000, 60)

    settle(job_id)

    assert books(account_id) == (955, 0)
    assert the_job(job_id).cost_usd == Decimal("0.36")


def test_usage_beyond_the_reservation_is_the_platforms_loss():
    account_id = an_account(1000)
    job_id = a_generated_job(account_id, usage=Usage(output_tokens=5000))

    settle(job_id)

    job = the_job(job_id)
    assert (job.credits_reserved, job.credits_charged, job.credits_overrun) == (11, 11, 39)
    assert books(account_id) == (989, 0)


def test_a_later_price_change_does_not_touch_a_reserved_job():
    account_id = an_account(1000)
    job_id = a_generated_job(account_id)
    with transaction() as session:
        session.execute(text("UPDATE credit_cost_config SET tokens_per_credit = 1, min_credits = 500"))

    settle(job_id)

    assert the_job(job_id).credits_charged == 5


@pytest.mark.parametrize("failure", [Failure.CONTENT_POLICY, Failure.BAD_REQUEST, Failure.BAD_CREDENTIALS])
def test_a_refusal_is_refunded_in_full_and_charged_nothing(failure):
    account_id = an_account(1000)
    job_id = a_reserved_job(account_id)

    assert fail(a_claim(job_id), failure) is Verdict.REFUND
    assert [refund(job_id), refund(job_id)] == [[job_id], []]

    job = the_job(job_id)
    assert (job.state, job.error_code, job.credits_charged) == ("refunded", failure.value, None)
    assert books(account_id) == (1000, 0)
    assert ledger(account_id) == [("purchase", 1000, 1000)]


def test_a_refusal_after_paid_work_is_counted_as_the_platforms_cost():
    account_id = an_account(1000)
    job_id = a_reserved_job(account_id)

    fail(a_claim(job_id), Failure.CONTENT_POLICY, usage=Usage(output_tokens=100))
    refund(job_id)

    assert the_job(job_id).cost_usd == Decimal("0.001")
    assert rows("SELECT outcome, exposure, cost_usd FROM provider_calls") == [
        ("failed", False, Decimal("0.0010000000"))
    ]


def test_a_refusal_after_paid_work_that_is_recorded_twice_is_counted_once():
    job_id = a_reserved_job(an_account(1000))
    claim = a_claim(job_id)

    for _ in range(2):
        fail(claim, Failure.CONTENT_POLICY, usage=Usage(output_tokens=100))

    assert the_job(job_id).cost_usd == Decimal("0.001")
    assert rows("SELECT sum(cost_usd) FROM provider_calls") == [(Decimal("0.001"),)]


def test_a_late_refusal_after_paid_work_takes_the_place_of_the_guess():
    job_id = a_reserved_job(an_account(1000))
    claim = a_claim(job_id)
    fail(claim, Failure.TIMED_OUT)
    with transaction() as session:
        unknown_calls.expose(session, the_job(job_id))

    fail(claim, Failure.CONTENT_POLICY, usage=Usage(output_tokens=100))

    assert the_job(job_id).cost_usd == Decimal("0.001")
    assert rows("SELECT outcome, exposure, cost_usd FROM provider_calls") == [("failed", False, Decimal("0.001"))]


@pytest.mark.parametrize("state", ["queued", "reserved", "calling", "generated", "settled"])
def test_refund_leaves_every_job_without_a_verdict_alone(state):
    account_id = an_account(1000)
    make = {"queued": a_queued_job, "reserved": a_reserved_job, "calling": a_reserved_job}.get(state, a_generated_job)
    job_id = make(account_id)
    if state == "calling":
        a_claim(job_id)
    if state == "settled":
        settle(job_id)
    before = books(account_id)

    assert refund(job_id) == []
    assert (the_job(job_id).state, books(account_id)) == (state, before)


@pytest.mark.parametrize("state", ["queued", "reserved"])
def test_settle_leaves_a_job_that_was_not_generated_alone(state):
    account_id = an_account(1000)
    job_id = {"queued": a_queued_job, "reserved": a_reserved_job}[state](account_id)

    assert settle(job_id) == []
    assert the_job(job_id).state == state


def test_a_plan_limit_is_held_used_and_released_with_the_credits():
    account_id = an_account(10_000)
    a_subscription(account_id, {"content_words": 1000})
    params = {"prompt": "An article.", "max_output_tokens": 800}
    used = a_generated_job(account_id, "content_generation", params=params)
    with transaction() as session:
        session.execute(text('UPDATE generation_results SET content = \'{"text": "one two three four"}\''))
    refunded = a_reserved_job(account_id, "content_generation", params={"prompt": "Two.", "max_output_tokens": 400})

    assert rows("SELECT amount_used, amount_reserved FROM plan_limit_usage") == [(0, 900)]
    settle(used)
    fail(a_claim(refunded), Failure.CONTENT_POLICY)
    refund(refunded)
    assert rows("SELECT limit_type, amount_used, amount_reserved, period_start::text FROM plan_limit_usage") == [
        ("content_words", 4, 0, "2026-11-01")
    ]


def test_a_plan_limit_that_does_not_suffice_rejects_and_holds_no_credits():
    account_id = an_account(10_000)
    a_subscription(account_id, {"content_ideas": 1})
    first, second = (a_queued_job(account_id, "idea_generation", now=NOON + n * MINUTE) for n in range(2))

    assert reserve(first, second) == [first]

    assert the_job(second).error_code == "plan_limit_reached"
    assert books(account_id) == (10_000, the_job(first).credits_reserved)
    assert rows("SELECT amount_used, amount_reserved FROM plan_limit_usage") == [(0, 1)]


def test_a_late_result_after_the_refund_charges_nobody_and_is_counted_as_exposure():
    account_id = an_account(1000)
    job_id = a_reserved_job(account_id)
    claim = a_claim(job_id)
    assert fail(claim, Failure.TIMED_OUT) is Verdict.UNKNOWN
    with transaction() as session:
        job = the_job(job_id)
        unknown_calls.expose(session, job)
        settling.release(session, [job], {job_id: settling.Release("outcome_unknown", "gone")}, now=NOON)

    with transaction() as session:
        assert not calling.succeed(session, claim, a_delivery(), now=NOON, publish_by=MINUTE)

    assert the_job(job_id).state == "refunded"
    assert books(account_id) == (1000, 0)
    assert rows("SELECT outcome, exposure, cost_usd FROM provider_calls") == [
        ("succeeded", True, Decimal("0.0041250000"))
    ]
    assert the_job(job_id).cost_usd == Decimal("0.004125")
    assert rows("SELECT count(*) FROM generation_results") == [(0,)]


def test_a_late_refusal_withdraws_the_exposure():
    account_id = an_account(1000)
    job_id = a_reserved_job(account_id)
    claim = a_claim(job_id)
    fail(claim, Failure.TIMED_OUT)
    with transaction() as session:
        unknown_calls.expose(session, the_job(job_id))
    assert the_job(job_id).cost_usd > 0

    assert fail(claim, Failure.RATE_LIMITED) is None

    assert the_job(job_id).cost_usd == 0
    assert rows("SELECT outcome, exposure FROM provider_calls") == [("failed", False)]


def test_an_old_attempt_cannot_overwrite_a_newer_one():
    account_id = an_account(1000)
    job_id = a_reserved_job(account_id)
    old = a_claim(job_id)
    fail(old, Failure.RATE_LIMITED)
    new = a_claim(job_id, again=1)

    with transaction() as session:
        assert not calling.succeed(session, old, a_delivery(), now=NOON, publish_by=MINUTE)
    assert fail(old, Failure.CONTENT_POLICY) is None

    job = the_job(job_id)
    assert (job.state, job.attempts, job.error_code) == ("calling", new.attempt, None)


def test_a_live_claim_is_left_alone():
    job_id = a_reserved_job(an_account(1000))
    a_claim(job_id)

    with transaction() as session:
        assert calling.claim(session, job_id, now=NOON, lease=MINUTE) is None


def test_retries_are_refunded_when_the_budget_is_spent():
    account_id = an_account(1000)
    job_id = a_reserved_job(account_id)

    assert fail(a_claim(job_id), Failure.OVERLOADED) is Verdict.RETRY
    assert fail(a_claim(job_id, again=1), Failure.OVERLOADED) is Verdict.REFUND
    refund(job_id)

    assert the_job(job_id).error_code == "retries_exhausted"
    assert the_job(job_id).error_message == "The provider is overloaded. It was tried 2 times."


def test_recording_a_success_twice_counts_its_cost_once():
    account_id = an_account(1000)
    claim = a_claim(a_reserved_job(account_id))
    for _ in range(2):
        with transaction() as session:
            assert calling.succeed(session, claim, a_delivery(), now=NOON, publish_by=MINUTE)

    assert the_job(claim.job_id).cost_usd == Decimal("0.004125")


def test_the_ledger_is_append_only():
    an_account(1000)
    for statement in (
        "UPDATE credit_transactions SET amount = 1",
        "DELETE FROM credit_transactions",
        "TRUNCATE credit_transactions",
    ):
        with pytest.raises(DBAPIError, match="append-only"), transaction() as session:
            session.execute(text(statement))


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        ("UPDATE accounts SET reserved = balance + 1", "balance_covers_reserved"),
        ("UPDATE accounts SET reserved = -1", "reserved_not_negative"),
        ("UPDATE generation_jobs SET credits_charged = credits_reserved + 1", "charge_within_reservation"),
        ("UPDATE generation_jobs SET credits_charged = NULL", "settled_is_charged"),
        ("UPDATE generation_jobs SET finished_at = NULL", "terminal_is_finished"),
        ("UPDATE generation_jobs SET state = 'calling'", "ck_generation_jobs"),
        ("UPDATE generation_jobs SET state = 'x', credits_charged = NULL, finished_at = NULL", "generation_jobs_state"),
        ("UPDATE provider_calls SET usage = NULL", "success_has_usage"),
        ("UPDATE provider_calls SET cost_usd = -1", "cost_not_negative"),
        ("UPDATE ai_model_config SET is_default = true WHERE model_name = 'gpt-4o'", "one_default_a_type"),
        ("UPDATE ai_model_config SET input_cost_per_1m = 'NaN'", "rates"),
        ("UPDATE ai_model_config SET input_cost_per_1m = 0", "rates"),
        ("UPDATE image_prices SET cost_per_image_usd = -1", "image_prices_cost"),
        ("UPDATE credit_cost_config SET tokens_per_credit = 0", "tokens_per_credit"),
        ("INSERT INTO billing_configuration (id) VALUES (2)", "singleton"),
        ("INSERT INTO global_integration_settings (id) VALUES (2)", "singleton"),
        (
            "INSERT INTO credit_transactions (account_id, transaction_type, amount, balance_after, description, "
            "job_id, idempotency_key, created_at) SELECT account_id, 'deduction', -1, 1, '', id, 'again', now() "
            "FROM generation_jobs",
            "one_deduction_a_job",
        ),
        (
            "INSERT INTO credit_transactions (account_id, transaction_type, amount, balance_after, description, "
            "idempotency_key, created_at) SELECT id, 'purchase', -1, 1, '', 'p', now() FROM accounts",
            "sign",
        ),
        (
            "INSERT INTO provider_calls (job_id, attempt, provider, model_name, endpoint, idempotency_key, started_at) "
            "SELECT job_id, attempt, 'openai', '', '', '', now() FROM provider_calls",
            "uq_provider_calls_job_id_attempt",
        ),
    ],
)  # fmt: skip
def test_the_database_itself_refuses(statement, rule):
    settle(a_generated_job(an_account(1000)))

    with pytest.raises(IntegrityError, match=rule), transaction() as session:
        session.execute(text(statement))
