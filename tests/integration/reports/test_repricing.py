"""What past usage would have been charged and cost at other prices, against sums of another making."""

from __future__ import annotations

import random
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from sqlalchemy import text

from billing.catalog import changing
from billing.catalog.usage import Usage
from billing.errors import BillingError
from billing.jobs import calling, settling
from billing.jobs.calling import Refusal
from billing.jobs.policy import Failure, RetryBudget
from billing.reports import repricing
from billing.reports.repricing import Proposal
from config.database import transaction
from tests.catalogue import TOKEN_IMAGE, a_settled_job, change, everything, sql
from tests.factories import HOUR, MINUTE, NOON, a_claim, a_delivery, a_reserved_job, an_account, rows

pytestmark = pytest.mark.usefixtures("db")
DAY = timedelta(days=1)
USAGE = Usage(input_tokens=100, output_tokens=400)
SQUARE = {"prompt": "A fox.", "size": "1024x1024", "quality": "standard"}


def reprice(
    *, since=NOON - DAY, until=NOON + DAY, force=False, model=None, operation=None, size="*", quality="*", **fields
):
    """Every row of the answer, from a transaction that is committed."""
    proposal = Proposal(model=model, operation=operation, size=size, quality=quality, fields=fields)
    with transaction(isolation="REPEATABLE READ") as session:
        return repricing.reprice(session, since=since, until=until, proposal=proposal, force=force)


def whole(**given):
    return repricing.total(reprice(**given))


def credits(**given):
    found = whole(**given)
    return found.credits_before, found.credits_after


def an_image(account_id, *, n=1, **params):
    return a_settled_job(account_id, "image_generation", params={**SQUARE, "n": n, **params}, usage=Usage(images=n))


def refused(**given):
    with pytest.raises(BillingError) as caught:
        reprice(**given)
    assert caught.value.message.endswith(".")
    assert caught.value.message.isprintable()
    return caught.value


# --- What differs ---


def test_at_todays_prices_nothing_differs():
    account_id = an_account()
    a_settled_job(account_id)
    a_settled_job(account_id, "idea_generation", model="gpt-4o", usage=Usage(50, 20, 300, 100))
    a_settled_job(account_id, usage=Usage(output_tokens=5_000))
    an_image(account_id, n=3, quality="hd")

    found = reprice()

    assert [(each.operation, each.model, each.jobs) for each in found] == [
        ("clustering", "gpt-5.1", 2),
        ("idea_generation", "gpt-4o", 1),
        ("image_generation", "dall-e-3", 1),
    ]
    for each in found:
        assert each.credits_before == each.credits_after > 0
        assert each.revenue_before_usd == each.revenue_after_usd > 0
        assert each.cost_before_usd == each.cost_after_usd > 0
        assert each.unpriced == 0


def test_todays_prices_may_have_changed_since():
    a_settled_job(an_account(), usage=USAGE)
    change("set_operation", "clustering", tokens_per_credit="50")

    assert credits() == (5, 10)


@pytest.mark.parametrize(
    ("proposed", "before", "after", "revenue", "cost", "rule"),
    [
        # 500 tokens at $0.01 a credit; 100 x 1.25 + 400 x 10 dollars per million.
        ({"operation": "clustering", "tokens_per_credit": "80"}, 5, 7,  "0.07", "0.004125", "500 / 80 = 6.25"),
        ({"operation": "clustering", "tokens_per_credit": "200"}, 5, 3, "0.03", "0.004125", "500 / 200 = 2.5"),
        ({"operation": "clustering", "min_credits": "9"},        5, 9,  "0.09", "0.004125", "the least"),
        ({"operation": "clustering", "price_per_credit_usd": "0.02"}, 5, 5, "0.10", "0.004125", "the credit's price"),
        ({"operation": "clustering", "price_per_credit_usd": "none",
          "default_credit_price_usd": "0.03"},                   5, 5,  "0.15", "0.004125", "the default's instead"),
        ({"credit_rounding_mode": "down", "operation": "clustering",
          "tokens_per_credit": "80"},                            5, 6,  "0.06", "0.004125", "6.25, rounded down"),
        ({"default_tokens_per_credit": "20"},                    5, 5,  "0.05", "0.004125", "a default not used"),
        ({"model": "gpt-5.1", "output_cost_per_1m": "20"},       5, 5,  "0.05", "0.008125", "the rate alone"),
        ({"model": "gpt-5.1", "input_cost_per_1m": "2.5"},       5, 5,  "0.05", "0.00425",  "the other one"),
        ({"operation": "clustering", "output_weight": "4"},      5, 17, "0.17", "0.004125", "100 + 4 x 400"),
        ({"operation": "clustering", "priced_by": "cost", "markup_percent": "150"},
                                                                 5, 2,  "0.02", "0.004125", "1.03 credits"),
        ({"model": "gpt-5.1", "operation": "clustering", "priced_by": "cost", "markup_percent": "400"},
                                                                 5, 3,  "0.03", "0.004125", "2.06, of the two"),
        ({"model": "gpt-5.1", "operation": "clustering", "output_cost_per_1m": "20",
          "tokens_per_credit": "80"},                            5, 7,  "0.07", "0.008125", "both at once"),
    ],
)  # fmt: skip
def test_a_proposal_is_charged_and_costs_as_it_says(proposed, before, after, revenue, cost, rule):
    a_settled_job(an_account(), usage=USAGE)

    found = whole(**proposed)

    assert (found.jobs, found.credits_before, found.credits_after) == (1, before, after), rule
    assert (found.revenue_before_usd, found.revenue_after_usd) == (Decimal("0.05"), Decimal(revenue)), rule
    assert (found.cost_before_usd, found.cost_after_usd) == (Decimal("0.004125"), Decimal(cost)), rule
    assert found.facts()["margin_difference_usd"] == Decimal(revenue) - Decimal("0.05") - Decimal(cost) + Decimal(
        "0.004125"
    ), rule
    assert found.facts()["credits_difference"] == after - before, rule


@pytest.mark.parametrize(
    ("stored", "size", "quality", "after", "rule"),
    [
        (("1024x1024", "standard"), "1024x1024", "standard", 8, "in place of the stored price"),
        (("1024x1024", "*"),        "1024x1024", "standard", 8, "more exact than the stored price"),
        (("*", "standard"),         "1024x1024", "*",        8, "an exact size before an exact quality"),
        (("*", "*"),                "*",         "standard", 8, "an exact quality before any"),
        (("*", "*"),                "*",         "*",        8, "in place of the price for any"),
        (("1024x1024", "standard"), "*",         "*",        5, "less exact than the stored price"),
        (("1024x1024", "standard"), "1024x1024", "*",        5, "of the same size, and less exact"),
        (("1024x1024", "*"),        "*",         "standard", 5, "an exact quality after an exact size"),
        (("1024x1024", "standard"), "1024x1024", "hd",       5, "of another quality"),
        (("1024x1024", "standard"), "1024x1792", "standard", 5, "of another size"),
    ],
)  # fmt: skip
def test_a_proposed_image_price_takes_its_place_among_the_stored_ones(stored, size, quality, after, rule):
    sql("DELETE FROM image_prices WHERE model_name = 'dall-e-3'")
    change("set_image_price", "dall-e-3", *stored, cost_per_image_usd="0.04", credits_per_image="5")
    an_image(an_account(), n=2)

    proposed = {"cost_per_image_usd": "0.05", "credits_per_image": "8"}
    found = whole(model="dall-e-3", size=size, quality=quality, **proposed)

    assert (found.credits_before, found.credits_after) == (10, 2 * after), rule
    assert found.cost_after_usd == (Decimal("0.1") if after == 8 else Decimal("0.08")), rule


def test_half_of_an_image_price_can_be_proposed_where_there_is_one():
    an_image(an_account())

    found = whole(model="dall-e-3", size="1024x1024", quality="standard", credits_per_image="6")

    assert (found.credits_after, found.cost_after_usd) == (6, Decimal("0.04"))


def test_the_charge_stays_within_what_would_have_been_held():
    account_id = an_account()
    # 5,000 tokens where 1,025 were reserved: 11 credits of a hundred; of eighty, 13.
    a_settled_job(account_id, usage=Usage(output_tokens=5_000))

    assert credits(operation="clustering", tokens_per_credit="80") == (11, 13)


def test_images_that_are_billed_by_tokens_are_repriced_by_their_tokens():
    change("add_model", "gpt-image-1", **TOKEN_IMAGE)
    usage = Usage(input_tokens=20, output_tokens=2112, images=2)
    params = {"prompt": "A fox.", "n": 2}
    a_settled_job(an_account(), "image_generation", model="gpt-image-1", params=params, usage=usage)

    found = whole(model="gpt-image-1", output_cost_per_1m="30")

    assert (found.credits_before, found.credits_after) == (43, 43)
    assert (found.cost_before_usd, found.cost_after_usd) == (Decimal("0.08458"), Decimal("0.06346"))


def test_what_failed_attempts_cost_stays():
    job_id = a_reserved_job(an_account())
    with transaction() as session:
        refusal = Refusal(Failure.OVERLOADED, usage=Usage(output_tokens=100))
        budget = RetryBudget(attempts=2, wait_max=MINUTE)
        calling.fail(session, a_claim(job_id), refusal, now=NOON, budget=budget, look_after=HOUR)
    claim = a_claim(job_id, again=1)
    with transaction() as session:
        calling.succeed(session, claim, a_delivery(USAGE), now=NOON, publish_by=MINUTE)
        settling.settle(session, [job_id], now=NOON)

    found = whole(model="gpt-5.1", output_cost_per_1m="20")

    assert (found.cost_before_usd, found.cost_after_usd) == (Decimal("0.005125"), Decimal("0.009125"))


def test_only_what_was_settled_in_the_span_counts():
    account_id = an_account()
    a_settled_job(account_id)
    a_reserved_job(account_id)

    assert whole(since=NOON, until=NOON + MINUTE).jobs == 1
    assert whole(since=NOON - DAY, until=NOON).jobs == 0
    assert whole(since=NOON + MINUTE, until=NOON + DAY).jobs == 0


def test_a_named_model_or_operation_leaves_other_usage_out():
    account_id = an_account()
    a_settled_job(account_id)
    a_settled_job(account_id, model="gpt-4o")
    a_settled_job(account_id, "linking")

    assert [(each.operation, each.model) for each in reprice(model="gpt-4o")] == [("clustering", "gpt-4o")]
    assert [(each.operation, each.model) for each in reprice(operation="linking")] == [("linking", "gpt-5.1")]
    assert whole(operation="linking", model="gpt-4o").jobs == 0


# --- What has no price any more ---


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM image_prices WHERE model_name = 'dall-e-3' AND quality = 'standard'",
        "DELETE FROM image_prices WHERE model_name = 'dall-e-3'; "
        "DELETE FROM ai_model_config WHERE model_name = 'dall-e-3'",
        "DELETE FROM credit_cost_config WHERE operation_type = 'image_generation'",
    ],
)
def test_a_job_without_a_price_counts_as_before(statement):
    account_id = an_account()
    a_settled_job(account_id)
    an_image(account_id)
    sql(statement)

    text, image = reprice()

    assert (text.unpriced, image.unpriced, image.jobs) == (0, 1, 1)
    assert (image.credits_before, image.credits_after) == (5, 5)
    assert (image.revenue_after_usd, image.cost_after_usd) == (Decimal("0.10"), Decimal("0.04"))


def test_a_proposal_may_price_what_has_no_price_any_more():
    an_image(an_account())
    sql("DELETE FROM image_prices WHERE model_name = 'dall-e-3'")

    found = whole(model="dall-e-3", cost_per_image_usd="0.05", credits_per_image="8")

    assert (found.unpriced, found.credits_after, found.cost_after_usd) == (0, 8, Decimal("0.05"))


# --- What is refused ---


@pytest.mark.parametrize(
    ("proposed", "code"),
    [
        ({"model": "gpt-5.1", "colour": "red"},                              "unknown_field"),
        ({"model": "gpt-9"},                                                 "unknown_model"),
        ({"operation": "juggling"},                                          "unknown_operation"),
        ({"output_cost_per_1m": "12"},                                       "no_model"),
        ({"credits_per_image": "6"},                                         "no_model"),
        ({"tokens_per_credit": "80"},                                        "no_operation"),
        ({"operation": "clustering", "output_cost_per_1m": "12"},            "no_model"),
        ({"model": "gpt-5.1", "output_cost_per_1m": "-1"},                   "invalid_price"),
        ({"model": "gpt-5.1", "output_cost_per_1m": "100"},                  "implausible_price"),
        ({"model": "gpt-5.1", "output_cost_per_1m": "none"},                 "invalid_field"),
        ({"model": "gpt-5.1", "input_cost_per_1m": "none"},                  "invalid_field"),
        ({"model": "gpt-4o", "credits_per_image": "6", "cost_per_image_usd": "0.1"}, "not_billed_by_image"),
        ({"model": "dall-e-3", "size": "square", "credits_per_image": "6"},  "invalid_field"),
        ({"model": "dall-e-3", "size": "64x64", "credits_per_image": "6", "cost_per_image_usd": "0.1"}, "invalid_size"),
        ({"model": "dall-e-3", "credits_per_image": "6"},                    "invalid_price"),
        ({"model": "google:4@2", "credits_per_image": "none"},               "invalid_field"),
        ({"model": "google:4@2", "cost_per_image_usd": "none"},              "invalid_field"),
        ({"operation": "clustering", "tokens_per_credit": "0"},              "invalid_field"),
        ({"operation": "clustering", "min_credits": "none"},                 "invalid_field"),
        ({"operation": "clustering", "limit_type": "juggling"},              "unknown_plan_limit"),
        ({"default_credit_price_usd": "100"},                                "implausible_price"),
        ({"credit_rounding_mode": "sideways"},                               "invalid_field"),
        ({"credit_rounding_mode": "none"},                                   "invalid_field"),
        ({"default_tokens_per_credit": "none"},                              "invalid_field"),
    ],
)  # fmt: skip
def test_a_proposal_that_could_not_be_made_is_refused_in_one_sentence(proposed, code):
    account_id = an_account()
    a_settled_job(account_id)
    an_image(account_id)
    before = everything()

    assert refused(**proposed).code == code
    assert everything() == before


def test_an_unlikely_price_can_be_tried_out_with_force():
    a_settled_job(an_account(), usage=USAGE)

    assert whole(model="gpt-5.1", output_cost_per_1m="100", force=True).cost_after_usd == Decimal("0.040125")


# --- All of it together ---


PROPOSALS = [
    Proposal(),
    Proposal(operation="clustering", fields={"tokens_per_credit": "73", "min_credits": "3"}),
    Proposal(model="gpt-4o", fields={"output_cost_per_1m": "12.345678", "cached_input_cost_per_1m": "none"}),
    Proposal(fields={"credit_rounding_mode": "nearest"}),
    Proposal(model="dall-e-3", size="1024x1024", fields={"credits_per_image": "7", "cost_per_image_usd": "0.0501"}),
]


@pytest.fixture
def a_hundred_jobs(db):
    """A hundred settled jobs of five kinds, with whatever usage."""
    chance, account_id = random.Random(7), an_account(100_000)
    for _ in range(100):
        if chance.random() < 0.3:
            size, quality = chance.choice(["1024x1024", "1024x1792"]), chance.choice(["standard", "hd"])
            an_image(account_id, n=chance.randint(1, 4), size=size, quality=quality)
            continue
        model = chance.choice(["gpt-5.1", "gpt-4o", "gpt-4o-mini"])
        usage = Usage(*(chance.choice([0, chance.randint(0, 400)]) for _ in range(4)))
        a_settled_job(account_id, chance.choice(["clustering", "linking"]), model=model, usage=usage)


def test_nothing_is_written_and_every_sum_equals_the_naive_fractions(a_hundred_jobs):
    before = everything()
    for proposal in PROPOSALS:
        with transaction() as session:
            # Nothing but its own restraint keeps it from writing here.
            answer = repricing.reprice(session, since=NOON, until=NOON + DAY, proposal=proposal)
        assert everything() == before

        found, jobs = repricing.total(answer), sums_once_it_is_so(proposal)

        assert found.jobs == len(jobs) > 0
        assert found.credits_after == sum(credits for credits, _, _ in jobs)
        assert Fraction(found.revenue_after_usd) == sum(revenue for _, revenue, _ in jobs)
        assert abs(Fraction(found.cost_after_usd) - sum(cost for _, _, cost in jobs)) <= Fraction(len(jobs), 10**10)
        assert (found.credits_before, found.revenue_before_usd, found.cost_before_usd) == rows(
            "SELECT sum(credits_used), sum(revenue_usd), sum(cost_usd) FROM credit_usage_logs "
            "WHERE model_used = coalesce(:model, model_used) AND operation_type = coalesce(:operation, operation_type)",
            model=proposal.model,
            operation=proposal.operation,
        )[0]


def sums_once_it_is_so(proposal):
    """Credits, revenue and cost of each job, from rows that were really changed, in a transaction that is undone."""
    with transaction() as session:
        if "credits_per_image" in proposal.fields:
            changing.set_image_price(session, proposal.model, proposal.size, "*", proposal.fields)
        elif proposal.model:
            changing.set_model(session, proposal.model, proposal.fields)
        elif proposal.operation:
            changing.set_operation(session, proposal.operation, proposal.fields)
        elif proposal.fields:
            changing.set_defaults(session, proposal.fields)
        used = session.execute(text(USED), {"model": proposal.model, "operation": proposal.operation})
        found = [naive(row) for row in used.mappings()]
        session.rollback()
    return found


USED = """
    SELECT l.*, j.work, m.*, o.tokens_per_credit, o.min_credits, o.price_per_credit_usd AS price,
           b.credit_rounding_mode AS mode,
           (SELECT array[p.credits_per_image, p.cost_per_image_usd] FROM image_prices p
             WHERE p.model_name = l.model_used AND p.size IN ('*', j.params ->> 'size')
               AND p.quality IN ('*', j.params ->> 'quality')
             ORDER BY p.size = '*', p.quality = '*' LIMIT 1) AS image
      FROM credit_usage_logs l JOIN generation_jobs j ON j.id = l.job_id
      JOIN ai_model_config m ON m.model_name = l.model_used
      JOIN credit_cost_config o ON o.operation_type = l.operation_type CROSS JOIN billing_configuration b
     WHERE l.model_used = coalesce(:model, l.model_used)
       AND l.operation_type = coalesce(:operation, l.operation_type)
"""


def naive(row):
    """What one job is charged, earns and costs: arithmetic of whole numbers and fractions, and nothing of ours."""
    price, work = Fraction(row["price"]), row["work"]
    if row["image"]:
        each, cost = row["image"]
        credits = max(row["min_credits"], min(row["images"], work["images"]) * int(each))
        return credits, credits * price, row["images"] * Fraction(cost)

    def charged(tokens):
        exact = Fraction(tokens, row["tokens_per_credit"])
        rounded = {"up": -(-exact // 1), "nearest": (exact + Fraction(1, 2)) // 1}[row["mode"]]
        return max(row["min_credits"], rounded)

    fresh, cached, output, reasoning = (
        row[f"tokens_{bucket}"] for bucket in ("input", "input_cached", "output", "reasoning")
    )
    credits = min(
        charged(fresh + cached + output + reasoning), charged(work["input_tokens"] + work["max_output_tokens"])
    )
    rates = [Fraction(row[f"{name}_cost_per_1m"] or 0) for name in ("input", "cached_input", "output", "reasoning")]
    rates = [rates[0], rates[1] or rates[0], rates[2], rates[3] or rates[2]]
    cost = sum(tokens * rate for tokens, rate in zip((fresh, cached, output, reasoning), rates, strict=True)) / 10**6
    return credits, credits * price, cost


def test_special_tokens_and_the_service_tier_are_repriced_at_their_own_rates():
    change("set_model", "gpt-5.1", cache_write_cost_per_1m="2", service_tier_factors="priority=2")
    usage = Usage(input_tokens=100, output_tokens=400, cache_write_tokens=1000, service_tier="priority")
    a_settled_job(an_account(), usage=usage)

    found = whole(model="gpt-5.1", cache_write_cost_per_1m="3")

    # (100 x 1.25 + 400 x 10 + 1000 x 2, then x 3) dollars per million tokens, twice as much for the tier.
    assert (found.cost_before_usd, found.cost_after_usd) == (Decimal("0.01225"), Decimal("0.01425"))
