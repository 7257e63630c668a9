"""What each price earns at its worst: the seeded catalogue, prices that lose money, and prices that are missing."""

from __future__ import annotations

from decimal import Decimal

import pytest

from billing.catalog import current, margins
from config.database import transaction
from tests.catalogue import EMBEDDING, TOKEN_IMAGE, change, everything, sql

pytestmark = pytest.mark.usefixtures("db")


def check(**given):
    with transaction() as session:
        return margins.check(current.read(session), **given)


def problems(**given):
    return {(each.operation, each.model, each.worst): each.problem for each in check(**given) if each.problem}


def the(operation, model, worst=None, **given):
    """The one margin of this operation on this model, and for images of this size and quality."""
    (found,) = [
        each
        for each in check(**given)
        if (each.operation, each.model) == (operation, model) and worst in (None, each.worst)
    ]
    return found


def test_the_seeded_catalogue_is_all_well():
    found = check()

    assert problems() == {}
    # Nine text operations on three models, and eight prices of images.
    assert len(found) == 9 * 3 + 8
    assert {each.model for each in found} == {
        "gpt-5.1", "gpt-4o", "gpt-4o-mini", "dall-e-3", "runware:97@1", "google:4@2",
    }  # fmt: skip


def test_checking_writes_nothing():
    before = everything()
    check()

    assert everything() == before


@pytest.mark.parametrize(
    ("model", "worst", "credits", "revenue", "cost", "percent"),
    [
        ("dall-e-3",     "1024x1024 standard", 5,  "0.10", "0.04",  "60.0"),
        ("dall-e-3",     "1024x1792 hd",       15, "0.30", "0.12",  "60.0"),
        ("runware:97@1", "* *",                5,  "0.10", "0.013", "87.0"),
        ("google:4@2",   "* *",                19, "0.38", "0.15",  "60.5"),
    ],
)  # fmt: skip
def test_an_image_earns_its_credits_less_its_cost(model, worst, credits, revenue, cost, percent):
    margin = the("image_generation", model, worst)

    assert (margin.credits, margin.revenue_usd, margin.cost_usd) == (credits, Decimal(revenue), Decimal(cost))
    assert margin.margin_usd == Decimal(revenue) - Decimal(cost)
    assert margin.margin_percent == Decimal(percent)


def test_a_text_earns_its_credits_less_its_dearest_tokens():
    margin = the("clustering", "gpt-5.1")

    # 100 tokens of output for a credit of a cent: $0.001 of cost, whatever the length.
    assert margin.worst in ("100 output tokens", "1,000,000 output tokens")
    assert (margin.cost_usd / margin.revenue_usd, margin.margin_percent) == (Decimal("0.1"), Decimal(90))


def test_the_specifications_five_credits_for_a_dear_image_lose_five_cents():
    change("set_image_price", "google:4@2", "*", "*", credits_per_image="5")

    assert problems() == {("image_generation", "google:4@2", "* *"): "loses 0.05 USD"}
    margin = the("image_generation", "google:4@2")
    assert (margin.margin_usd, margin.margin_percent) == (Decimal("-0.05"), Decimal(-50))


def test_an_image_that_the_minimum_would_save_is_judged_by_its_own_credits():
    change("set_image_price", "google:4@2", "*", "*", credits_per_image="1", force=True)

    # One image alone is charged the operation's 5 credits; ten of them are charged 10.
    assert problems() == {("image_generation", "google:4@2", "* *"): "loses 0.13 USD"}


@pytest.mark.parametrize(
    ("floor", "poor"),
    [
        (0,  set()),
        (60, set()),
        (61, {"dall-e-3", "google:4@2"}),
        (88, {"dall-e-3", "google:4@2", "runware:97@1"}),
        (91, {"dall-e-3", "google:4@2", "runware:97@1", "gpt-5.1", "gpt-4o"}),
    ],
)  # fmt: skip
def test_the_floor_can_be_given(floor, poor):
    found = problems(floor_percent=floor)

    assert {model for _, model, _ in found} == poor
    assert set(found.values()) == ({f"earns less than the floor of {floor} %"} if poor else set())


def test_the_platforms_own_floor_holds_unless_one_is_given():
    change("set_defaults", min_margin_percent="61")

    assert {model for _, model, _ in problems()} == {"dall-e-3", "google:4@2"}
    assert problems(floor_percent=20) == {}


@pytest.mark.parametrize(
    ("cost", "problem", "rule"),
    [
        ("0.08",     None,                                  "20 % are at the floor"),
        ("0.080001", "earns less than the floor of 20 %",   "19.999 % are under it, and would round to it"),
        ("0.08004",  "earns less than the floor of 20 %",   "19.96 % too"),
        ("0.1",      "earns less than the floor of 20 %",   "nothing at all"),
        ("0.100001", "loses 0.000001 USD",                  "less than nothing"),
    ],
)  # fmt: skip
def test_the_floor_is_compared_exactly(cost, problem, rule):
    change("set_image_price", "dall-e-3", "1024x1024", "standard", cost_per_image_usd=cost)

    assert the("image_generation", "dall-e-3", "1024x1024 standard").problem == problem, rule


@pytest.mark.parametrize(
    ("cost", "warning", "rule"),
    [
        ("0.04",     None,                                               "150 % are as much as is wanted"),
        ("0.040001", "marks its cost up by 150.0 %; 150 % is wanted",    "a crumb less"),
        ("0.06",     "marks its cost up by 66.7 %; 150 % is wanted",     "less"),
        ("0.1",      None,                                               "nothing is a problem, and no warning"),
    ],
)  # fmt: skip
def test_a_price_below_the_wanted_markup_is_a_warning(cost, warning, rule):
    change("set_image_price", "dall-e-3", "1024x1024", "standard", cost_per_image_usd=cost)

    assert the("image_generation", "dall-e-3", "1024x1024 standard").warning == warning, rule


@pytest.mark.parametrize(
    ("markup", "rounding", "warned"), [("150", "up", False), ("150", "down", True), ("100", "up", True)]
)
def test_a_price_by_cost_earns_its_markup(markup, rounding, warned):
    change("set_defaults", credit_rounding_mode=rounding)
    change("set_operation", "clustering", priced_by="cost", markup_percent=markup)

    margin = the("clustering", "gpt-5.1")

    assert (margin.warning is not None) == warned
    assert margin.markup_percent <= Decimal(markup) if warned else margin.markup_percent == Decimal(markup)


def test_an_output_token_that_weighs_more_is_not_the_dearest_any_more():
    change("set_operation", "clustering", output_weight="9")

    assert "input" in the("clustering", "gpt-5.1").worst or "cached" in the("clustering", "gpt-5.1").worst


@pytest.mark.parametrize(
    ("rounding", "worst", "cost"),
    [
        ("down",    "99 output tokens", "0.00099"),
        ("nearest", "49 output tokens", "0.00049"),
    ],
)  # fmt: skip
def test_rounding_down_without_a_minimum_gives_small_usages_away(rounding, worst, cost):
    change("set_defaults", credit_rounding_mode=rounding)
    assert problems() == {}
    change("set_operation", "clustering", min_credits="0")

    margin = the("clustering", "gpt-5.1")

    assert (margin.worst, margin.credits, margin.revenue_usd) == (worst, 0, 0)
    assert (margin.cost_usd, margin.margin_percent) == (Decimal(cost), None)
    assert margin.problem == f"loses {cost} USD"
    assert {operation for operation, _, _ in problems()} == {"clustering"}


def test_rounding_down_is_judged_by_the_usage_that_it_rounds_most():
    change("set_defaults", credit_rounding_mode="down")

    # 199 tokens are charged one credit, as 100 are.
    assert (the("clustering", "gpt-5.1").worst, the("clustering", "gpt-5.1").credits) == ("199 output tokens", 1)


def test_a_large_minimum_with_a_dear_model_is_judged_by_the_most_that_it_buys():
    change("set_operation", "clustering", min_credits="10")
    change("set_model", "gpt-5.1", output_cost_per_1m="99")

    margin = the("clustering", "gpt-5.1")

    assert (margin.credits, margin.margin_percent, margin.problem) == (
        10,
        Decimal("1.0"),
        "earns less than the floor of 20 %",
    )


@pytest.mark.parametrize("bucket", ["cached_input", "reasoning", "input", "output"])
def test_the_dearest_tokens_decide(bucket):
    change("set_model", "gpt-5.1", force=True, **{f"{bucket}_cost_per_1m": "200"})

    margin = the("clustering", "gpt-5.1")

    # Reasoning takes the output's rate unless it has its own.
    assert margin.worst.endswith(f" {bucket.replace('_', ' ')} tokens")
    assert margin.margin_percent == -100


@pytest.mark.parametrize(
    ("tokens_per_credit", "min_credits"), [("100000000", "100"), ("10000", "100000"), ("100000000", "100000")]
)
def test_even_the_most_generous_operation_is_checked(tokens_per_credit, min_credits):
    change("set_operation", "clustering", tokens_per_credit=tokens_per_credit, min_credits=min_credits, force=True)

    assert the("clustering", "gpt-5.1").problem is not None


def test_a_size_without_a_price_is_found():
    sql("DELETE FROM image_prices WHERE model_name = 'dall-e-3' AND size = '1024x1792'")

    assert problems() == {("image_generation", "dall-e-3", "1024x1792"): "has no price"}


def test_a_model_of_any_size_without_a_price_is_found():
    sql("DELETE FROM image_prices WHERE model_name = 'google:4@2'")
    sql("UPDATE ai_model_config SET valid_sizes = NULL WHERE model_name = 'google:4@2'")

    assert problems() == {("image_generation", "google:4@2", "*"): "has no price"}


def test_a_price_for_any_size_leaves_none_unpriced():
    sql("DELETE FROM image_prices WHERE model_name = 'dall-e-3'")
    change("set_image_price", "dall-e-3", "*", "*", cost_per_image_usd="0.04", credits_per_image="5")

    assert problems() == {}


@pytest.mark.parametrize(
    ("tokens_per_credit", "credits", "percent", "problem"),
    [
        ("50",  5, "90.0", None),
        ("500", 5, "0.0",  "earns less than the floor of 20 %"),
        ("600", 5, "-20.0", "loses 0.02 USD"),
    ],
)  # fmt: skip
def test_images_that_are_billed_by_tokens_are_judged_by_their_tokens(tokens_per_credit, credits, percent, problem):
    change("add_model", "gpt-image-1", **TOKEN_IMAGE)
    change("set_operation", "image_generation", tokens_per_credit=tokens_per_credit, force=True)

    margin = the("image_generation", "gpt-image-1")

    # As many tokens as five credits of two cents buy, each at $40 a million.
    assert margin.worst == f"{5 * int(tokens_per_credit):,} output tokens"
    assert (margin.credits, margin.margin_percent, margin.problem) == (
        credits,
        100 - Decimal(tokens_per_credit) / 5,
        problem,
    )
    assert margin.margin_percent == Decimal(percent)


def test_embeddings_are_judged_by_their_input():
    change("add_model", "text-embedding-3-small", **EMBEDDING)
    change("add_operation", "indexing", model_type="embedding", tokens_per_credit="1000000")

    margin = the("indexing", "text-embedding-3-small")

    # A million tokens cost two cents; the credit that they are charged is one.
    assert (margin.worst, margin.problem) == ("1,000,000 input tokens", "loses 0.01 USD")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ai_model_config SET is_active = false WHERE model_name = 'google:4@2'",
        "UPDATE credit_cost_config SET is_active = false WHERE operation_type = 'image_generation'",
    ],
)
def test_what_is_switched_off_is_left_out(statement):
    change("set_image_price", "google:4@2", "*", "*", credits_per_image="5")
    assert problems() != {}

    sql(statement)

    assert problems() == {}
