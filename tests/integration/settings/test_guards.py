"""Single guards of settings, one test each: what the database refuses by itself, and what its triggers keep true."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from tests.catalogue import change, sql
from tests.factories import a_user, an_account, rows
from tests.guarding import assert_refused, at_once

pytestmark = pytest.mark.usefixtures("db")

ACCOUNT = "INSERT INTO account_settings (account_id, key, value) SELECT id,"
INTEGRATION = "INSERT INTO integration_settings (account_id, integration_type, config) SELECT id,"
USER = "INSERT INTO user_settings (user_id, account_id, key, value) SELECT u.id, u.account_id,"
REFUSED = [
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
    sql(
        "UPDATE ai_model_config SET is_default = (provider = 'runware' AND sort_order = "
        "(SELECT min(sort_order) FROM ai_model_config WHERE provider = 'runware')) WHERE model_type = 'image'"
    )

    assert (before, rows(told)) == ([("openai", "openai")], [("anthropic", "runware")])
