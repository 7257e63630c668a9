"""Webhooks over HTTP: endpoints set up with a secret that is shown once, what they were told, and telling it again."""

from __future__ import annotations

from tests.catalogue import sql
from tests.integration.web.test_jobs import told

HOOK = {"url": "https://app.example/hook", "events": ["job.cancelled"], "balance_threshold": 100}


def test_an_endpoint_is_set_up_rotated_and_removed(app):
    made = app.ask("POST", "/webhooks/endpoints", json=HOOK)
    listed = app.get("/webhooks/endpoints")
    endpoint = made.json()["endpoint"]
    rotated = app.ask("POST", f"/webhooks/endpoints/{endpoint['id']}/rotate")

    assert made.status_code == 201
    assert made.json()["secret"].startswith("whsec_")
    assert rotated.json()["secret"] != made.json()["secret"]
    assert listed.json()["endpoints"] == [endpoint]
    assert "whsec" not in listed.text
    assert (endpoint["events"], endpoint["balance_threshold"]) == (["job.cancelled"], 100)
    assert app.ask("DELETE", f"/webhooks/endpoints/{endpoint['id']}").status_code == 204
    told(app.ask("DELETE", f"/webhooks/endpoints/{endpoint['id']}"), 404, "unknown_endpoint")


def test_what_was_told_is_listed_and_told_again(app):
    app.ask("POST", "/webhooks/endpoints", json=HOOK)
    job_id = app.submit().json()["job_id"]
    app.ask("POST", f"/jobs/{job_id}/cancel")
    sql("UPDATE webhook_messages SET state = 'dead', last_status = 500")

    (message,) = app.get("/webhooks/messages", state="dead").json()["messages"]
    replayed = app.ask("POST", f"/webhooks/messages/{message['id']}/replay")

    assert (message["event"], message["subject"], message["last_status"]) == ("job.cancelled", f"job {job_id}", 500)
    assert (replayed.status_code, replayed.json()) == (202, {"id": message["id"]})
    assert app.get("/webhooks/messages", state="pending").json()["messages"][0]["id"] == message["id"]
    told(app.ask("POST", "/webhooks/messages/999/replay"), 404, "unknown_message")


def test_what_no_endpoint_can_be_is_refused(app):
    told(app.ask("POST", "/webhooks/endpoints", json={**HOOK, "url": "http://app.example"}), 400, "invalid_url")
    told(app.ask("POST", "/webhooks/endpoints", json={**HOOK, "events": ["job.lost"]}), 400, "unknown_event")
    told(app.ask("POST", "/webhooks/endpoints", json={**HOOK, "account_id": 1}), 400, "invalid_request")
    assert app.get("/webhooks/endpoints").json() == {"endpoints": []}
