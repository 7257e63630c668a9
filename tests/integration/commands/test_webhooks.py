"""The commands about webhooks."""

from __future__ import annotations

from tests.catalogue import a_settled_job
from tests.factories import an_account
from tests.integration.commands.told import assert_one_sentence, lines, one

URL = "https://app.example/hook"


def test_an_endpoint_is_made_shown_once_listed_rotated_and_removed(run):
    account_id = an_account()

    code, out, err = run("webhooks", "create", account_id, URL, "--events", "job.settled, job.refunded")
    (listed,) = lines(run("webhooks", "list", "--account", account_id, "--json")[1])
    rotated = one(run("webhooks", "rotate", listed["id"], "--json")[1])

    assert (code, out.startswith("whsec_")) == (0, True)
    assert "job.settled, job.refunded" in err
    assert URL in run("webhooks", "list")[1]
    assert rotated["secret"] != out.strip()
    assert run("webhooks", "rotate", listed["id"])[1].startswith("whsec_")
    assert run("webhooks", "remove", listed["id"])[0] == 0
    assert run("webhooks", "list", "--json")[1] == ""


def test_messages_are_listed_and_told_again(run):
    account_id = an_account()
    run("webhooks", "create", account_id, URL)
    a_settled_job(account_id)

    (message,) = one(run("webhooks", "messages", "--json")[1])["messages"]

    assert message["event"] == "job.settled"
    assert "job.settled" in run("webhooks", "messages", "--state", "pending")[1]
    assert run("webhooks", "replay", message["id"])[1] == f"Message {message['id']} is delivered again.\n"


def test_bad_input_is_one_sentence(run):
    account_id = an_account()
    for words, code in (
        (("create", account_id, "http://app.example"), "invalid_url"),
        (("create", 99, URL), "unknown_account"),
        (("create", account_id, URL, "--events", "job.lost"), "unknown_event"),
        (("replay", 7), "unknown_message"),
        (("remove", "0b1f4c1e-8a64-4d0e-9a6f-2f5e8f3b7c11"), "unknown_endpoint"),
    ):
        exit_code, out, err = run("webhooks", *words)
        assert (exit_code, out) == (2, "")
        assert_one_sentence(err, code)
