"""The triggers that keep what happened: what is only added to, and what keeps the history of its rows."""

from __future__ import annotations

import pytest

from tests.catalogue import change, sql
from tests.factories import a_claim, a_reserved_job, a_user, an_account, rows
from tests.mutation.guards_of_schema import triggers

pytestmark = pytest.mark.usefixtures("db")
KEPT = {
    "ai_model_config": "sort_order = sort_order + 1",
    "image_prices": "credits_per_image = credits_per_image + 1",
    "credit_cost_config": "min_credits = min_credits + 1",
    "credit_cost_overrides": "min_credits = min_credits + 1",
    "billing_configuration": "default_tokens_per_credit = default_tokens_per_credit + 1",
    "global_integration_settings": "openai_max_tokens = openai_max_tokens + 1",
    "account_settings": "value = '3'",
    "integration_settings": "config = '{\"temperature\": 1}'",
    "user_settings": "value = '\"illustration\"'",
    "plans": "included_credits = included_credits + 1",
    "subscriptions": "status = 'past_due', grace_until = '2026-12-24'",
}


@pytest.mark.usefixtures("books")
@pytest.mark.parametrize("table", KEPT)
def test_no_change_escapes_the_history(table):
    change("set_override", "clustering", "gpt-4o", min_credits="2")
    fill_the_settings()
    kept = "SELECT count(*) FROM change_history WHERE table_name = :table AND action = 'update'"
    before = rows(kept, table=table)[0][0]

    sql(f"UPDATE {table} SET {KEPT[table]}")

    assert rows(kept, table=table)[0][0] - before == rows(f"SELECT count(*) FROM {table}")[0][0] > 0


@pytest.mark.usefixtures("books")
@pytest.mark.parametrize("table", KEPT)
def test_nothing_whose_history_is_kept_is_emptied_past_it(table):
    with pytest.raises(Exception, match=f"{table} keeps the history of its rows"):
        sql(f"TRUNCATE {table} CASCADE")


@pytest.mark.parametrize("table", ["credit_transactions", "change_history", "resolutions"])
def test_what_is_only_added_to_is_neither_changed_nor_removed(table):
    fill_the_append_only_tables()

    for statement in (f"UPDATE {table} SET id = DEFAULT", f"DELETE FROM {table}", f"TRUNCATE {table}"):
        with pytest.raises(Exception, match="append-only"):
            sql(statement)


def fill_the_settings():
    account_id, user_id = an_account(), a_user(an_account())
    (owner,) = rows("SELECT account_id FROM users WHERE id = :user", user=user_id)[0]
    sql("INSERT INTO account_settings VALUES (:account, 'max_in_article_images', '2')", account=account_id)
    sql("INSERT INTO integration_settings VALUES (:account, 'openai', '{\"temperature\": 0.5}')", account=account_id)
    sql("INSERT INTO user_settings VALUES (:user, :account, 'image_style', '\"vivid\"')", user=user_id, account=owner)


def fill_the_append_only_tables():
    claim = a_claim(a_reserved_job(an_account(1000)))
    resolution = "INSERT INTO resolutions (call_id, outcome, evidence, actor, resolved_at) "
    sql(f"{resolution} VALUES (:call, 'executed', 'a log', 'anna', now())", call=claim.call_id)
    sql("UPDATE plans SET name = name || '!'")


def test_the_mutation_check_knows_every_trigger_of_the_database():
    made = "SELECT tgrelid::regclass::text, tgname::text FROM pg_trigger WHERE NOT tgisinternal"

    assert sorted(rows(made)) == sorted(triggers())
