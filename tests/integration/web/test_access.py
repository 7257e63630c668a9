"""Who is answered: keys, scopes, rates, and that no account sees what is another's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from billing.access.scopes import OF_ACCOUNTS, OF_PLATFORM
from config.database import transaction
from tasks.runtime import runtime
from tests.catalogue import sql
from tests.factories import an_account
from tests.integration.web.conftest import JOB, App, work_off
from tests.integration.web.test_jobs import told
from workers.web import explanations, identity

SCOPES = {
    ("post", "/api/v1/jobs"): "jobs:write",
    ("get", "/api/v1/jobs"): "jobs:read",
    ("get", "/api/v1/jobs/{job_id}"): "jobs:read",
    ("post", "/api/v1/jobs/{job_id}/cancel"): "jobs:write",
    ("get", "/api/v1/jobs/{job_id}/result"): "jobs:read",
    ("get", "/api/v1/jobs/{job_id}/receipt"): "jobs:read",
    ("post", "/api/v1/quotes"): "jobs:write",
    ("get", "/api/v1/balance"): "balance:read",
    ("get", "/api/v1/ledger"): "balance:read",
    ("get", "/api/v1/usage"): "balance:read",
    ("get", "/api/v1/limits"): "balance:read",
    ("get", "/api/v1/settings"): "settings:read",
    ("put", "/api/v1/settings/{setting}"): "settings:write",
    ("delete", "/api/v1/settings/{setting}"): "settings:write",
    ("put", "/api/v1/integrations/{integration}/settings"): "settings:write",
    ("post", "/api/v1/system/settings/user/"): "settings:write",
    ("put", "/api/v1/system/settings/user/"): "settings:write",
    ("delete", "/api/v1/system/settings/user/{setting}"): "settings:write",
    ("post", "/api/v1/webhooks/endpoints"): "webhooks:write",
    ("get", "/api/v1/webhooks/endpoints"): "webhooks:write",
    ("delete", "/api/v1/webhooks/endpoints/{endpoint_id}"): "webhooks:write",
    ("post", "/api/v1/webhooks/endpoints/{endpoint_id}/rotate"): "webhooks:write",
    ("get", "/api/v1/webhooks/messages"): "webhooks:write",
    ("post", "/api/v1/webhooks/messages/{message_id}/replay"): "webhooks:write",
    **{
        (method, f"/api/v1/admin/{path}"): f"admin:{'read' if method == 'get' else 'write'}"
        for path, methods in {
            "models": ["get"],
            "models/{model}": ["get", "patch"],
            "models/{model}/prices/{size}/{quality}": ["put"],
            "operations": ["get"],
            "operations/{operation}": ["get", "patch"],
            "plans": ["get"],
            "plans/{plan}": ["get", "patch"],
            "settings": ["get", "patch"],
            "accounts/{account_id}/settings": ["get", "patch"],
        }.items()
        for method in methods
    },
}
"""Every address, with the scope that it asks for."""
PLACES = {
    "setting": "image_style",
    "integration": "openai",
    "model": "gpt-4o",
    "size": "1024x1024",
    "quality": "hd",
    "operation": "clustering",
    "plan": "starter",
    "account_id": 1,
    "endpoint_id": "0b1f4c1e-8a64-4d0e-9a6f-2f5e8f3b7c11",
    "message_id": 1,
}
BODIES = {
    "/api/v1/jobs": JOB,
    "/api/v1/quotes": JOB,
    "/api/v1/webhooks/endpoints": {"url": "https://app.example/hook"},
    "/api/v1/settings/{setting}": {"value": "vivid"},
    "/api/v1/integrations/{integration}/settings": {"temperature": 0.5},
    "/api/v1/system/settings/user/": {"key": "image_style", "value": "vivid"},
}


def every_operation(client):
    """Each method and path of the API, as its own description has them."""
    paths = client.get("/openapi.json").json()["paths"]
    return {(method, path) for path, methods in paths.items() for method in methods}


def ask(app, method, path, job_id):
    given = {} if method in ("get", "delete") else {"json": BODIES.get(path, {})}
    headers = {"Idempotency-Key": "other", "If-Match": "*"}
    place = path.removeprefix("/api/v1").format(job_id=job_id, **PLACES)
    return app.ask(method.upper(), place, headers=headers, **given)


def test_every_address_asks_for_a_key_and_its_scope(client):
    assert every_operation(client) == set(SCOPES)
    account_id = an_account()
    job_id = App(client, account_id).submit().json()["job_id"]
    for (method, path), scope in SCOPES.items():
        of_platform = scope in OF_PLATFORM
        others = [each for each in (OF_PLATFORM if of_platform else OF_ACCOUNTS) if each != scope]
        for whose, scopes in ((None if of_platform else account_id, others), (account_id if of_platform else None, ())):
            problem = told(ask(App(client, whose, scopes=scopes), method, path, job_id), 403, "scope_missing")
            assert problem["scope"] == scope
        body = None if method in ("get", "delete") else BODIES.get(path, {})
        bare = client.request(method, path.format(job_id=job_id, **PLACES), json=body, headers={"Idempotency-Key": "x"})
        told(bare, 401, "invalid_key")
        assert bare.headers["www-authenticate"] == "Bearer"


def test_no_address_shows_or_changes_what_is_anothers(client, app, monkeypatch):
    endpoint = app.ask("POST", "/webhooks/endpoints", json={"url": "https://app.example/hook"}).json()["endpoint"]["id"]
    monkeypatch.setitem(PLACES, "endpoint_id", endpoint)
    job_id = app.submit().json()["job_id"]
    work_off(job_id)
    other = App(client, an_account(7, name="Butcher"))

    for (method, path), scope in SCOPES.items():
        if scope in OF_PLATFORM:
            continue
        answer = ask(other, method, path, job_id)
        if "{job_id}" in path:
            told(answer, 404, "unknown_job")
        elif "_id}" in path:
            told(answer, 404, "unknown_endpoint" if "endpoint_id" in path else "unknown_message")
        else:
            assert job_id not in answer.text
            assert endpoint not in answer.text
    assert len(app.get("/webhooks/messages").json()["messages"]) == 1
    assert other.get("/jobs").json()["jobs"] == []
    assert other.get("/balance").json()["balance"] == 7
    assert [entry["credits"] for entry in other.get("/ledger").json()["entries"]] == [7]
    assert other.get("/usage").json()["rows"] == []


def test_a_platform_key_is_nobodys_account(client):
    platform = App(client, None)

    told(platform.get("/balance"), 403, "scope_missing")
    told(platform.submit(), 403, "scope_missing")


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Bearer x", "Basic YTpi", "Bearer cm_live_" + "0" * 38, "Bearer é"]
)
def test_what_is_no_key_is_refused_without_a_word_of_it(client, header):
    answer = client.get("/api/v1/balance", headers={"Authorization": header.encode("latin-1")})

    problem = told(answer, 401, "invalid_key")
    assert "0000" not in problem["detail"]


def test_a_revoked_key_is_refused_with_the_next_request(app):
    assert app.get("/balance").status_code == 200
    sql("UPDATE api_keys SET revoked_at = now()")

    told(app.get("/balance"), 401, "invalid_key")


def test_a_key_may_ask_so_often_a_minute_and_is_told(client, monkeypatch):
    app, other = App(client, an_account()), App(client, an_account())
    slow = runtime().settings.model_copy(update={"api_rate_per_minute": 3})
    monkeypatch.setattr("workers.web.identity.runtime", lambda: replace(runtime(), settings=slow))

    answers = [app.get("/balance") for _ in range(4)]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    told(answers[3], 429, "rate_limited")
    assert answers[0].headers["ratelimit-policy"] == '"key";q=3;w=60'
    assert answers[0].headers["ratelimit"].startswith('"key";r=2;')
    assert int(answers[3].headers["retry-after"]) >= 1
    assert other.get("/balance").status_code == 200


def test_while_redis_is_away_nobody_is_kept_out(app, monkeypatch):
    limiter = identity._limiter("redis://127.0.0.1:1/0")
    monkeypatch.setattr(identity, "_limiter", lambda _: limiter)

    assert app.get("/balance").status_code == 200


def test_no_key_is_in_an_answer_an_error_or_a_log(client, app, caplog):
    app.submit()
    answers = [app.get("/balance"), app.get("/jobs/x"), app.get("/nothing"), app.submit({})]
    with transaction() as session:
        session.connection().engine.dispose()

    assert all(app.key[14:30] not in answer.text + str(answer.headers) for answer in answers)
    assert app.key[14:30] not in caplog.text


def test_an_error_that_nobody_expected_is_told_without_its_text(client, app, monkeypatch):
    monkeypatch.setattr("workers.web.money.accounts.view", lambda *_: 1 / 0)

    problem = told(app.get("/balance"), 500, "internal_error")

    assert "division" not in str(problem)


def test_every_code_stands_on_the_page_of_errors(client):
    page = client.get("/errors").text

    assert all(f'id="{code}"' in page for code in explanations.CODES)


def test_no_site_of_another_origin_may_ask(client, app):
    answer = app.ask("OPTIONS", "/balance", headers={"Origin": "https://evil.example"})

    assert "access-control-allow-origin" not in answer.headers
    assert "access-control-allow-origin" not in app.get("/balance").headers
