"""Changing the catalogue: what is refused in one sentence and changes nothing, and the history of what was changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from billing.catalog import changing, current, history
from billing.errors import BillingError
from billing.plans.tables import Plan
from config.database import transaction
from tests.catalogue import EMBEDDING, TOKEN_IMAGE, change, everything, sql
from tests.factories import rows

pytestmark = pytest.mark.usefixtures("db")

TEXT = {
    "model_type": "text",
    "provider": "openai",
    "input_cost_per_1m": "2",
    "output_cost_per_1m": "8",
    "context_window": "1047576",
    "max_output_tokens": "32768",
}
HD = ["dall-e-3", "1024x1024", "hd"]
EIGHT = {"credits_per_image": "8"}


def less(fields, *missing):
    return {name: value for name, value in fields.items() if name not in missing}


def the_row(table, where="true"):
    """One row of the catalogue as plain data."""
    ((row,),) = rows(f"SELECT to_jsonb(t) FROM {table} t WHERE {where}")
    return row


def the_model(name):
    return the_row("ai_model_config", f"model_name = '{name}'")


def told(tables, name, limit=100):
    with transaction() as session:
        return [
            (each.row, each.action, each.field, each.old, each.new)
            for each in history.changes(session, tables, name, limit=limit).rows
        ]


def in_history():
    return rows("SELECT count(*) FROM change_history")[0][0]


def refused(what, *names, force=False, **fields):
    """Ask for a change that is refused, and commit whatever it left; returns the refusal."""
    before = everything()
    with transaction() as session, pytest.raises(BillingError) as caught:
        getattr(changing, what)(session, *names, fields, force=force)
    assert everything() == before
    assert caught.value.message.endswith(".")
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 1_000
    return caught.value


# --- What is refused ---


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ({},                                        "nothing_to_change",  "give a field and its value"),
        ({"price": "1"},                            "unknown_field",      "There is no field 'price'. The how-to of"),
        ({"imput_cost_per_1m": "1"},                "unknown_field",      "The nearest: input_cost_per_1m, "),
        ({"model_type": "image"},                   "unknown_field",      "There is no field 'model_type'"),
        ({"a\nb": "1"},                             "unknown_field",      r"'a\nb'"),
        ({"output_cost_per_1m": "-1"},              "invalid_price",      "output_cost_per_1m must be more than 0"),
        ({"output_cost_per_1m": "NaN"},             "invalid_price",      "it is NaN"),
        ({"output_cost_per_1m": "ten"},             "invalid_price",      "must be a number of USD per 1,000,000"),
        ({"output_cost_per_1m": "0.0000025"},       "implausible_price",  "Was it meant per token?"),
        ({"output_cost_per_1m": "0.0025"},          "implausible_price",  "Was it meant per 1,000 tokens?"),
        ({"output_cost_per_1m": "100"},             "implausible_price",  "and was 10: a change of 10 times or more"),
        ({"cached_input_cost_per_1m": "2.51"},      "implausible_price",  "dearer than fresh input at 2.5"),
        ({"input_cost_per_1m": "1"},                "implausible_price",  "Cached input at 1.25"),
        ({"output_cost_per_1m": "none"},            "invalid_field",      "A text model needs input_cost_per_1m"),
        ({"max_output_tokens": "none"},             "invalid_field",      "A text model needs input_cost_per_1m"),
        ({"display_name": "none"},                  "invalid_field",      "display_name cannot be empty"),
        ({"display_name": "a\nb"},                  "invalid_field",      "display_name: "),
        ({"display_name": "x" * 201},               "invalid_field",      "display_name: "),
        ({"display_name": "\udcff"},                "invalid_field",      "display_name: "),
        ({"description": "a\x00b"},                 "invalid_field",      "description: "),
        ({"context_window": "many"},                "invalid_field",      "context_window: "),
        ({"valid_sizes": "1024x1024, 512x512"},     "invalid_field",      "valid_sizes: "),
        ({"valid_qualities": "auto, low"},          "invalid_field",      "valid_qualities: "),
        ({"valid_qualities": "low"},                "invalid_field",      "Qualities, styles and response_format are"),
        ({"response_format": "url"},                "invalid_field",      "Qualities, styles and response_format are"),
        ({"encoding_format": "float"},              "invalid_field",      "encoding_format is of embedding models"),
        ({"encoding_format": "packed"},             "invalid_field",      "encoding_format: "),
        ({"limit_type": "juggling"},                "unknown_plan_limit", "There is no plan limit 'juggling'. Known: "),
        ({"is_active": "perhaps"},                  "invalid_field",      "is_active: "),
        ({"is_default": "none"},                    "invalid_field",      "is_default cannot be empty"),
        ({"deprecation_date": "soon"},              "invalid_field",      "deprecation_date: "),
        ({"deprecation_date": "2026-02-30"},        "invalid_field",      "deprecation_date: "),
        ({"sort_order": "5", "max_images": "0"},    "invalid_field",      "max_images: "),
        ({"is_default": "true", "context_window": "none"}, "invalid_field", "A text model needs input_cost_per_1m"),
    ],
)  # fmt: skip
def test_a_bad_change_of_a_model_is_one_sentence_and_changes_nothing(fields, code, said):
    error = refused("set_model", "gpt-4o", **fields)

    assert (error.code, said in error.message) == (code, True), error.message


@pytest.mark.parametrize(
    ("what", "names", "fields", "code", "said"),
    [
        ("set_model", ["gpt-9"],    {"sort_order": "1"},          "unknown_model", "Known: dall-e-3, runware:97@1, "),
        ("set_model", ["\udcff"],   {"sort_order": "1"},          "unknown_model", "There is no model"),
        ("set_image_price", ["dall-e-3", "*", "low"], EIGHT,      "invalid_quality", "takes no quality low. Known: "),
        ("set_model", ["dall-e-3"], {"output_cost_per_1m": "40"}, "invalid_field", "An image model that bills by"),
        ("add_model", ["gpt-4o"],   TEXT,                         "model_exists",  "There is a model gpt-4o already"),
        ("add_model", ["gpt 4.1"],  TEXT,                         "invalid_field", "the name is not of its form"),
        ("add_model", ["a\nb"],     TEXT,                         "invalid_field", "the name is not of its form"),
        ("add_model", ["x" * 101],  TEXT,                         "invalid_field", "the name is not of its form"),
        ("add_model", ["new"],      {},                           "nothing_to_change", "give a field and its value"),
        ("add_model", ["new"],      less(TEXT, "model_type"),     "invalid_field", "model_type: "),
        ("add_model", ["new"],      less(TEXT, "output_cost_per_1m"), "invalid_field",      "A text model needs"),
        ("add_model", ["new"],      TEXT | {"input_cost_per_1m": "2e-6"}, "implausible_price", "meant per token?"),
        ("add_model", ["new"],      TEXT | {"limit_type": "juggling"},  "unknown_plan_limit", "Known: content_ideas"),
        ("add_model", ["new"],      less(TOKEN_IMAGE, "max_output_tokens"), "invalid_field", "that one image takes"),
        ("add_model", ["new"],      less(EMBEDDING, "context_window"),  "invalid_field",    "An embedding model needs"),
        ("set_image_price", ["gpt-4o", "*", "*"],         EIGHT,  "not_billed_by_image", "gpt-4o is not billed by"),
        ("set_image_price", ["gpt-9", "*", "*"],          EIGHT,  "unknown_model",  "There is no model 'gpt-9'"),
        ("set_image_price", ["dall-e-3", "square", "hd"], EIGHT,  "invalid_field",  "size is not of its form"),
        ("set_image_price", ["dall-e-3", "64x64", "hd"],  EIGHT,  "invalid_size",   "no images of 64x64. Known: "),
        ("set_image_price", ["dall-e-3", "*", "HD"],      EIGHT,  "invalid_field",  "quality is not of its form"),
        ("set_image_price", ["dall-e-3", "*", "*"],       EIGHT,  "invalid_price",  "A new price needs cost_per_image"),
        ("set_image_price", HD, {"credits_per_image": "0"},       "invalid_field",     "credits_per_image: "),
        ("set_image_price", HD, {"cost_per_image_usd": "0.8"},    "implausible_price", "USD per image and was 0.08"),
        ("set_image_price", HD, {"cost_per_image_usd": "0"},      "invalid_price",     "more than 0 USD per image"),
        ("set_image_price", HD, {"cost_per_image_usd": "none"},   "invalid_field",     "cannot be empty"),
        ("set_operation", ["juggling"],   {"min_credits": "1"},   "unknown_operation", "Known: clustering, "),
        ("set_operation", ["\udcff"],     {"min_credits": "1"},   "unknown_operation", "There is no "),
        ("set_operation", ["clustering"], {"model_type": "image"},          "unknown_field",      "'model_type'"),
        ("set_operation", ["clustering"], {"tokens_per_credit": "0"},    "invalid_field",   "tokens_per_credit: "),
        ("set_operation", ["clustering"], {"min_credits": "none"},          "invalid_field",      "cannot be empty"),
        ("set_operation", ["clustering"], {"price_per_credit_usd": "0.1"},  "implausible_price",  "and was 0.01"),
        ("set_operation", ["clustering"], {"priced_by": "words"},           "invalid_field",      "priced_by: "),
        ("set_operation", ["clustering"], {"priced_by": "cost"},            "invalid_field",      "markup_percent."),
        ("set_operation", ["clustering"], {"output_weight": "0"},           "invalid_field",      "is more than 0"),
        ("set_operation", ["clustering"], {"output_weight": "40"},          "implausible_price",  "was 1"),
        ("set_operation", ["clustering"], {"output_weight": "-4"},          "invalid_field",      "output_weight: "),
        ("set_operation", ["clustering"], {"markup_percent": "1.5"},        "implausible_price",  "Was 150 meant?"),
        ("set_operation", ["clustering"], {"markup_percent": "0"},          "implausible_price",  "expected 5 to"),
        ("set_operation", ["clustering"], {"markup_percent": "1001"},       "implausible_price",  "expected 5 to"),
        ("set_operation", ["clustering"], {"markup_percent": "1e2"},        "invalid_field",      "markup_percent: "),
        ("set_operation", ["clustering"], {"markup_percent": "١٥٠"},        "invalid_field",      "markup_percent: "),
        ("set_override", ["juggling", "gpt-4o"],     {"min_credits": "1"},  "unknown_operation",  "Known: "),
        ("set_override", ["clustering", "gpt-9"],    {"min_credits": "1"},  "unknown_model",      "no model 'gpt-9'"),
        ("set_override", ["clustering", "dall-e-3"], {"min_credits": "1"},  "model_type_mismatch", "is for image"),
        ("set_override", ["clustering", "gpt-4o"],   {"priced_by": "cost"}, "invalid_field",      "markup_percent."),
        ("set_override", ["clustering", "gpt-4o"],   {"tokens_per_credit": "5"}, "implausible_price", "was 100"),
        ("set_override", ["clustering", "gpt-4o"],   {"display_name": "x"}, "unknown_field",      "'display_name'"),
        ("set_operation", ["clustering"], {"limit_unit": "pages"},          "invalid_field",      "limit_unit: "),
        ("set_operation", ["clustering"], {"limit_type": "pages"},          "unknown_plan_limit", "limit 'pages'"),
        ("add_operation", ["clustering"], {"model_type": "text"},           "operation_exists",   "clustering already"),
        ("add_operation", ["new"],        {"model_type": "video"},          "invalid_field",      "model_type: "),
        ("set_defaults", [], {"default_tokens_per_credit": "none"}, "invalid_field",     "cannot be empty"),
        ("set_defaults", [], {"default_credit_price_usd": "100"},   "implausible_price", "100 USD per credit"),
        ("set_defaults", [], {"credit_rounding_mode": "sideways"},  "invalid_field",     "credit_rounding_mode: "),
        ("set_defaults", [], {"typical_output_percent": "0"},       "invalid_field",     "typical_output_percent: "),
        ("set_defaults", [], {"min_margin_percent": "100"},         "invalid_field",     "min_margin_percent: "),
    ],
)  # fmt: skip
def test_a_bad_change_is_one_sentence_and_changes_nothing(what, names, fields, code, said):
    error = refused(what, *names, **fields)

    assert (error.code, said in error.message) == (code, True), error.message


@pytest.mark.parametrize(("given", "code"), [("0.0000001", "invalid_price"), ("12345678901", "invalid_price")])
def test_force_never_lets_through_what_can_be_no_price(given, code):
    assert refused("set_model", "gpt-4o", output_cost_per_1m=given, force=True).code == code


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (("dall-e-3", "*", "*"), "price_not_configured"),
        (("dall-e-3", "\udcff", "*"), "invalid_field"),
        (("gpt-9", "*", "*"), "unknown_model"),
    ],
)
def test_a_price_that_is_not_there_cannot_be_taken_away(names, code):
    with transaction() as session, pytest.raises(BillingError) as caught:
        changing.remove_image_price(session, *names)

    assert caught.value.code == code
    assert in_history() == 0


def test_a_refused_change_leaves_the_rest_of_its_transaction_alone():
    with transaction() as session:
        changing.set_model(session, "gpt-4o-mini", {"sort_order": "7"})
        with pytest.raises(BillingError, match="A text model needs"):
            changing.set_model(session, "gpt-4o", {"is_default": "true", "context_window": "none"})

    assert the_model("gpt-4o-mini")["sort_order"] == 7
    assert (the_model("gpt-5.1")["is_default"], in_history()) == (True, 1)


# --- What is changed ---


def test_a_model_is_changed_in_what_was_given_and_nothing_else():
    before = the_model("gpt-4o")

    change("set_model", "gpt-4o", output_cost_per_1m="12.5", deprecation_date="2027-03-31", supports_vision="no")

    after = the_model("gpt-4o")
    assert {name for name in after if after[name] != before[name]} == {
        "output_cost_per_1m", "deprecation_date", "supports_vision", "updated_at",
    }  # fmt: skip
    assert (after["output_cost_per_1m"], after["deprecation_date"]) == (12.5, "2027-03-31")


def test_force_lets_an_unlikely_price_through():
    change("set_model", "gpt-4o", output_cost_per_1m="0.0025", cached_input_cost_per_1m="5", force=True)

    assert the_model("gpt-4o")["cached_input_cost_per_1m"] == 5


@pytest.mark.parametrize("cleared", ["none", "NONE", " none ", "", None])
def test_none_empties_a_field(cleared):
    change("set_model", "gpt-4o", cached_input_cost_per_1m=cleared, tokenizer=cleared)
    change("set_operation", "clustering", tokens_per_credit=cleared, price_per_credit_usd=cleared)

    model, operation = the_model("gpt-4o"), the_row("credit_cost_config", "operation_type = 'clustering'")
    assert (model["cached_input_cost_per_1m"], model["tokenizer"]) == (None, None)
    assert (operation["tokens_per_credit"], operation["price_per_credit_usd"]) == (None, None)


@pytest.mark.parametrize(
    ("fields", "api"),
    [
        (TEXT, "responses"),
        (TOKEN_IMAGE, "images"),
        (EMBEDDING, "embeddings"),
        (TEXT | {"api": "chat_completions"}, "chat_completions"),
    ],
)
def test_a_new_model_speaks_the_interface_of_its_type_unless_it_is_told(fields, api):
    change("add_model", "new-model", **fields)

    added = the_model("new-model")
    assert (added["api"], added["display_name"], added["is_active"]) == (api, "new-model", True)


@pytest.mark.parametrize("how", ["set", "add"])
def test_making_another_model_the_default_moves_the_default(how):
    if how == "set":
        change("set_model", "gpt-4o-mini", is_default="true")
    else:
        change("add_model", "gpt-4.1", is_default="true", **TEXT)

    with transaction() as session:
        catalog = current.read(session)
        assert catalog.default_model("text").model_name == {"set": "gpt-4o-mini", "add": "gpt-4.1"}[how]
        assert catalog.default_model("image").model_name == "dall-e-3"
    assert rows("SELECT count(*) FROM ai_model_config WHERE is_default") == [(2,)]


def test_an_image_price_is_added_changed_and_taken_away():
    change("set_image_price", "dall-e-3", "*", "*", cost_per_image_usd="0.1", credits_per_image="12")
    change("set_image_price", "dall-e-3", "*", "*", credits_per_image="13")
    price = "SELECT credits_per_image FROM image_prices WHERE size = '*' AND model_name = 'dall-e-3'"
    assert rows(price) == [(13,)]

    with transaction() as session:
        changing.remove_image_price(session, "dall-e-3", "*", "*")
    assert rows(price) == []


# --- The history ---


def test_the_history_keeps_old_and_new_values_the_time_and_the_actor():
    begin = datetime.now(UTC)
    with transaction() as session:
        history.act_as(session, "ada")
        changing.set_model(session, "gpt-4o", {"output_cost_per_1m": "12.5", "sort_order": "7"})

    with transaction() as session:
        changes = history.changes(session, history.MODEL, "gpt-4o", limit=10).rows
    assert [(each.field, each.old, each.new) for each in sorted(changes, key=lambda each: each.field)] == [
        ("output_cost_per_1m", 10, 12.5),
        ("sort_order",         20, 7),
    ]  # fmt: skip
    assert {(each.actor, each.table, each.action) for each in changes} == {("ada", "ai_model_config", "update")}
    assert {begin <= each.changed_at <= begin + timedelta(minutes=1) for each in changes} == {True}


def test_the_actor_of_one_transaction_is_not_that_of_the_next():
    with transaction() as session:
        history.act_as(session, "ada")
    change("set_model", "gpt-4o", sort_order="7")

    assert rows("SELECT DISTINCT actor = session_user FROM change_history") == [(True,)]


def test_image_prices_are_told_under_their_models_name():
    change("set_image_price", "dall-e-3", "1024x1024", "hd", credits_per_image="11")
    change("set_model", "dall-e-3", max_images="1")
    change("set_image_price", "google:4@2", "*", "*", credits_per_image="20")

    assert told(history.MODEL, "dall-e-3") == [
        ("dall-e-3",              "update", "max_images",        10, 1),
        ("dall-e-3 1024x1024 hd", "update", "credits_per_image", 10, 11),
    ]  # fmt: skip
    assert told(history.MODEL, "dall-e-3", limit=1) == told(history.MODEL, "dall-e-3")[:1]


def test_a_change_by_hand_is_kept_under_the_databases_user():
    sql("UPDATE credit_cost_config SET min_credits = 3 WHERE operation_type = 'clustering'")
    sql("UPDATE billing_configuration SET min_margin_percent = 30")

    assert told(history.OPERATION, "clustering") == [("clustering", "update", "min_credits", 1, 3)]
    assert told(history.DEFAULTS, "1") == [("1", "update", "min_margin_percent", 20, 30)]
    assert rows("SELECT DISTINCT actor = session_user FROM change_history") == [(True,)]


def test_the_history_keeps_what_was_added_and_taken_away():
    with transaction() as session:
        session.add(Plan(slug="starter", name="Starter", limits={"content_ideas": 5}))
    sql("UPDATE plans SET limits = '{}'")
    sql("DELETE FROM plans")

    before = {"content_ideas": 5}
    found = rows("SELECT action, old ->> 'name', new ->> 'name', old -> 'limits', new -> 'limits' FROM change_history")
    assert found == [
        ("insert", None,      "Starter", None,   before),
        ("update", "Starter", "Starter", before, {}),
        ("delete", "Starter", None,      {},     None),
    ]  # fmt: skip


def test_a_price_that_was_taken_away_is_told_with_what_it_was():
    with transaction() as session:
        changing.remove_image_price(session, "dall-e-3", "1024x1024", "hd")

    assert ("dall-e-3 1024x1024 hd", "delete", "credits_per_image", 10, None) in told(history.MODEL, "dall-e-3")


def test_a_rule_of_an_operation_on_a_model_begins_as_the_operations_own():
    change("set_operation", "clustering", min_credits="3", tokens_per_credit="none")
    change("set_override", "clustering", "gpt-4o", priced_by="cost", markup_percent="150")

    assert the_row("credit_cost_overrides").items() >= {
        ("operation_type", "clustering"), ("model_name", "gpt-4o"), ("priced_by", "cost"), ("markup_percent", 150),
        ("min_credits", 3), ("tokens_per_credit", 100), ("output_weight", 1),
    }  # fmt: skip
    assert ("clustering on gpt-4o", "insert", "priced_by", None, "cost") in told(history.OPERATION, "clustering")


def test_a_rule_of_an_operation_on_a_model_is_removed():
    change("set_override", "clustering", "gpt-4o", min_credits="3")
    with transaction() as session:
        changing.remove_override(session, "clustering", "gpt-4o")

    assert rows("SELECT count(*) FROM credit_cost_overrides") == [(0,)]
    with transaction() as session, pytest.raises(BillingError, match="has no rule of its own on gpt-4o"):
        changing.remove_override(session, "clustering", "gpt-4o")


def test_each_model_of_a_moved_default_tells_its_own_change():
    change("set_model", "gpt-4o-mini", is_default="true")

    assert told(history.MODEL, "gpt-4o-mini") == [("gpt-4o-mini", "update", "is_default", False, True)]
    assert told(history.MODEL, "gpt-5.1") == [("gpt-5.1", "update", "is_default", True, False)]


@pytest.mark.parametrize(
    ("what", "names", "fields"),
    [
        ("set_model",       ["gpt-4o"],                       {"output_cost_per_1m": "10.0", "sort_order": "20"}),
        ("set_model",       ["gpt-5.1"],                      {"is_default": "true"}),
        ("set_image_price", HD,                               {"cost_per_image_usd": "0.08"}),
        ("set_operation",   ["clustering"],                   {"tokens_per_credit": "100"}),
        ("set_defaults",    [],                               {"credit_rounding_mode": "up"}),
    ],
)  # fmt: skip
def test_an_update_that_changes_nothing_leaves_no_history(what, names, fields):
    change(what, *names, **fields)

    assert in_history() == 0


def test_an_update_by_hand_that_changes_nothing_leaves_no_history():
    sql("UPDATE ai_model_config SET sort_order = sort_order, updated_at = now()")

    assert in_history() == 0


@pytest.mark.parametrize("table", ["image_prices", "credit_cost_config", "ai_model_config", "plans", "subscriptions"])
def test_rows_whose_history_is_kept_cannot_be_emptied_past_it(table):
    with pytest.raises(DBAPIError, match="keeps the history"), transaction() as session:
        session.execute(text(f"TRUNCATE {table} CASCADE"))


def test_a_temporary_table_of_the_same_name_does_not_catch_the_history():
    with transaction() as session:
        session.execute(text("CREATE TEMP TABLE change_history (LIKE public.change_history) ON COMMIT DROP"))
        session.execute(text("UPDATE ai_model_config SET sort_order = 7 WHERE model_name = 'gpt-4o'"))

    assert in_history() == 1


def test_a_change_that_is_rolled_back_leaves_no_history():
    before = everything()
    with transaction() as session:
        changing.set_model(session, "gpt-4o", {"sort_order": "7"})
        session.rollback()

    assert everything() == before


@pytest.mark.parametrize(
    "statement", ["UPDATE change_history SET actor = 'nobody'", "DELETE FROM change_history", "TRUNCATE change_history"]
)
def test_the_history_is_append_only(statement):
    change("set_model", "gpt-4o", sort_order="7")

    with pytest.raises(DBAPIError, match="append-only"):
        sql(statement)


def test_the_previous_ratio_is_kept_whoever_changes_it():
    def ratio():
        return rows(
            "SELECT tokens_per_credit, previous_tokens_per_credit FROM credit_cost_config "
            "WHERE operation_type = 'clustering'"
        )

    change("set_operation", "clustering", tokens_per_credit="80")
    assert ratio() == [(80, 100)]
    change("set_operation", "clustering", min_credits="2")
    assert ratio() == [(80, 100)]
    sql("UPDATE credit_cost_config SET tokens_per_credit = 60")
    assert ratio() == [(60, 80)]
    change("set_operation", "clustering", tokens_per_credit="none")
    assert ratio() == [(None, 60)]
    sql("UPDATE credit_cost_config SET tokens_per_credit = 50")
    assert ratio() == [(50, None)]
