"""Saving settings: one row a setting, checked first, and what holds then says which tier set it and since when."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import event

from billing.catalog import current
from billing.errors import BillingError, InvalidRequest, UnknownThing
from billing.settings import own, saving
from billing.settings.effective import effective
from billing.settings.saving import Owner
from config.database import transaction
from config.tiers.merging import Tier
from config.tiers.naming import NAMES
from tests.catalogue import change, everything, sql
from tests.factories import NOON, a_user, an_account, rows

pytestmark = pytest.mark.usefixtures("db")
TODAY = NOON.date()
KEY = "sk-live-Zq9pLm3xT7vB1nK5"


def save(owner, name, value):
    with transaction() as session:
        return saving.save(session, owner, name, value, today=TODAY)


def unset(owner, name):
    with transaction() as session:
        return saving.unset(session, owner, name)


def holds(account_id=None, user_id=None):
    with transaction() as session:
        return effective(session, account_id, user_id).settings


def refused(act, *arguments):
    before = everything()
    with pytest.raises(BillingError) as error:
        act(*arguments)
    assert everything() == before
    return error.value


def told(account_id=None, user_id=None, *names):
    found = holds(account_id, user_id)
    return {name: (found[name].value, str(found[name].tier)) for name in names}


def test_a_fresh_platform_has_every_setting_of_the_integrations_that_have_models():
    assert {name: each.value for name, each in holds().items()} == {
        "default_text_provider": "openai",
        "default_image_service": "openai",
        "image_quality": "standard",
        "image_style": "photorealistic",
        "max_in_article_images": 10,
        "openai.model": "gpt-5.1",
        "openai.temperature": 0.7,
        "openai.max_tokens": 8192,
        "anthropic.temperature": 0.7,
        "anthropic.max_tokens": 8192,
        "google.temperature": 0.7,
        "google.max_tokens": 8192,
        "dalle.model": "dall-e-3",
        "dalle.size": "1024x1024",
        "runware.model": "runware:97@1",
        "runware.size": "1024x1024",
    }


def test_what_each_tier_sets_holds_over_the_tier_below_until_it_is_removed():
    account_id = an_account()
    user_id, other = a_user(account_id), a_user(account_id, "b@example.com")
    account, user = Owner(account_id), Owner(account_id, user_id)

    save(Owner(), "image_quality", "hd")
    save(account, "openai.temperature", 0.2)
    save(account, "openai.max_tokens", 100)
    save(account, "image_style", "noir")
    save(user, "openai.temperature", 1)
    save(user, "image_style", "vivid")

    names = ("image_quality", "openai.temperature", "openai.max_tokens", "image_style")
    assert list(told(account_id, user_id, *names).values()) == [
        ("hd", "platform"), (1, "user"), (100, "account"), ("vivid", "user")
    ]  # fmt: skip
    assert list(told(account_id, other, *names).values()) == [
        ("hd", "platform"), (0.2, "account"), (100, "account"), ("noir", "account")
    ]  # fmt: skip
    assert told(an_account(), None, "openai.temperature") == {"openai.temperature": (0.7, "platform")}
    assert [unset(user, "image_style"), unset(user, "image_style"), unset(account, "openai.temperature")] == [
        True, False, True
    ]  # fmt: skip
    assert told(account_id, user_id, *names)["image_style"] == ("noir", "account")
    assert told(account_id, other, *names)["openai.temperature"] == (0.7, "platform")
    assert unset(account, "openai.max_tokens")
    assert rows("SELECT count(*) FROM integration_settings") == [(0,)]


def test_each_setting_says_since_when_it_holds():
    account_id = an_account()
    user_id = a_user(account_id)
    save(Owner(), "openai.temperature", 0.5)
    save(Owner(account_id), "anthropic.temperature", 0.5)
    save(Owner(account_id, user_id), "image_style", "noir")
    since = {name: each.since for name, each in holds(account_id, user_id).items()}

    save(Owner(), "openai.max_tokens", 100)
    save(Owner(account_id), "anthropic.max_tokens", 100)
    save(Owner(account_id), "anthropic.temperature", 0.5)
    save(Owner(account_id, user_id), "image_style", "noir")

    again = {name: each.since for name, each in holds(account_id, user_id).items()}
    same = ("openai.temperature", "anthropic.temperature", "image_style")
    assert all(since[name] is not None and again[name] == since[name] for name in same)
    assert all(again[name] > since["image_style"] for name in ("openai.max_tokens", "anthropic.max_tokens"))
    assert since["google.temperature"] is None


def test_what_holds_is_read_by_one_statement():
    account_id = an_account()
    user_id = a_user(account_id)
    seen = []

    with transaction() as session:
        event.listen(session.get_bind(), "before_cursor_execute", lambda *sent: seen.append(sent[2]))
        effective(session, account_id, user_id)

    # The first two look for the account and the user.
    assert ["integration_settings" in each for each in seen] == [False, False, True]


@pytest.mark.parametrize("owner", ["account", "integration", "user"])
def test_a_hundred_saves_at_once_leave_one_row(owner):
    account_id = an_account()
    user_id = a_user(account_id)
    whose = Owner(account_id, user_id if owner == "user" else None)
    name = "openai.max_tokens" if owner != "account" else "max_in_article_images"

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: save(whose, name, 100 + number), range(100)))

    table = {"account": "account_settings", "integration": "integration_settings", "user": "user_settings"}[owner]
    assert rows(f"SELECT count(*) FROM {table}") == [(1,)]
    kept = holds(account_id, user_id)[name].value
    last = (
        "SELECT coalesce(new -> 'value', new -> 'config' -> 'max_tokens') FROM change_history ORDER BY id DESC LIMIT 1"
    )
    assert [(kept,)] == rows(last)
    assert rows("SELECT has_settings FROM accounts") == [(True,)]


def test_the_parameters_of_an_integration_that_are_saved_at_once_are_all_kept():
    account_id = an_account()
    given = [("openai.max_tokens", 100), ("openai.temperature", 0.1), ("openai.model", "gpt-4o")]

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda each: save(Owner(account_id), *each), given))

    assert {name: holds(account_id)[name].value for name, _ in given} == dict(given)


def test_one_truth_for_the_default_model():
    save(Owner(), "openai.model", "gpt-4o")

    assert rows("SELECT model_name FROM ai_model_config WHERE is_default AND model_type = 'text'") == [("gpt-4o",)]
    change("set_model", "gpt-4o-mini", is_default="true")
    assert told(None, None, "openai.model", "default_text_provider") == {
        "openai.model": ("gpt-4o-mini", "platform"),
        "default_text_provider": ("openai", "platform"),
    }


def test_the_platforms_choice_of_a_provider_moves_its_default_model():
    save(Owner(), "default_image_service", "runware")

    assert rows("SELECT model_name FROM ai_model_config WHERE is_default ORDER BY 1")[1] == ("runware:97@1",)
    assert told(None, None, "default_image_service")["default_image_service"] == ("runware", "platform")
    # Then its model is the platform's to choose, and no other provider's is.
    save(Owner(), "runware.model", "google:4@2")
    assert refused(save, Owner(), "dalle.model", "dall-e-3").code == "not_the_platforms_provider"
    assert refused(save, Owner(), "default_text_provider", "google").code == "no_such_model"


def test_who_is_unknown_has_no_settings():
    account_id = an_account()
    stranger = a_user(an_account())

    assert isinstance(refused(save, Owner(account_id, stranger), "image_style", "noir"), UnknownThing)
    assert isinstance(refused(save, Owner(2**70), "image_style", "noir"), UnknownThing)
    assert isinstance(refused(holds, account_id, stranger), UnknownThing)
    assert isinstance(refused(unset, Owner(99), "image_style"), UnknownThing)


@pytest.mark.parametrize(
    ("owner", "name", "value", "code"),
    [
        ("platform", "openai.temperature",    3,            "invalid_value"),
        ("platform", "openai.api_key",        "x",          "key_refused"),
        ("account",  "openai.temperature",    None,         "empty_value"),
        ("account",  "openai.tempertaure",    1,            "unknown_setting"),
        ("account",  "openai.model",          "gpt-nobody", "no_such_model"),
        ("account",  "openai.model",          KEY,          "key_refused"),
        ("account",  "openai.model",          "dall-e-3",   "no_such_model"),
        ("account",  "dalle.model",           "gpt-4o",     "no_such_model"),
        ("account",  "anthropic.model",       "claude",     "no_such_model"),
        ("user",     "max_in_article_images", 9,            "setting_not_yours"),
        ("user",     "apiKey",                KEY,          "key_refused"),
        ("user",     "openai.model",          "gpt-off",    "no_such_model"),
    ],
)  # fmt: skip
def test_what_cannot_be_saved_is_refused_and_changes_nothing(owner, name, value, code):
    change(
        "add_model",
        "gpt-off",
        model_type="text",
        provider="openai",
        input_cost_per_1m="3",
        output_cost_per_1m="15",
        context_window="200000",
        max_output_tokens="8000",
        is_active="false",
    )
    account_id = an_account()
    whose = {"platform": Owner(), "account": Owner(account_id), "user": Owner(account_id, a_user(account_id))}[owner]

    error = refused(save, whose, name, value)

    assert error.code == code
    assert KEY not in error.message


def test_the_platforms_settings_are_not_removed():
    assert refused(unset, Owner(), "image_style").code == "platform_setting_needed"


def test_a_key_that_is_smuggled_in_is_stripped_and_the_log_says_so_without_it(caplog):
    account_id = an_account()
    config = {"temperature": 0.5, "openai_api_key": KEY, "more": {"list": [{"API-KEY": KEY}, KEY]}}

    with transaction() as session, caplog.at_level(logging.WARNING):
        stripped = saving.save_integration(session, account_id, "openai", config, today=TODAY)

    assert stripped == 3
    assert rows("SELECT config FROM integration_settings") == [({"temperature": 0.5},)]
    assert "keys_stripped" in caplog.text
    assert KEY not in caplog.text + str(everything())


def test_a_config_with_something_wrong_is_refused_as_a_whole():
    account_id = an_account()

    def act():
        with transaction() as session:
            config = {"temperature": 0.5, "model": "gpt-nobody"}
            saving.save_integration(session, account_id, "openai", config, today=TODAY)

    assert refused(act).code == "no_such_model"


def test_a_saved_setting_makes_no_worker_reload_the_catalogue_and_the_platforms_does():
    account_id = an_account()
    with transaction() as session:
        before = current.read(session).version

    save(Owner(account_id), "image_style", "noir")
    save(Owner(account_id, a_user(account_id)), "image_style", "noir")
    with transaction() as session:
        between = current.read(session).version
    save(Owner(), "image_style", "noir")

    with transaction() as session:
        catalog = current.read(session)
    assert before == between != catalog.version
    assert catalog.settings["image_style"].value == "noir"


def test_a_change_of_settings_does_not_say_that_the_connections_changed():
    before = rows("SELECT updated_at FROM global_integration_settings")

    save(Owner(), "openai.temperature", 0.1)

    assert rows("SELECT updated_at FROM global_integration_settings") == before


def test_every_setting_is_told_in_the_order_of_its_name():
    with transaction() as session:
        found = effective(session).facts()

    assert list(found) == [name for name in NAMES if name in found]


def test_what_was_put_there_by_hand_and_is_no_setting_is_passed_over():
    account_id = an_account()
    sql(
        'INSERT INTO integration_settings VALUES (:id, \'openai\', \'{"temperature": "hot", "max_tokens": 99}\')',
        id=account_id,
    )

    with transaction() as session:
        found = own.moment(session, {(account_id, None)}).settings_of(account_id, None)

    assert (found["openai.temperature"].value, found["openai.max_tokens"].value) == (0.7, 99)
    assert found["openai.max_tokens"].tier is Tier.ACCOUNT


def test_an_integration_that_there_is_not_is_refused():
    with pytest.raises(InvalidRequest, match="Did you mean openai"), transaction() as session:
        saving.save_integration(session, an_account(), "opnai", {"temperature": 1}, today=TODAY)
