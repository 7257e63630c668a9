"""The catalogue on real PostgreSQL: which price applies, which model may be used, and what the database refuses."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal

import pytest
from sqlalchemy.exc import IntegrityError

from billing.catalog import catalog_queries, current
from billing.catalog.pricing import ImagePrice
from billing.catalog.rates import TokenRates
from billing.catalog.usage import Usage
from billing.errors import InvalidRequest, PriceNotConfigured
from billing.jobs import quotes, requests, reserving
from billing.jobs.examining import examine
from billing.plans.tables import PlanLimitUsage
from config.database import transaction
from tests.catalogue import EMBEDDING, TOKEN_IMAGE, a_settled_job, change, sql
from tests.factories import (
    MINUTE,
    NOON,
    a_queued_job,
    a_reserved_job,
    an_account,
    moment,
    rows,
    the_account,
    the_job,
)

pytestmark = pytest.mark.usefixtures("db")
TODAY = NOON.date()
DAY = timedelta(days=1)

# Each price once, so that a price names its row: cents for the provider, credits for the customer.
IMAGE_PRICES = {
    ("*", "*"):               ("0.01", 1),
    ("*", "hd"):              ("0.02", 2),
    ("1024x1024", "*"):       ("0.03", 3),
    ("1024x1024", "hd"):      ("0.04", 4),
    ("1024x1792", "standard"): ("0.05", 5),
}  # fmt: skip


@pytest.fixture
def one_price_a_row():
    """dall-e-3 with a different price in each row."""
    sql("DELETE FROM image_prices WHERE model_name = 'dall-e-3'")
    for (size, quality), (cost, credits) in IMAGE_PRICES.items():
        change("set_image_price", "dall-e-3", size, quality, cost_per_image_usd=cost, credits_per_image=credits)


def model(name):
    """The model, to be read after its transaction."""
    with transaction() as session:
        found = catalog_queries.model(session, name)
        assert found is not None
        assert found.image_prices is not None, "loaded while there is a session"
        return found


def image_price(name, size, quality):
    with transaction() as session:
        catalog = current.read(session)
        return catalog.image_price_of(catalog.models[name], size, quality)


def examined(**given):
    with transaction() as session:
        data = {"account_id": 1, "operation": "clustering", "params": {"prompt": "x"}, **given}
        catalog = current.read(session)
        return examine(catalog, requests.parse(data), catalog.settings, today=TODAY)


# --- The price of an image ---


@pytest.mark.parametrize(
    ("size", "quality", "cost", "credits", "rule"),
    [
        ("1024x1024", "hd",       "0.04", 4, "an exact size and quality before all"),
        ("1024x1024", "standard", "0.03", 3, "an exact size before any"),
        ("1024x1024", "low",      "0.03", 3, "a quality without a row of its own"),
        ("1792x1024", "hd",       "0.02", 2, "an exact quality where the size has no row"),
        ("1024x1792", "hd",       "0.02", 2, "a row of the same size and another quality is no row for it"),
        ("1024x1792", "standard", "0.05", 5, "an exact size and quality"),
        ("1792x1024", "standard", "0.01", 1, "any size and quality, last of all"),
    ],
)  # fmt: skip
def test_the_most_specific_image_price_wins(one_price_a_row, size, quality, cost, credits, rule):
    assert image_price("dall-e-3", size, quality) == ImagePrice(size, quality, Decimal(cost), credits), rule


def test_an_exact_size_counts_for_more_than_an_exact_quality(one_price_a_row):
    sql("DELETE FROM image_prices WHERE size = '1024x1024' AND quality = 'hd'")

    assert image_price("dall-e-3", "1024x1024", "hd").credits == 3


@pytest.mark.parametrize(
    ("name", "size", "quality"),
    [("dall-e-3", "512x512", "standard"), ("dall-e-3", "1024x1024", "ultra"), ("gpt-5.1", "1024x1024", "standard")],
)
def test_what_has_no_price_is_refused_and_never_given_away(name, size, quality):
    with pytest.raises(PriceNotConfigured, match=f"{name} has no price for images of {size} in {quality} quality."):
        image_price(name, size, quality)


def test_the_cost_per_image_is_the_row_for_any_size_and_follows_it():
    assert model("google:4@2").cost_per_image == Decimal("0.15")
    assert model("dall-e-3").cost_per_image is None

    change("set_image_price", "google:4@2", "*", "*", cost_per_image_usd="0.2")
    change("set_image_price", "google:4@2", "1024x1024", "*", cost_per_image_usd="0.3", credits_per_image="30")
    assert model("google:4@2").cost_per_image == Decimal("0.2")

    sql("DELETE FROM image_prices WHERE model_name = 'google:4@2' AND size = '*'")
    assert model("google:4@2").cost_per_image is None


def test_the_seeded_standard_square_image_keeps_60_percent():
    used = {"operation": "image_generation", "images": 1, "size": "1024x1024", "quality": "standard"}
    with transaction() as session:
        quoted = quotes.quote_usage(used, at=moment(session))

    assert (quoted.credits, quoted.revenue_usd, quoted.cost_usd) == (5, Decimal("0.10"), Decimal("0.04"))
    assert quoted.margin_usd / quoted.revenue_usd == Decimal("0.6")


# --- The specification's methods ---


def test_tokens_cost_their_rates():
    assert model("gpt-4o").get_cost_for_tokens(1_000_000, 500_000) == Decimal("7.5")
    assert model("gpt-4o-mini").get_cost_for_tokens(1, 1) == Decimal("0.00000075")
    assert model("gpt-4o").get_cost_for_tokens(0, 0) == 0


def test_a_model_without_token_rates_has_no_cost_for_tokens():
    with pytest.raises(ValueError, match="dall-e-3 has no token rates"):
        model("dall-e-3").get_cost_for_tokens(1, 1)


def test_images_cost_the_price_for_any_size():
    assert model("google:4@2").get_cost_for_images(3) == Decimal("0.45")
    assert model("runware:97@1").get_cost_for_images(0) == 0


@pytest.mark.parametrize("name", ["dall-e-3", "gpt-5.1"])
def test_where_sizes_have_their_own_prices_images_have_no_single_cost(name):
    with pytest.raises(ValueError, match=f"{name} has no price for images of any size"):
        model(name).get_cost_for_images(1)


@pytest.mark.parametrize(
    ("name", "size", "valid"),
    [("dall-e-3", "1024x1792", True), ("dall-e-3", "512x512", False), ("dall-e-3", "", False), ("gpt-4o", "1x1", True)],
)
def test_a_model_makes_the_sizes_on_its_list_or_all(name, size, valid):
    assert model(name).validate_size(size) is valid


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("gpt-5.1",      "GPT-5.1 - $1.25/$10 per 1M"),
        ("gpt-4o-mini",  "GPT-4o mini - $0.15/$0.6 per 1M"),
        ("dall-e-3",     "DALL·E 3 - $0.04 to $0.12 per image"),
        ("google:4@2",   "Google Nano Banana - $0.15 per image"),
        ("runware:97@1", "HiDream Full - no price"),
        ("gpt-image-1",  "gpt-image-1 - $5/$40 per 1M"),
    ],
)  # fmt: skip
def test_a_model_is_shown_with_its_price(name, shown):
    sql("DELETE FROM image_prices WHERE model_name = 'runware:97@1'")
    change("add_model", "gpt-image-1", **TOKEN_IMAGE)

    assert model(name).get_display_with_pricing() == shown


def test_a_model_that_is_billed_by_the_image_is_shown_by_the_image_whatever_its_input_costs():
    change("set_model", "dall-e-3", input_cost_per_1m="5")

    assert model("dall-e-3").bills_images
    assert model("dall-e-3").get_display_with_pricing() == "DALL·E 3 - $0.04 to $0.12 per image"


@pytest.mark.parametrize(
    ("used", "limit", "remaining", "percent", "rule"),
    [
        (0,   100, 100, 0,   "unused"),
        (30,  100, 70,  30,  "partly used"),
        (100, 100, 0,   100, "used up"),
        (130, 100, 0,   100, "a plan that became smaller"),
        (1,   3,   2,   33,  "whole percent"),
        (2,   3,   1,   66,  "never more than was used"),
        (0,   0,   0,   0,   "nothing allowed"),
        (5,   0,   0,   0,   "nothing allowed any more"),
    ],
)  # fmt: skip
def test_a_plan_limit_knows_what_is_left_of_it(used, limit, remaining, percent, rule):
    usage = PlanLimitUsage(amount_used=used, amount_reserved=50)

    assert (usage.remaining_allowance(limit), usage.percentage_used(limit)) == (remaining, percent), rule


@pytest.mark.parametrize(
    ("day", "current"),
    [(date(2026, 10, 31), False), (date(2026, 11, 1), True), (date(2026, 11, 30), True), (date(2026, 12, 1), False)],
)
def test_a_period_holds_its_first_day_and_not_its_end(day, current):
    usage = PlanLimitUsage(period_start=date(2026, 11, 1), period_end=date(2026, 12, 1))

    assert usage.is_current_period(day) is current


@pytest.mark.parametrize(
    ("cached", "reasoning", "expected", "rule"),
    [
        (None,  None, TokenRates(Decimal(2), Decimal(2),     Decimal(8), Decimal(8)),  "input and output stand in"),
        ("0.5", None, TokenRates(Decimal(2), Decimal("0.5"), Decimal(8), Decimal(8)),  "its own cached rate"),
        (None,  "12", TokenRates(Decimal(2), Decimal(2),     Decimal(8), Decimal(12)), "its own reasoning rate"),
    ],
)  # fmt: skip
def test_missing_rates_are_those_of_input_and_output(cached, reasoning, expected, rule):
    rates = {"cached_input_cost_per_1m": cached, "reasoning_cost_per_1m": reasoning}
    change("set_model", "gpt-4o", input_cost_per_1m="2", output_cost_per_1m="8", **rates)

    assert model("gpt-4o").rates == expected, rule


# --- Which model may be used ---


@pytest.mark.parametrize("default", ["gpt-5.1", "dall-e-3"])
def test_the_database_keeps_one_default_a_type(default):
    other = {"gpt-5.1": "gpt-4o", "dall-e-3": "google:4@2"}[default]

    with pytest.raises(IntegrityError, match="one_default_a_type"):
        sql("UPDATE ai_model_config SET is_default = true WHERE model_name = :other", other=other)
    with pytest.raises(IntegrityError, match="one_default_a_type"):
        sql(
            "INSERT INTO ai_model_config (model_name, display_name, model_type, provider, api, is_default, "
            "input_cost_per_1m, output_cost_per_1m, context_window, max_output_tokens) "
            "SELECT 'second', 'Second', model_type, provider, api, true, 1, 1, 1, 1 "
            "FROM ai_model_config WHERE model_name = :default",
            default=default,
        )
    assert rows("SELECT model_name FROM ai_model_config WHERE is_default ORDER BY model_name") == [
        ("dall-e-3",),
        ("gpt-5.1",),
    ]


@pytest.mark.parametrize(
    ("days", "refused", "warned", "rule"),
    [
        (-1, True,  True,  "it was taken away yesterday"),
        (0,  True,  True,  "it is taken away today"),
        (1,  False, True,  "its last day"),
        (30, False, True,  "the first day of the notice"),
        (31, False, False, "before the notice"),
    ],
)  # fmt: skip
def test_a_model_is_refused_from_its_deprecation_date_on_and_warns_before_it(days, refused, warned, rule):
    change("set_model", "gpt-4o", deprecation_date=str(TODAY + days * DAY))

    with transaction() as session:
        catalog = current.read(session)
        warning = catalog.deprecation_warning(catalog.models["gpt-4o"], today=TODAY)
    assert (warning is not None) is warned, rule
    if refused:
        with pytest.raises(InvalidRequest, match="The provider has taken gpt-4o away on") as caught:
            examined(model="gpt-4o")
        assert caught.value.code == "model_deprecated", rule
    else:
        assert examined(model="gpt-4o").warning == warning, rule


def test_the_notice_is_as_long_as_the_platform_says():
    change("set_model", "gpt-4o", deprecation_date=str(TODAY + 10 * DAY))
    assert examined(model="gpt-4o").warning == ("The provider takes gpt-4o away on 2026-11-30: use another model.")

    change("set_defaults", deprecation_notice_days="9")
    assert examined(model="gpt-4o").warning is None


@pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31"])
def test_a_deprecation_date_may_be_as_far_away_as_dates_go(day):
    change("set_model", "gpt-4o", deprecation_date=day)

    with transaction() as session:
        catalog = current.read(session)
        warning = catalog.deprecation_warning(catalog.models["gpt-4o"], today=TODAY)
    assert (warning is None) is (day > "2026")


def test_a_job_that_waited_past_its_models_last_day_is_rejected_and_holds_nothing():
    account_id = an_account()
    job_id = a_queued_job(account_id, model="gpt-4o", now=NOON - DAY)
    change("set_model", "gpt-4o", deprecation_date=str(TODAY))

    with transaction() as session:
        assert reserving.reserve(session, [job_id], at=moment(session), publish_by=MINUTE).job_ids == []

    assert (the_job(job_id).state, the_job(job_id).error_code) == ("rejected", "model_deprecated")
    assert the_account(account_id).reserved == 0


# --- Models of other kinds ---


def test_an_image_model_that_bills_by_tokens_is_reserved_for_its_most_and_charged_for_its_own():
    change("add_model", "gpt-image-1", **TOKEN_IMAGE)
    account_id = an_account(1000)
    params = {"prompt": "Two dogs.", "n": 2}

    reserved = the_job(a_reserved_job(account_id, "image_generation", model="gpt-image-1", params=params))
    usage = Usage(input_tokens=20, output_tokens=2112, images=2)
    settled = the_job(a_settled_job(account_id, "image_generation", model="gpt-image-1", params=params, usage=usage))

    # Without a tokenizer the prompt is counted by its bytes: 9 of them, 24 of the platform's style, and 24 of framing.
    assert reserved.work == {"input_tokens": 57, "max_output_tokens": 2 * 6240, "images": 2, "images_per_call": 0}
    # 12,537 tokens at 50 a credit.
    assert reserved.credits_reserved == 251
    # 2,132 tokens at 50 a credit; 20 x 5 + 2,112 x 40 dollars per million.
    assert (settled.credits_charged, settled.cost_usd) == (43, Decimal("0.08458"))
    assert (reserved.limit_type, reserved.params["size"]) == ("images_premium", "1024x1024")


def test_an_image_model_that_bills_by_tokens_and_delivers_nothing_is_charged_nothing():
    change("add_model", "gpt-image-1", **TOKEN_IMAGE)

    job_id = a_settled_job(an_account(), "image_generation", model="gpt-image-1", usage=Usage(input_tokens=20))

    assert (the_job(job_id).credits_charged, the_job(job_id).cost_usd) == (0, Decimal("0.0001"))


def test_an_embedding_model_and_its_operation_can_be_added_quoted_and_charged():
    change("add_model", "text-embedding-3-small", **EMBEDDING)
    change("add_operation", "indexing", model_type="embedding", tokens_per_credit="1000", price_per_credit_usd="0.01")
    account_id, params = an_account(), {"input": ["a" * 1000, "b" * 1000]}

    quoted = requests.parse({"account_id": account_id, "operation": "indexing", "params": params})
    with transaction() as session:
        assert quotes.quote(session, quoted, at=moment(session, of=[quoted])).credits == 3
    # 2,000 bytes and 32 of framing, at 1,000 a credit.
    assert the_job(a_reserved_job(account_id, "indexing", params=params)).credits_reserved == 3
    settled = the_job(a_settled_job(account_id, "indexing", params=params, usage=Usage(input_tokens=500)))
    assert (settled.kind, settled.credits_charged, settled.cost_usd) == ("embedding", 1, Decimal("0.00001"))


# --- What the database itself refuses ---


@pytest.mark.parametrize(
    ("table", "column", "rule"),
    [
        ("ai_model_config",       "input_cost_per_1m",        "ck_ai_model_config_rates"),
        ("ai_model_config",       "cached_input_cost_per_1m", "ck_ai_model_config_rates"),
        ("ai_model_config",       "output_cost_per_1m",       "ck_ai_model_config_rates"),
        ("ai_model_config",       "reasoning_cost_per_1m",    "ck_ai_model_config_rates"),
        ("image_prices",          "cost_per_image_usd",       "ck_image_prices_cost"),
        ("credit_cost_config",    "price_per_credit_usd",     "ck_credit_cost_config_price_per_credit"),
        ("billing_configuration", "default_credit_price_usd", "ck_billing_configuration_price_per_credit"),
    ],
)  # fmt: skip
def test_the_database_refuses_a_bad_price(table, column, rule):
    for value in ("'NaN'", "0", "-1", "1.1234567", "0.00009", "10000", "9999.9999999"):
        with pytest.raises(IntegrityError, match=rule):
            sql(f"UPDATE {table} SET {column} = {value}")


@pytest.mark.parametrize("value", ["0.0001", "9999.999999", "1.1234560"])
def test_the_database_takes_every_price_within_the_rules(value):
    for column in ("input_cost_per_1m", "cached_input_cost_per_1m", "output_cost_per_1m", "reasoning_cost_per_1m"):
        sql(f"UPDATE ai_model_config SET {column} = {value} WHERE model_type = 'text'")
    sql(f"UPDATE image_prices SET cost_per_image_usd = {value}")
    sql(f"UPDATE credit_cost_config SET price_per_credit_usd = {value}")
    sql(f"UPDATE billing_configuration SET default_credit_price_usd = {value}")

    assert rows("SELECT DISTINCT price_per_credit_usd FROM credit_cost_config") == [(Decimal(value),)]


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        ("UPDATE ai_model_config SET input_cost_per_1m = NULL WHERE model_type = 'text'", "text_has_rates_and_limits"),
        ("UPDATE ai_model_config SET max_output_tokens = NULL WHERE model_type = 'text'", "text_has_rates_and_limits"),
        ("UPDATE ai_model_config SET output_cost_per_1m = 40 WHERE model_type = 'image'", "token_images_have_rates"),
        ("UPDATE ai_model_config SET model_type='embedding', api='embeddings' WHERE id > 3",   "embedding_has_rate"),
        ("UPDATE ai_model_config SET limit_type = 'juggling'",                          "fk_ai_model_config_limit"),
        ("UPDATE credit_cost_config SET limit_type = 'juggling'",                        "fk_credit_cost_config_limit"),
        ("UPDATE image_prices SET credits_per_image = 0",                                 "ck_image_prices_credits"),
        ("UPDATE image_prices SET size = '*', quality = '*' WHERE model_name = 'dall-e-3'", "uq_image_prices"),
        ("UPDATE billing_configuration SET words_per_100_tokens = 0",                     "words_per_100_tokens"),
        ("UPDATE billing_configuration SET typical_output_percent = 101",                 "typical_output_percent"),
        ("UPDATE billing_configuration SET min_margin_percent = 100",                     "min_margin_percent"),
        ("UPDATE billing_configuration SET deprecation_notice_days = -1",                 "deprecation_notice_days"),
    ],
)  # fmt: skip
def test_the_database_refuses_what_could_not_be_billed(statement, rule):
    with pytest.raises(IntegrityError, match=rule):
        sql(statement)
