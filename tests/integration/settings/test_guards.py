"""Single guards of settings, one test each: what the database refuses by itself, and what its triggers keep true."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import text

from config.database import transaction
from config.integrations import set_connection
from tests.catalogue import change, sql
from tests.factories import a_user, an_account, rows
from tests.guarding import assert_refused, at_once

pytestmark = pytest.mark.usefixtures("db")

ACCOUNT = "INSERT INTO account_settings (account_id, key, value) SELECT id,"
INTEGRATION = "INSERT INTO integration_settings (account_id, integration_type, config) SELECT id,"
USER = "INSERT INTO user_settings (user_id, account_id, key, value) SELECT u.id, u.account_id,"
PLATFORM = "global_integration_settings"
REFUSED = [
    (f"UPDATE {PLATFORM} SET openai_temperature = 2.1", "ck_global_integration_settings_openai_temperature"),
    (f"UPDATE {PLATFORM} SET anthropic_temperature = -0.1", "ck_global_integration_settings_anthropic_temperature"),
    (f"UPDATE {PLATFORM} SET google_temperature = 'NaN'", "ck_global_integration_settings_google_temperature"),
    (f"UPDATE {PLATFORM} SET openai_max_tokens = 15", "ck_global_integration_settings_openai_max_tokens"),
    (f"UPDATE {PLATFORM} SET anthropic_max_tokens = 10000001", "ck_global_integration_settings_anthropic_max_tokens"),
    (f"UPDATE {PLATFORM} SET google_max_tokens = 0", "ck_global_integration_settings_google_max_tokens"),
    (f"UPDATE {PLATFORM} SET dalle_size = 'big'", "ck_global_integration_settings_dalle_size"),
    (f"UPDATE {PLATFORM} SET runware_size = ''", "ck_global_integration_settings_runware_size"),
    (f"UPDATE {PLATFORM} SET image_quality = 'A b'", "ck_global_integration_settings_image_quality"),
    (f"UPDATE {PLATFORM} SET image_style = ''", "ck_global_integration_settings_image_style"),
    (f"UPDATE {PLATFORM} SET max_in_article_images = 0", "ck_global_integration_settings_max_in_article_images"),
    (f"{ACCOUNT} 'openai_api_key', '\"x\"' FROM accounts",               "ck_account_settings_key"),
    (f"{ACCOUNT} 'openai.model', '\"x\"' FROM accounts",                 "ck_account_settings_key"),
    (f"{ACCOUNT} 'image_style', 'null' FROM accounts",                   "ck_account_settings_value"),
    (f"{ACCOUNT} 'image_style', '\"\"' FROM accounts",                   "ck_account_settings_value"),
    (f"{ACCOUNT} 'image_style', '{{\"a\": 1}}' FROM accounts",           "ck_account_settings_value"),
    (f"{ACCOUNT} 'image_style', '[1]' FROM accounts",                    "ck_account_settings_value"),
    (f"{ACCOUNT} 'image_style', '\"a\"' FROM accounts, generate_series(1, 2)", "pk_account_settings"),
    (f"{INTEGRATION} 'acme', '{{\"model\": \"x\"}}' FROM accounts",      "ck_integration_settings_integration_type"),
    (f"{INTEGRATION} 'openai', '{{}}' FROM accounts",                    "ck_integration_settings_config"),
    (f"{INTEGRATION} 'openai', '[]' FROM accounts",                      "ck_integration_settings_config"),
    (f"{INTEGRATION} 'openai', '{{\"api_key\": \"x\"}}' FROM accounts",  "ck_integration_settings_config"),
    (f"{INTEGRATION} 'openai', '{{\"model\": {{\"api_key\": 1}}}}' FROM accounts", "ck_integration_settings_config"),
    (f"{INTEGRATION} 'openai', '{{\"model\": [\"x\"]}}' FROM accounts",  "ck_integration_settings_config"),
    (f"{INTEGRATION} 'openai', '{{\"model\": null}}' FROM accounts",     "ck_integration_settings_config"),
    (f"{INTEGRATION} 'openai', '{{\"model\": \"\"}}' FROM accounts",     "ck_integration_settings_config"),
    (f"{INTEGRATION} 'openai', '{{\"size\": 1}}' FROM accounts, generate_series(1, 2)", "pk_integration_settings"),
    (f"{USER} 'max_in_article_images', '9' FROM users u",                "ck_user_settings_key"),
    (f"{USER} 'image_style', '[]' FROM users u",                         "ck_user_settings_value"),
    (f"{USER} 'image_style', '\"a\"' FROM users u, generate_series(1, 2)", "pk_user_settings"),
    ("INSERT INTO user_settings (user_id, account_id, key, value) SELECT u.id, a.id, 'image_style', '\"a\"' "
     "FROM users u JOIN accounts a ON a.id <> u.account_id",             "fk_user_settings_user_id"),
]  # fmt: skip


@pytest.mark.parametrize("rule", dict.fromkeys(rule for _, rule in REFUSED))
def test_the_database_refuses_it_by_itself(rule):
    a_user(an_account())
    an_account()

    assert_refused(REFUSED, rule)


ROW_OF = {
    "account_settings": "(account_id, key, value) VALUES (:account, 'image_style', '\"vivid\"')",
    "integration_settings": "(account_id, integration_type, config) VALUES (:account, 'openai', '{\"model\": 1}')",
    "user_settings": "(account_id, user_id, key, value) VALUES (:account, :user, 'image_style', '\"vivid\"')",
}


def test_a_change_of_the_platforms_row_is_kept_without_its_keys():
    with transaction() as session:
        set_connection(session, "openai", api_key="sk-planted-1", base_url=None)
    (ciphertext,) = rows("SELECT openai_api_key FROM global_integration_settings")[0]
    with transaction() as session:
        set_connection(session, "openai", api_key="sk-planted-2", base_url=None)

    kept = rows("SELECT old ->> 'openai_api_key', new ->> 'openai_api_key' FROM change_history ORDER BY id")

    assert [old is None for old, _ in kept] == [True, False]
    assert kept[0][1] == kept[1][0] != kept[1][1]
    assert all(re.fullmatch("encrypted [0-9a-f]{8}", new) for _, new in kept)
    assert ciphertext not in str(rows("SELECT old::text, new::text FROM change_history"))


def flags():
    return [flag for (flag,) in rows("SELECT has_settings FROM accounts ORDER BY id")]


@pytest.mark.parametrize("table", ROW_OF)
def test_an_accounts_row_says_whether_there_are_settings(table):
    account_id, _ = an_account(), an_account()
    given = {"account": account_id, "user": a_user(account_id)}
    before = flags()

    sql(f"INSERT INTO {table} {ROW_OF[table]}", **given)
    between = flags()
    sql(f"DELETE FROM {table}")

    assert (before, between, flags()) == ([False, False], [True, False], [False, False])


def test_the_last_setting_that_goes_while_another_one_comes_leaves_the_flag():
    given = {"account": an_account()}
    come = {table: text(f"INSERT INTO {table} {row}") for table, row in ROW_OF.items()}
    for _ in range(10):
        sql("DELETE FROM integration_settings")
        sql(come["account_settings"].text, **given)

        at_once(
            lambda session: session.execute(text("DELETE FROM account_settings")),
            lambda session: session.execute(come["integration_settings"], given),
        )

        assert flags() == [True]


def test_the_platforms_provider_is_that_of_the_default_model():
    told = "SELECT default_text_provider, default_image_service FROM global_integration_settings"
    before = rows(told)

    change(
        "add_model",
        "claude",
        model_type="text",
        provider="anthropic",
        input_cost_per_1m="3",
        output_cost_per_1m="15",
        context_window="200000",
        max_output_tokens="8000",
        is_default="true",
    )
    sql("UPDATE ai_model_config SET is_default = false WHERE model_type = 'image'")
    sql("UPDATE ai_model_config SET is_default = true WHERE model_name = 'runware:97@1'")

    assert (before, rows(told)) == ([("openai", "openai")], [("anthropic", "runware")])
