"""Jobs over HTTP: submitted once for each key, refused at once where they cannot be paid, waited for, shown."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from billing.plans import plans, subscriptions
from config.database import database_now, transaction
from tasks.messages import endings
from tests.catalogue import everything, sql
from tests.factories import a_user, an_account, rows
from tests.integration.web.conftest import JOB, App, work_off

JOBS = "SELECT count(*) FROM generation_jobs"


def told(answer, status, code):
    """The problem that an answer tells, which has all that it must have."""
    problem = answer.json()
    assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code), problem
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["type"] == f"/errors#{code}"
    assert problem["detail"].endswith((".", "?", "cm_..."))
    return problem


def test_from_a_key_to_a_billed_answer(app):
    taken = app.submit()
    job = taken.json()
    work_off(job["job_id"])

    assert taken.status_code == 202
    assert taken.headers["creditmill-available"] == "1000"
    shown = app.get(job["url"].removeprefix("/api/v1"), wait=30).json()
    assert (shown["state"], shown["credits_charged"], shown["credits_held"]) == ("settled", 5, 0)
    assert "usd" not in str(shown)
    assert app.get(f"/jobs/{job['job_id']}/result").json()["content"] == {"text": "Three names."}
    receipt = app.get(f"/jobs/{job['job_id']}/receipt").json()
    assert receipt["sentence"] == "500 tokens at 100 a credit, rounded up: 5 credits; 11 held, 6 released."
    assert "usd" not in str(receipt)
    assert app.get("/balance").json() == {"balance": 995, "held": 0, "available": 995, "frozen": False, "key": None}


def test_account_and_user_come_from_the_key(client):
    account_id = an_account()
    user_id = a_user(account_id)
    app = App(client, account_id, user_id=user_id)

    app.submit()

    assert rows("SELECT account_id, user_id, api_key_id FROM generation_jobs") == [(account_id, user_id, app.key_id)]
    for field in ("account_id", "user_id", "idempotency_key", "job_id"):
        problem = told(app.submit({**JOB, field: 1}, key=field), 400, "invalid_request")
        assert field in problem["detail"]


def test_the_same_key_and_body_is_the_same_answer_and_another_body_a_conflict(app):
    first, again = app.submit(), app.submit()
    batch = {"jobs": [JOB, JOB, JOB]}
    many, many_again = app.submit(batch, key="batch"), app.submit(batch, key="batch")

    assert again.json() == first.json()
    assert many_again.json() == many.json()
    assert ("idempotency-replayed" in first.headers, again.headers["idempotency-replayed"]) == (False, "true")
    assert len({job["job_id"] for job in many.json()["jobs"]}) == 3
    for body, key in (
        ({**JOB, "model": "gpt-4o"}, "order-1"),
        (batch, "order-1"),
        ({"jobs": [JOB, JOB]}, "batch"),
        ({"jobs": [JOB] * 4}, "batch"),
        (JOB, "batch"),
    ):
        told(app.submit(body, key=key), 422, "idempotency_conflict")
    assert rows(JOBS) == [(4,)]


def test_keys_of_two_accounts_have_nothing_in_common(client, app):
    other = App(client, an_account())

    assert app.submit().json() != other.submit().json()


def test_of_the_same_request_many_times_at_once_one_job_is_made(app):
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: app.submit(), range(8)))

    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["job_id"] for answer in answers}) == 1
    assert rows(JOBS) == [(1,)]


def test_what_cannot_be_paid_is_refused_at_once_in_words_for_people(client):
    app = App(client, an_account(10))
    before = everything()

    problem = told(app.submit(), 402, "insufficient_credits")

    assert problem["detail"] == "This needs 11 credits, and 10 are available: 1 short."
    assert [problem[name] for name in ("needed", "available", "held", "shortfall", "renews_at")] == [11, 10, 0, 1, None]
    assert rows(JOBS) == [(0,)]
    assert {name for name, was in everything().items() if was != before[name]} <= {"api_keys"}


def test_a_refused_request_succeeds_under_its_key_once_it_can_be_paid(client):
    app = App(client, an_account(10))
    told(app.submit(), 402, "insufficient_credits")

    sql("UPDATE accounts SET balance = 11")

    assert app.submit().status_code == 202


def test_a_request_that_was_taken_is_answered_again_when_the_account_is_poor(app):
    taken = app.submit()
    sql("UPDATE accounts SET balance = 0")

    assert app.submit().json() == taken.json()


def test_a_batch_is_covered_as_a_whole_or_refused_as_a_whole(client):
    app = App(client, an_account(40))

    problem = told(app.submit({"jobs": [JOB] * 4}), 402, "insufficient_credits")

    assert (problem["needed"], problem["available"], problem["shortfall"]) == (44, 40, 4)
    assert rows(JOBS) == [(0,)]
    assert app.submit({"jobs": [JOB] * 3}).status_code == 202


def a_plan(account_id, **fields):
    with transaction() as session:
        plans.set_plan(session, "starter", {"included_credits": "0", **fields})
        subscriptions.subscribe(session, account_id, "starter", now=database_now(session))


def test_the_plans_limit_refuses_at_once_and_says_when_it_renews(app):
    a_plan(app.account_id, content_ideas="2")
    body = {"operation": "idea_generation", "params": {"prompt": "bread", "max_output_tokens": 100}}

    problem = told(app.submit({"jobs": [body] * 3}), 402, "plan_limit_reached")

    assert problem["limit_type"] == "content_ideas"
    assert "The plan renews on" in problem["detail"]
    assert problem["renews_at"] == app.get("/limits").json()["renews_at"].replace("Z", "+00:00")
    assert app.submit({"jobs": [body] * 2}).status_code == 202


def test_a_frozen_account_and_a_spent_cap_are_refused_at_once(client):
    frozen, capped = App(client, an_account()), App(client, an_account(), credit_cap=15)
    sql("UPDATE accounts SET frozen_reason = 'x' WHERE id = :id", id=frozen.account_id)

    told(frozen.submit(), 403, "account_frozen")
    assert capped.submit().status_code == 202
    told(capped.submit(key="order-2"), 402, "key_cap_reached")
    assert capped.get("/balance").json()["key"] == {"cap": 15, "held": 11, "used": 0}


def test_an_account_with_settings_of_its_own_is_served_by_them(app):
    sql("INSERT INTO account_settings VALUES (:id, 'default_text_provider', '\"openai\"')", id=app.account_id)
    sql("INSERT INTO integration_settings VALUES (:id, 'openai', '{\"model\": \"gpt-4o-mini\"}')", id=app.account_id)

    job = app.submit().json()

    assert app.get(f"/jobs/{job['job_id']}").json()["model"] == "gpt-4o-mini"


def test_a_job_is_waited_for_and_who_waits_is_woken(app):
    job = app.submit().json()["job_id"]

    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(app.get, f"/jobs/{job}", wait=30)
        work_off(job)
        while not waiting.done():
            endings.tell([job])
        answer = waiting.result()

    assert answer.json()["state"] == "settled"
    assert answer.elapsed.total_seconds() < 25


def test_who_waits_is_answered_also_when_no_message_comes(app):
    job = app.submit().json()["job_id"]

    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(app.get, f"/jobs/{job}", wait=60)
        work_off(job)

        assert waiting.result().json()["state"] == "settled"


def test_who_has_waited_long_enough_is_told_how_the_job_is(app):
    job = app.submit().json()["job_id"]

    assert app.get(f"/jobs/{job}", wait=0.2).json()["state"] == "queued"


def test_jobs_are_listed_page_by_page(app):
    app.submit({"jobs": [JOB] * 3})

    first = app.get("/jobs", limit=2).json()
    second = app.get("/jobs", limit=2, cursor=first["next"]).json()

    assert [len(page["jobs"]) for page in (first, second)] == [2, 1]
    assert second["next"] is None
    assert app.get("/jobs", state="settled").json() == {"jobs": [], "next": None}
    told(app.get("/jobs", cursor="x"), 400, "invalid_cursor")
    told(app.get("/jobs", state="lost"), 400, "invalid_request")


def test_a_job_is_cancelled_until_it_has_gone_too_far(app):
    first, second = (job["job_id"] for job in app.submit({"jobs": [JOB, JOB]}).json()["jobs"])
    work_off(second)

    cancelled = [app.ask("POST", f"/jobs/{first}/cancel") for _ in range(2)]

    assert [(each.status_code, each.json()["state"]) for each in cancelled] == [(200, "cancelled")] * 2
    assert cancelled[0].headers["creditmill-available"] == "995"
    told(app.ask("POST", f"/jobs/{second}/cancel"), 409, "not_cancellable")
    told(app.get(f"/jobs/{first}/result"), 409, "no_result")


def test_what_does_not_exist_is_not_found(app):
    nobody = uuid4()

    for path in (f"/jobs/{nobody}", f"/jobs/{nobody}/result", f"/jobs/{nobody}/receipt"):
        told(app.get(path), 404, "unknown_job")
    told(app.ask("POST", f"/jobs/{nobody}/cancel"), 404, "unknown_job")
    told(app.get("/nothing"), 404, "not_found")
    told(app.ask("DELETE", "/jobs"), 405, "method_not_allowed")
    told(app.get("/jobs/seven"), 400, "invalid_request")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "invalid_request"),
        ([], "invalid_request"),
        ({"jobs": []}, "invalid_request"),
        ({"jobs": [JOB] * 501}, "invalid_request"),
        ({"operation": "nothing", "params": {}}, "unknown_operation"),
        ({**JOB, "model": "nothing"}, "unknown_model"),
        ({**JOB, "params": {"prompt": 7}}, "invalid_params"),
        ({**JOB, "params": {"prompt": "a\0b"}}, "invalid_text"),
        ({**JOB, "params": {"prompt": "x", "temperature": 3}}, "invalid_params"),
        ({**JOB, "params": {"prompt": "x" * 1_000_001}}, "body_too_large"),
    ],
)
def test_bad_input_is_one_sentence_and_changes_nothing(app, body, code):
    answer = app.submit(body)

    told(answer, {"body_too_large": 413}.get(code, 400), code)
    assert rows(JOBS) == [(0,)]


def test_what_is_no_json_or_too_large_is_refused(app):
    headers = {"Idempotency-Key": "a", "Content-Type": "application/json"}

    told(app.ask("POST", "/jobs", content=b"{", headers=headers), 400, "invalid_json")
    told(app.ask("POST", "/jobs", content=b"\xff", headers=headers), 400, "invalid_json")
    told(app.ask("POST", "/jobs", content=b" " * 8_000_001, headers=headers), 413, "body_too_large")
    told(app.ask("POST", "/jobs", json=JOB), 400, "invalid_request")
    told(app.submit(key="a" * 191), 400, "invalid_request")
    told(app.submit(key="a\tb"), 400, "invalid_text")


def test_a_quote_says_what_would_be_held_and_why_it_would_be_refused(client, app):
    poor = App(client, an_account(1))

    good = app.ask("POST", "/quotes", json=JOB).json()
    bad = poor.ask("POST", "/quotes", json=JOB).json()

    assert (good["credits"], good["accepted"], good["held"]) == (11, True, 0)
    assert (bad["accepted"], bad["error"], bad["short"]) == (False, "insufficient_credits", 10)
    told(app.ask("POST", "/quotes", json={**JOB, "model": "nothing"}), 400, "unknown_model")
