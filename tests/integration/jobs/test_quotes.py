"""Quotes: the worst case, the typical case, the refusal that would come; and usages priced as plain arithmetic says."""

from __future__ import annotations

import random
from datetime import timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction

import pytest
from sqlalchemy import text

from billing.catalog.usage import Usage
from billing.errors import BillingError
from billing.jobs import quotes, requests, reserving, settling
from config.database import transaction
from tests.factories import (
    NOON,
    a_generated_job,
    a_queued_job,
    a_reserved_job,
    a_subscription,
    an_account,
    moment,
    rows,
    the_account,
)

pytestmark = pytest.mark.usefixtures("db")
PROMPT = {"prompt": "bread", "max_output_tokens": 1000}
WORST = 11
STEP = Decimal("0.0000000001")


def quote(account_id, operation="clustering", params=None, **given):
    data = {"account_id": account_id, "operation": operation, "params": params or PROMPT, **given}
    with transaction() as session:
        submission = requests.parse(data)
        return quotes.quote(session, submission, at=moment(session, of=[submission])).facts()


def quote_usage(**data):
    with transaction() as session:
        return quotes.quote_usage(data, at=moment(session))


def settle(job_id):
    with transaction() as session:
        settling.settle(session, [job_id], now=NOON)


def everything():
    """Every row that a quote could have touched."""
    tables = ("accounts", "generation_jobs", "plan_limit_usage", "credit_transactions", "provider_calls")
    return {table: rows(f"SELECT t.* FROM {table} t ORDER BY 1") for table in tables}


# --- Requests ---


def test_a_quote_is_what_the_reservation_will_be():
    account_id = an_account(1000)

    quoted = quote(account_id)
    a_reserved_job(account_id)

    assert quoted["credits"] == the_account(account_id).reserved == WORST
    assert (quoted["accepted"], quoted["balance"], quoted["reserved"], quoted["available"]) == (True, 1000, 0, 1000)


def test_a_quote_writes_nothing():
    account_id = an_account(5)
    a_subscription(account_id, {"content_words": 10})
    before = everything()

    quote(account_id)
    quote(account_id, "content_generation")
    quote_usage(operation="clustering", input_tokens=5)

    assert everything() == before


def test_before_there_is_a_history_the_typical_answer_is_a_share_of_the_longest():
    quoted = quote(an_account())

    # About 40 tokens of input and half of 1,000 of output.
    assert (quoted["typical_credits"], quoted["typical_basis"]) == (6, "50 % of the longest answer")


def test_the_typical_charge_is_at_the_median_of_past_answers_on_the_same_model():
    account_id = an_account(10_000)
    for output in (100, 200, 900):
        settle(a_generated_job(account_id, usage=Usage(input_tokens=30, output_tokens=output)))
    settle(a_generated_job(account_id, "linking", usage=Usage(input_tokens=30, output_tokens=990)))

    quoted = quote(account_id)

    # 200 tokens of output and some 30 of input.
    assert (quoted["typical_credits"], quoted["typical_basis"]) == (3, "the median of the last 3 jobs")


def test_a_typical_answer_is_never_longer_than_the_longest_asked_for():
    account_id = an_account(10_000)
    settle(a_generated_job(account_id, usage=Usage(input_tokens=30, output_tokens=990)))

    quoted = quote(account_id, params={"prompt": "bread", "max_output_tokens": 100})

    assert quoted["typical_credits"] == quoted["credits"] == 2


def test_images_are_quoted_at_the_images_asked_for():
    quoted = quote(an_account(), "image_generation", {"prompt": "dogs", "n": 3, "quality": "hd"})

    assert (quoted["credits"], quoted["typical_credits"]) == (30, 30)


def test_a_request_says_which_limit_it_uses_and_what_is_left_of_it():
    account_id = an_account(1000)
    a_subscription(account_id, {"content_ideas": 3, "images_basic": 1})
    a_reserved_job(account_id, "idea_generation")

    assert quote(account_id, "idea_generation")["limit"] == {
        "limit_type": "content_ideas", "unit": "requests", "needed": 1, "allowed": 3, "remaining": 2,
    }  # fmt: skip
    assert quote(account_id, "content_generation")["limit"] == {
        "limit_type": "content_words", "unit": "words", "needed": 750, "allowed": None, "remaining": None,
    }  # fmt: skip
    assert quote(account_id)["limit"] is None


@pytest.mark.parametrize(
    ("model", "limit"),
    [("dall-e-3", "images_basic"), ("runware:97@1", "images_basic"), ("google:4@2", "images_premium")],
)
def test_an_image_uses_the_limit_of_its_models_tier(model, limit):
    quoted = quote(an_account(), "image_generation", {"prompt": "dogs", "n": 2}, model=model)

    assert (quoted["limit"]["limit_type"], quoted["limit"]["needed"]) == (limit, 2)


@pytest.mark.parametrize(
    ("opening", "held", "longest", "needed", "short", "cause"),
    [
        (15, 11, 1000, 11, 7, "held"),  # the open job may still give back the 7
        (12, 11, 1100, 12, 11, "held"),  # if it gives back all, it is just enough
        (12, 11, 1200, 13, 12, "spent"),  # even then, a credit would be missing
        (10, 0, 1000, 11, 1, "spent"),
    ],
)
def test_a_refusal_says_what_is_missing_and_whether_it_is_held_or_gone(opening, held, longest, needed, short, cause):
    account_id = an_account(opening)
    if held:
        a_reserved_job(account_id)

    refused = quote(account_id, params={"prompt": "bread", "max_output_tokens": longest})

    assert (refused["accepted"], refused["error"]) == (False, "insufficient_credits")
    assert (refused["needed"], refused["held"], refused["short"], refused["cause"]) == (needed, held, short, cause)


def test_a_limit_that_does_not_suffice_is_the_refusal_and_says_how_much_is_missing():
    account_id = an_account(1000)
    a_subscription(account_id, {"content_words": 500})

    refused = quote(account_id, "content_generation")

    assert (refused["accepted"], refused["error"]) == (False, "plan_limit_reached")
    assert (refused["needed"], refused["remaining"], refused["short"]) == (750, 500, 250)


def test_a_frozen_account_is_refused():
    account_id = an_account(1000)
    with transaction() as session:
        session.execute(text("UPDATE accounts SET frozen_reason = 'audit'"))

    assert quote(account_id)["error"] == "account_frozen"


@pytest.mark.parametrize(
    ("opening", "limit", "operation"),
    [(1000, 5, "idea_generation"), (5, 5, "idea_generation"), (1000, 0, "idea_generation"), (11, 1, "clustering")],
)
def test_the_quote_says_what_the_reservation_then_decides(opening, limit, operation):
    account_id = an_account(opening)
    a_subscription(account_id, {"content_ideas": limit})
    quoted = quote(account_id, operation)
    job_id = a_queued_job(account_id, operation)

    with transaction() as session:
        reserved = reserving.reserve(session, [job_id], at=moment(session), publish_by=timedelta(minutes=1)).job_ids

    assert quoted["accepted"] == (reserved == [job_id])
    assert [(quoted.get("error"), quoted.get("message"))] == rows(
        "SELECT error_code, error_message FROM generation_jobs"
    )


# --- Usages ---


def usd(exact: Fraction) -> Decimal:
    """Ten decimals, half to even, as long division gives them."""
    scaled = exact * 10**10
    return (Decimal(scaled.numerator) / Decimal(scaled.denominator)).to_integral_value(ROUND_HALF_EVEN) * STEP


def catalogue_of_text():
    """Model and operation rows as plain numbers, read by SQL of our own."""
    models = rows(
        "SELECT model_name, input_cost_per_1m, coalesce(cached_input_cost_per_1m, input_cost_per_1m), "
        "output_cost_per_1m, coalesce(reasoning_cost_per_1m, output_cost_per_1m) FROM ai_model_config "
        "WHERE model_type = 'text' ORDER BY 1"
    )
    operations = rows(
        "SELECT operation_type, coalesce(tokens_per_credit, 100), min_credits, price_per_credit_usd "
        "FROM credit_cost_config WHERE model_type = 'text' ORDER BY 1"
    )
    return models, operations


def test_1000_random_usages_agree_with_the_catalogues_arithmetic_done_in_fractions():
    models, operations = catalogue_of_text()
    draw = random.Random(20261121)
    for _ in range(1000):
        model, *rates = draw.choice(models)
        operation, tokens_per_credit, least, price = draw.choice(operations)
        counts = [draw.choice([0, 1, draw.randrange(1000), draw.randrange(1_000_000)]) for _ in range(4)]
        names = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens")

        quoted = quote_usage(operation=operation, model=model, **dict(zip(names, counts, strict=True)))

        credits = max(least, -(-sum(counts) // tokens_per_credit))
        cost = usd(sum(n * Fraction(rate) for n, rate in zip(counts, rates, strict=True)) / 1_000_000)
        revenue = usd(credits * Fraction(price))
        assert vars(quoted) == {
            "credits": credits,
            "cost_usd": cost,
            "revenue_usd": revenue,
            "margin_usd": revenue - cost,
        }, (operation, model, counts)


def test_images_agree_for_every_seeded_size_and_quality():
    prices = rows("SELECT model_name, size, quality, cost_per_image_usd, credits_per_image FROM image_prices")
    ((least, price),) = rows(
        "SELECT min_credits, price_per_credit_usd FROM credit_cost_config WHERE operation_type = 'image_generation'"
    )
    assert len(prices) == 8
    for model, size, quality, cost_usd, each in prices:
        for images in (1, 2, 3, 10):
            quoted = quote_usage(
                operation="image_generation",
                model=model,
                images=images,
                size="1024x1024" if size == "*" else size,
                quality="standard" if quality == "*" else quality,
            )

            credits = max(least, images * each)
            assert (quoted.credits, quoted.cost_usd) == (credits, images * cost_usd)
            assert quoted.margin_usd == credits * price - images * cost_usd > 0


def test_a_usage_names_what_it_is_priced_by_or_takes_the_defaults():
    assert quote_usage(operation="image_generation", images=1) == quote_usage(
        operation="image_generation", model="dall-e-3", size="1024x1024", quality="standard", images=1
    )
    assert quote_usage(operation="linking", input_tokens=900) == quote_usage(
        operation="linking", model="gpt-5.1", input_tokens=900
    )


@pytest.mark.parametrize(
    ("usage", "code", "said"),
    [
        ({"operation": "linking", "input_tokens": -1}, "invalid_usage", "input_tokens"),
        ({"operation": "linking", "input_tokens": 1.5}, "invalid_usage", "input_tokens"),
        ({"operation": "linking", "input_tokens": True}, "invalid_usage", "input_tokens"),
        ({"operation": "linking", "input_tokens": 2**40}, "invalid_usage", "input_tokens"),
        ({"operation": "linking", "input_token": 5}, "invalid_usage", "no such field"),
        ({"operation": "linking", "images": 1}, "invalid_usage", "no images"),
        ({"operation": "image_generation", "input_tokens": 5}, "invalid_usage", "how many images"),
        ({"operation": "a\x00b", "input_tokens": 5}, "invalid_usage", "operation"),
        ({"operation": "linking", "model": "a\x00b", "input_tokens": 5}, "invalid_usage", "model"),
        ({"operation": "image_generation", "images": 1, "size": "512x512"}, "price_not_configured", "512x512"),
        ({"operation": "image_generation", "images": 1, "quality": "ultra"}, "price_not_configured", "ultra"),
        ({"operation": "image_generation", "images": 1, "size": "big\n"}, "invalid_usage", "size"),
        ({"operation": "magic", "input_tokens": 5}, "unknown_operation", "magic"),
        ({"operation": "linking", "model": "gpt-9", "input_tokens": 5}, "unknown_model", "gpt-9"),
        ({"operation": "linking", "model": "dall-e-3", "input_tokens": 5}, "model_type_mismatch", "dall-e-3"),
        ({"input_tokens": 5}, "invalid_usage", "operation"),
    ],
)  # fmt: skip
def test_a_usage_that_cannot_be_priced_is_one_sentence(usage, code, said):
    with pytest.raises(BillingError) as caught:
        quote_usage(**usage)

    assert caught.value.code == code
    assert said in caught.value.message
    assert "\n" not in caught.value.message
