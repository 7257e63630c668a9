"""Settings over HTTP: those of an app's account and user; and what operators change, each from what it was."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from billing.catalog import history
from config.database import transaction
from tests.factories import a_user, an_account, rows
from tests.integration.web.conftest import JOB, App
from tests.integration.web.test_jobs import told


@pytest.fixture
def user(client):
    """An app of a user."""
    account_id = an_account(1000)
    return App(client, account_id, user_id=a_user(account_id))


@pytest.fixture
def admin(client):
    """An operator's program."""
    return App(client, None)


def test_what_holds_is_told_with_its_tier(app):
    before = app.get("/settings").json()
    saved = app.ask("PUT", "/settings/openai.temperature", json={"value": 0.2}).json()

    after = app.get("/settings").json()["openai.temperature"]
    assert before["openai.temperature"]["tier"] == "platform"
    assert (saved["value"], saved["tier"], saved["account_id"]) == (0.2, "account", app.account_id)
    assert (after["value"], after["tier"]) == (0.2, "account")
    unset = app.ask("DELETE", "/settings/openai.temperature").json()
    assert (unset["value"], unset["tier"]) == (before["openai.temperature"]["value"], "platform")


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_users_setting_is_saved_by_one_upsert(user, method):
    for style in ("vivid", "illustration"):
        saved = user.ask(method, "/system/settings/user/", json={"key": "image_style", "value": style}).json()

    assert (saved["key"], saved["value"], saved["tier"]) == ("image_style", "illustration", "user")
    assert rows("SELECT key, value FROM user_settings") == [("image_style", "illustration")]
    assert user.get("/settings").json()["image_style"]["tier"] == "user"
    assert user.ask("DELETE", "/system/settings/user/image_style").json()["tier"] == "platform"


def test_account_and_user_of_a_setting_come_from_the_key(client, user, app):
    told(app.ask("POST", "/system/settings/user/", json={"key": "image_style", "value": "x"}), 400, "user_needed")
    told(user.ask("PUT", "/settings/image_style", json={"value": "x"}), 400, "account_key_needed")
    told(
        user.ask("POST", "/system/settings/user/", json={"key": "image_style", "value": "x", "account": 1}),
        400,
        "invalid_request",
    )
    assert rows("SELECT count(*) FROM user_settings") == rows("SELECT count(*) FROM account_settings") == [(0,)]


def test_what_looks_like_a_key_is_stripped_or_refused(app):
    body = {"temperature": 0.3, "api_key": "sk-planted-123456", "nested": {"apiKey": "sk-planted-123456"}}

    saved = app.ask("PUT", "/integrations/openai/settings", json=body)

    assert saved.json()["stripped"] == 2
    assert saved.json()["settings"]["openai.temperature"]["value"] == 0.3
    assert "planted" not in saved.text
    refused = app.ask("PUT", "/settings/openai_api_key", json={"value": "sk-planted-123456"})
    assert "planted" not in told(refused, 400, "key_refused")["detail"]
    assert rows("SELECT config FROM integration_settings") == [({"temperature": 0.3},)]


@pytest.mark.parametrize(
    ("setting", "value", "code"),
    [
        ("image_stile", "vivid", "unknown_setting"),
        ("openai.temperature", "hot", "invalid_value"),
        ("openai.temperature", None, "empty_value"),
        ("openai.temperature", 9, "invalid_value"),
        ("openai.model", "nothing", "no_such_model"),
    ],
)
def test_bad_values_are_refused_and_nothing_is_saved(app, setting, value, code):
    answer = app.ask("PUT", f"/settings/{setting}", json={"value": value})

    told(answer, 404 if code == "unknown_setting" else 400, code)
    assert rows("SELECT count(*) FROM account_settings") == [(0,)]


def test_a_change_of_an_account_is_the_next_jobs(app):
    app.ask("PUT", "/settings/openai.max_tokens", json={"value": 100})

    body = {**JOB, "params": {"prompt": "bread"}}
    app.submit(body)

    assert rows("SELECT params ->> 'max_output_tokens' FROM generation_jobs") == [("100",)]


CHANGES = [
    ("/models/gpt-4o", {"sort_order": 7}, "sort_order", 7),
    ("/operations/clustering", {"tokens_per_credit": 90}, "tokens_per_credit", 90),
    ("/settings", {"openai.temperature": 0.4}, "openai.temperature", None),
]


@pytest.mark.parametrize(("place", "fields", "field", "value"), CHANGES)
def test_a_change_names_what_it_was_made_from(admin, place, fields, field, value):
    shown = admin.get(f"/admin{place}")
    tag = shown.headers["etag"]

    told(admin.ask("PATCH", f"/admin{place}", json=fields), 428, "precondition_required")
    told(admin.ask("PATCH", f"/admin{place}", json=fields, headers={"If-Match": '"x"'}), 412, "precondition_failed")
    changed = admin.ask("PATCH", f"/admin{place}", json=fields, headers={"If-Match": f'"x", {tag}'})
    assert changed.status_code == 200, changed.text
    assert changed.headers["etag"] != tag
    assert value is None or changed.json()[field] == value
    assert admin.get(f"/admin{place}").headers["etag"] == changed.headers["etag"]
    told(admin.ask("PATCH", f"/admin{place}", json=fields, headers={"If-Match": tag}), 412, "precondition_failed")


def test_of_two_changes_made_from_the_same_one_is_refused(admin):
    tag = admin.get("/admin/operations/clustering").headers["etag"]

    def change(number):
        fields = {"tokens_per_credit": 90 + number}
        return admin.ask("PATCH", "/admin/operations/clustering", json=fields, headers={"If-Match": tag}).status_code

    with ThreadPoolExecutor(4) as threads:
        assert sorted(threads.map(change, range(4))) == [200, 412, 412, 412]


def test_a_change_is_kept_under_the_keys_name(admin):
    admin.ask("PATCH", "/admin/models/gpt-4o", json={"sort_order": 7}, headers={"If-Match": "*"})

    with transaction() as session:
        (change,) = history.changes(session, history.MODEL, "gpt-4o", limit=1).rows
    assert (change.actor, change.field, change.new) == (f"api key {admin.key_id}", "sort_order", 7)


def test_plans_prices_and_accounts_are_changed_too(client, admin):
    account_id = an_account()
    anything = {"If-Match": "*"}
    price = {"cost_per_image_usd": "0.04", "credits_per_image": 9}

    with_price = admin.ask("PUT", "/admin/models/dall-e-3/prices/1024x1024/hd", json=price, headers=anything)
    settings = admin.ask(
        "PATCH",
        f"/admin/accounts/{account_id}/settings",
        json={"openai.temperature": 0.1, "image_style": "vivid"},
        headers=anything,
    ).json()
    removed = admin.ask(
        "PATCH", f"/admin/accounts/{account_id}/settings", json={"openai.temperature": None}, headers=anything
    ).json()

    assert with_price.status_code == 200, with_price.text
    assert "0.04" in with_price.text
    assert (settings["openai.temperature"]["tier"], settings["image_style"]["tier"]) == ("account", "account")
    assert removed["openai.temperature"]["tier"] == "platform"
    told(admin.ask("PATCH", "/admin/plans/nothing", json={}, headers=anything), 404, "unknown_plan")
    told(admin.ask("PATCH", "/admin/accounts/99/settings", json={}, headers=anything), 404, "unknown_account")
    told(admin.ask("PATCH", "/admin/models/nothing", json={}, headers=anything), 404, "unknown_model")


def test_several_settings_are_saved_all_or_none(admin):
    fields = {"openai.temperature": 0.1, "image_stile": "vivid"}
    before = admin.get("/admin/settings").json()

    told(admin.ask("PATCH", "/admin/settings", json=fields, headers={"If-Match": "*"}), 400, "unknown_setting")

    assert admin.get("/admin/settings").json() == before


def test_a_slip_of_a_price_asks_for_force(admin):
    fields, anything = {"output_cost_per_1m": "9000"}, {"If-Match": "*"}

    told(admin.ask("PATCH", "/admin/models/gpt-4o", json=fields, headers=anything), 400, "implausible_price")
    forced = admin.ask("PATCH", "/admin/models/gpt-4o?force=true", json=fields, headers=anything)
    assert forced.status_code == 200
