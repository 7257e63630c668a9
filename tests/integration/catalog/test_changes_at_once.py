"""Changes of the catalogue and of plans, side by side with each other and with the work that goes on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from billing.catalog import changing
from billing.catalog.usage import Usage
from billing.errors import BillingError
from billing.jobs import calling, job_queries, reserving
from billing.jobs.calling import Refusal
from billing.jobs.policy import Failure, RetryBudget
from billing.jobs.states import State
from billing.ledger import account_queries
from billing.plans import plans, renewals
from billing.plans.renewals import Worked
from config.database import transaction
from tests.catalogue import TOKEN_IMAGE, a_settled_job, change
from tests.factories import (
    MINUTE,
    NOON,
    a_claim,
    a_delivery,
    a_queued_job,
    a_reserved_job,
    a_subscription,
    an_account,
    moment,
    rows,
    the_account,
    the_job,
)
from tests.rounds import rounds

pytestmark = pytest.mark.usefixtures("db")
ROUNDS = rounds(15)


def at_once(*calls):
    barrier = Barrier(len(calls))

    def run(call):
        barrier.wait()
        try:
            with transaction() as session:
                return call(session)
        except BillingError as error:
            return error.code

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def reserve(*job_ids):
    with transaction() as session:
        return reserving.reserve(session, job_ids, at=moment(session), publish_by=MINUTE).job_ids


def units():
    return rows("SELECT limit_type, amount_used, amount_reserved FROM plan_limit_usage ORDER BY 1")


def test_two_operators_change_one_plan_and_both_changes_stay():
    for number in range(ROUNDS):
        slug = f"plan-{number}"
        with transaction() as session:
            plans.set_plan(session, slug, {"images_premium": "5"})

        at_once(
            lambda session, slug=slug: plans.set_plan(session, slug, {"images_premium": "0"}),
            lambda session, slug=slug: plans.set_plan(session, slug, {"content_ideas": "3"}),
        )

        assert rows("SELECT limits FROM plans WHERE slug = :slug", slug=slug) == [
            ({"images_premium": 0, "content_ideas": 3},)
        ]


def test_two_operators_make_a_default_and_one_model_is_it():
    for _ in range(ROUNDS):
        at_once(
            lambda session: changing.set_model(session, "gpt-4o", {"is_default": "true"}),
            lambda session: changing.set_model(session, "gpt-5.1", {"is_default": "true"}),
        )

        assert rows("SELECT count(*) FROM ai_model_config WHERE model_type = 'text' AND is_default") == [(1,)]


def test_a_default_that_is_switched_off_at_the_same_time_stays_active():
    for _ in range(ROUNDS):
        at_once(
            lambda session: changing.set_model(session, "gpt-4o", {"is_default": "true"}),
            lambda session: changing.set_model(session, "gpt-4o", {"is_active": "false"}),
        )

        assert rows("SELECT count(*) FROM ai_model_config WHERE is_default AND NOT is_active") == [(0,)]
        change("set_model", "gpt-4o", is_active="true")
        change("set_model", "gpt-5.1", is_default="true")


def test_the_database_itself_keeps_a_default_active():
    with pytest.raises(IntegrityError, match="default_is_active"), transaction() as session:
        session.execute(text("UPDATE ai_model_config SET is_active = false WHERE is_default"))


def test_opening_a_period_does_not_block_reservations_nor_they_it():
    account_id = an_account(100)
    a_subscription(account_id, {"content_ideas": 5})
    job_id = a_queued_job(account_id, "idea_generation")

    with transaction() as session:
        job_queries.lock(session, [job_id], {State.QUEUED})
        account_queries.lock(session, [account_id])
        # In another session, while this one holds the account: with a stronger lock it would wait, and then deadlock.
        with transaction() as other:
            other.execute(text("SET LOCAL lock_timeout = '2s'"))
            assert renewals.reset_limits(other, NOON, opened := Worked())
            assert (opened.periods, opened.blocked) == (1, {})
            assert not renewals.reset_limits(other, NOON, opened)
        assert reserving.reserve(session, [job_id], at=moment(session), publish_by=MINUTE).job_ids == [job_id]

    assert units() == [("content_ideas", 0, 1)]


def test_what_a_period_used_before_a_limit_came_is_counted_against_it():
    account_id = an_account(1000)
    a_subscription(account_id, {})
    for _ in range(3):
        a_settled_job(account_id, "idea_generation")
    held = a_reserved_job(account_id, "idea_generation")
    assert units() == [("content_ideas", 3, 1)]

    with transaction() as session:
        session.execute(text("UPDATE plans SET limits = CAST(:limits AS jsonb)"), {"limits": '{"content_ideas": 5}'})
    jobs = [a_queued_job(account_id, "idea_generation") for _ in range(2)]

    (granted,) = reserve(*jobs)
    (refused,) = set(jobs) - {granted}
    assert the_job(refused).error_code == "plan_limit_reached"
    assert the_job(held).limit_reserved == 1


@pytest.mark.parametrize(
    ("operation", "unit"), [("image_generation", "words"), ("idea_generation", "images"), ("clustering", "images")]
)
def test_a_unit_that_the_work_never_has_is_refused(operation, unit):
    with pytest.raises(BillingError, match="Words are counted of texts"):
        change("set_operation", operation, limit_unit=unit)


def test_a_model_speaks_what_its_type_speaks():
    with pytest.raises(BillingError, match="A text model speaks"):
        change(
            "add_model", "new", model_type="text", provider="openai", api="images", input_cost_per_1m="1",
            output_cost_per_1m="2", context_window="1000", max_output_tokens="100",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("what", "names", "fields", "code"),
    [
        ("set_operation", ["clustering"], {"tokens_per_credit": "1"}, "implausible_price"),
        ("set_operation", ["clustering"], {"min_credits": "1000"}, "implausible_price"),
        ("set_image_price", ["dall-e-3", "1024x1024", "hd"], {"credits_per_image": "5000"}, "implausible_price"),
        ("set_defaults", [], {"default_tokens_per_credit": "1000"}, "implausible_price"),
        ("set_model", ["gpt-5.1"], {"is_default": "no"}, "default_needed"),
        ("set_model", ["gpt-4o"], {"tokenizer": "foo"}, "unknown_tokenizer"),
        ("set_model", ["gpt-4o"], {"limit_type": "images_basic"}, "limit_elsewhere"),
        ("set_operation", ["image_generation"], {"limit_type": "content_ideas"}, "limit_elsewhere"),
    ],
)
def test_what_looks_like_a_slip_or_means_nothing_is_refused(what, names, fields, code):
    with pytest.raises(BillingError) as caught:
        change(what, *names, **fields)

    assert caught.value.code == code
    assert rows("SELECT count(*) FROM change_history") == [(0,)]


def test_a_change_is_judged_by_the_default_that_applies_where_a_field_is_empty():
    change("set_operation", "clustering", tokens_per_credit="none", price_per_credit_usd="none")

    for field, value in (("tokens_per_credit", "5"), ("price_per_credit_usd", "1")):
        with pytest.raises(BillingError, match="10 times or more"):
            change("set_operation", "clustering", **{field: value})


def test_a_model_that_came_to_bill_by_the_token_does_not_serve_what_was_counted_in_images():
    account_id = an_account(100_000)
    job_id = a_queued_job(account_id, "image_generation", params={"prompt": "x", "n": 10})
    change("set_model", "dall-e-3", input_cost_per_1m="5", output_cost_per_1m="40", max_output_tokens="6240")

    assert reserve(job_id) == []

    assert the_job(job_id).error_code == "price_not_configured"
    again = a_reserved_job(account_id, "image_generation", params={"prompt": "x", "n": 10})
    assert the_account(account_id).reserved == the_job(again).credits_reserved > 1_000


def test_a_job_by_the_token_keeps_its_price_when_its_model_changes():
    change("add_model", "gpt-image-1", **TOKEN_IMAGE)
    account_id = an_account(100_000)
    job_id = a_reserved_job(account_id, "image_generation", model="gpt-image-1", params={"prompt": "x", "n": 1})
    change("set_model", "gpt-image-1", output_cost_per_1m="80")
    claim = a_claim(job_id)

    with transaction() as session:
        usage = Usage(input_tokens=50, output_tokens=1000, images=1)
        assert calling.succeed(session, claim, a_delivery(usage), now=NOON, publish_by=MINUTE)

    assert the_job(job_id).cost_usd * 1_000_000 == 50 * 5 + 1000 * 40


def test_a_failure_after_a_recorded_success_changes_nothing():
    job_id = a_reserved_job(an_account(1000))
    claim = a_claim(job_id)
    with transaction() as session:
        calling.succeed(session, claim, a_delivery(), now=NOON, publish_by=MINUTE)
    before = rows("SELECT c::text FROM provider_calls c"), rows("SELECT j::text FROM generation_jobs j")

    with transaction() as session:
        budget = RetryBudget(attempts=3, wait_max=MINUTE)
        refusal = Refusal(Failure.CONTENT_POLICY, usage=Usage(output_tokens=100))
        assert calling.fail(session, claim, refusal, now=NOON, budget=budget, look_after=MINUTE) is None

    assert (rows("SELECT c::text FROM provider_calls c"), rows("SELECT j::text FROM generation_jobs j")) == before


@pytest.mark.parametrize("limits", ['{"content_ideas": "10"}', '{"content_ideas": 2.5}', '{"content_ideas": -1}', "[]"])
def test_a_limit_that_is_no_whole_number_is_refused_by_the_database_itself(limits):
    a_subscription(an_account(), {"content_ideas": 1})

    with pytest.raises(IntegrityError, match="limits_are_whole_numbers"), transaction() as session:
        session.execute(text("UPDATE plans SET limits = CAST(:limits AS jsonb)"), {"limits": limits})


def test_a_limit_of_a_type_that_does_not_exist_opens_no_row():
    a_subscription(an_account(), {"nonsense": 5, "content_ideas": 1})

    with transaction() as session:
        renewals.reset_limits(session, NOON, Worked())
    assert rows("SELECT limit_type FROM plan_limit_usage") == [("content_ideas",)]
