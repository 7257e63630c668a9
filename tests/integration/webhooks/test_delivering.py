"""Deliveries over HTTP: signed, at least once, in order for each job, tried for days, and not to private addresses."""

from __future__ import annotations

import random
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import uuid4

import openai
import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from billing.errors import InvalidRequest, UnknownThing
from billing.jobs import cancelling
from billing.webhooks import deliveries, endpoints
from billing.webhooks.deliveries import Answer
from config.database import database_now, transaction
from config.secrets import new_secret_key, use_secret_keys
from tasks import periodic, pipeline, sending
from tests.catalogue import a_settled_job, sql
from tests.conftest import SECRET_KEY
from tests.factories import HOUR, a_queued_job, a_subscription, an_account, rows
from tests.integration.webhooks.conftest import an_endpoint

pytestmark = pytest.mark.usefixtures("db")
STATES = "SELECT state, count(*) FROM webhook_messages GROUP BY 1 ORDER BY 1"
DUE = "UPDATE webhook_messages SET next_at = now() WHERE state = 'pending'"


def test_what_is_told_is_signed_and_thin(receiver, deliver):
    made = an_endpoint(receiver)
    job_id = a_settled_job(made.view.account_id)

    assert deliver() == 1
    (got,) = receiver.got

    event = Webhook(made.secret).verify(got.body, got.headers)
    assert event["type"] == "job.settled"
    assert event["data"] == {
        "id": str(job_id), "state": "settled", "operation": "clustering", "model": "gpt-5.1", "credits_charged": 5,
        "error": None, "idempotency_key": event["data"]["idempotency_key"],
    }  # fmt: skip
    assert "bread" not in got.body.decode()
    with pytest.raises(WebhookVerificationError):
        Webhook(made.secret).verify(got.body + b" ", got.headers)
    assert rows(STATES) == [("delivered", 1)]
    assert deliver() == 0


def test_the_sdk_of_openai_verifies_what_is_told_of_jobs(receiver, deliver):
    made = an_endpoint(receiver)
    a_settled_job(made.view.account_id)
    deliver()
    (got,) = receiver.got

    client = openai.OpenAI(api_key="x", webhook_secret=made.secret)
    client.webhooks.verify_signature(got.body.decode(), got.headers)
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.verify_signature(got.body.decode() + " ", got.headers)


def test_each_end_of_a_job_is_an_event_of_its_own(receiver, deliver):
    made = an_endpoint(receiver, events=["job.settled", "job.cancelled"])
    account_id = made.view.account_id
    a_settled_job(account_id)
    with transaction() as session:
        cancelling.cancel(session, a_queued_job(account_id), now=database_now(session))
    rejected = a_queued_job(account_id)
    sql("UPDATE generation_jobs SET state = 'rejected', finished_at = now() WHERE id = :id", id=rejected)
    a_settled_job(an_account())

    deliver()

    assert sorted(got.event["type"] for got in receiver.got) == ["job.cancelled", "job.settled"]


def test_a_balance_is_told_of_once_a_crossing_and_again_after_it_rose(receiver, deliver):
    made = an_endpoint(receiver, events=["balance.threshold_crossed"], balance_threshold=992)
    account_id = made.view.account_id

    for _ in range(3):
        a_settled_job(account_id)
    sql("UPDATE accounts SET balance = 1000 WHERE id = :id", id=account_id)
    for _ in range(3):
        a_settled_job(account_id)
    deliver()

    assert [got.event["data"]["balance"] for got in receiver.got] == [990, 990]
    assert receiver.got[0].event["data"]["threshold"] == 992


def test_a_limit_and_a_period_are_told_of(receiver, deliver):
    made = an_endpoint(receiver, limit_threshold_percent=50, events=["limit.threshold_crossed", "period.renewed"])
    a_subscription(made.view.account_id, {"content_ideas": 4})
    for _ in range(3):
        a_settled_job(made.view.account_id, "idea_generation")
    sql(
        "INSERT INTO subscription_periods (subscription_id, period_start, period_end, plan_id, status, starts_at, "
        "credits) SELECT id, '2026-12-01', '2027-01-01', plan_id, 'active', '2026-12-01', 0 FROM subscriptions"
    )

    deliver()

    told = {got.event["type"]: got.event["data"] for got in receiver.got}
    assert len(receiver.got) == 3
    assert (told["limit.threshold_crossed"]["used"], told["limit.threshold_crossed"]["allowed"]) == (2, 4)
    assert told["period.renewed"]["period_start"] == "2026-12-01"


def test_a_failure_is_tried_again_later_and_later_and_given_up_after_three_days(receiver, deliver):
    made = an_endpoint(receiver)
    a_settled_job(made.view.account_id)
    receiver.answer = lambda *_: 500

    assert deliver() == deliver() == 0
    assert len(receiver.got) == 1
    assert rows("SELECT last_status, attempts, next_at - now() BETWEEN '3 s' AND '6 s' FROM webhook_messages") == [
        (500, 1, True)
    ]
    for _ in range(9):
        sql(DUE)
        deliver()
    assert rows("SELECT next_at - now() BETWEEN '3 hours' AND '5 hours' FROM webhook_messages") == [(True,)]
    sql("UPDATE webhook_messages SET created_at = now() - interval '3 days'")
    sql(DUE)
    deliver()

    assert rows(STATES) == [("dead", 1)]
    assert {got.message_id for got in receiver.got} == {receiver.got[0].message_id}
    receiver.answer = lambda *_: 200
    with transaction() as session:
        deliveries.replay(session, int(receiver.got[0].message_id.removeprefix("msg_")), now=database_now(session))
    assert deliver() == 1


def test_an_event_that_is_refused_blocks_no_others_and_holds_up_those_of_its_own_job(receiver, deliver):
    made = an_endpoint(receiver)
    for subject in ("job 1", "job 1", "job 2"):
        sql(
            "INSERT INTO webhook_messages (endpoint_id, account_id, event, subject, data) "
            "VALUES (:endpoint, :account, 'job.settled', :subject, jsonb_build_object('id', CAST(:subject AS text)))",
            endpoint=made.view.id, account=made.view.account_id, subject=subject,
        )  # fmt: skip
    first = rows("SELECT min(id) FROM webhook_messages")[0][0]
    receiver.answer = lambda headers, _: 500 if headers["webhook-id"] == f"msg_{first}" else 200

    deliver()
    assert [got.event["data"]["id"] for got in receiver.taken()] == ["job 2"]
    receiver.answer = lambda *_: 200
    sql(DUE)
    deliver()
    deliver()

    assert [got.message_id for got in receiver.taken()][1:] == [f"msg_{first}", f"msg_{first + 1}"]


def test_an_endpoint_that_is_gone_is_told_nothing_more(receiver, deliver):
    made = an_endpoint(receiver)
    a_settled_job(made.view.account_id)
    a_settled_job(made.view.account_id)
    receiver.answer = lambda *_: 410

    deliver()
    a_settled_job(made.view.account_id)
    deliver()

    assert rows(STATES) == [("dead", 2)]
    assert rows("SELECT disabled_reason FROM webhook_endpoints") == [("it answered 410 Gone",)]


def test_two_secrets_sign_while_apps_change_over(receiver, deliver):
    old = an_endpoint(receiver)
    with transaction() as session:
        new = endpoints.rotate(session, old.view.id, overlap=HOUR, now=database_now(session))
    a_settled_job(old.view.account_id)
    deliver()
    sql("UPDATE webhook_endpoints SET former_until = now()")
    a_settled_job(old.view.account_id)
    deliver()

    first, second = receiver.got
    for secret in (old.secret, new.secret):
        Webhook(secret).verify(first.body, first.headers)
    Webhook(new.secret).verify(second.body, second.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(old.secret).verify(second.body, second.headers)


def test_secrets_are_bound_to_their_row_and_encrypted_anew(receiver, deliver):
    made, other = an_endpoint(receiver), an_endpoint(receiver)
    assert made.secret not in str(rows("SELECT e::text FROM webhook_endpoints e"))
    use_secret_keys(f"{new_secret_key()},{SECRET_KEY}")
    with transaction() as session:
        assert endpoints.rotate_secrets(session) == 2
    with transaction() as session:
        assert endpoints.rotate_secrets(session) == 0
    sql(
        "UPDATE webhook_endpoints SET secret_encrypted = "
        "(SELECT secret_encrypted FROM webhook_endpoints WHERE id = :other) WHERE id = :id",
        id=made.view.id, other=other.view.id,
    )  # fmt: skip
    a_settled_job(made.view.account_id)

    with pytest.raises(Exception, match="not encrypted for the place"):
        deliver()
    assert receiver.got == []


PRIVATE = ["127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "[::1]",
           "[fe80::1]", "[fc00::1]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "localhost",
           "127.1", "2130706433", "0x7f000001"]  # fmt: skip


@pytest.mark.parametrize("host", PRIVATE)
def test_no_private_address_is_sent_to(host, receiver):
    made = an_endpoint(receiver)
    a_settled_job(made.view.account_id)
    sql("UPDATE webhook_endpoints SET url = :url", url=f"https://{host}:{receiver.url.rpartition(':')[2]}/hook")
    with transaction() as session:
        (outgoing,) = deliveries.take(session, now=database_now(session), within=HOUR, limit=9)

    answer = sending.send(outgoing, to_private=False)

    assert answer in (Answer(error="the address is private"), Answer(error="the host is not known"))
    assert receiver.got == []


def test_a_host_that_is_looked_up_as_public_and_private_is_not_sent_to(receiver, monkeypatch):
    made = an_endpoint(receiver)
    a_settled_job(made.view.account_id)
    sql("UPDATE webhook_endpoints SET url = 'https://rebound.example/hook'")
    both = [(2, 1, 6, "", ("93.184.216.34", 443)), (2, 1, 6, "", ("127.0.0.1", 443))]
    monkeypatch.setattr("tasks.sending.socket.getaddrinfo", lambda *_, **__: both)
    with transaction() as session:
        (outgoing,) = deliveries.take(session, now=database_now(session), within=HOUR, limit=9)

    assert sending.send(outgoing, to_private=False) == Answer(error="the address is private")


def test_nobody_is_followed_elsewhere(receiver, deliver):
    made = an_endpoint(receiver)
    a_settled_job(made.view.account_id)
    receiver.answer = lambda *_: 302

    deliver()

    assert [got.status for got in receiver.got] == [302]
    assert rows("SELECT state, last_status FROM webhook_messages") == [("pending", 302)]


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://app.example/hook", "invalid_url"),
        ("ftp://app.example", "invalid_url"),
        ("https://", "invalid_url"),
        ("https://user:secret@app.example/", "invalid_url"),
        ("https://app.example/#x", "invalid_url"),
        ("https://app.example/a b", "invalid_url"),
        ("https://app.example/" + "a" * 500, "invalid_url"),
        ("https://[::1", "invalid_url"),
        ("https://app.example:99999/", "invalid_url"),
    ],
)
def test_what_is_no_address_of_an_endpoint_is_refused(url, code):
    account_id = an_account()

    with transaction() as session, pytest.raises(InvalidRequest) as caught:
        endpoints.create(session, account_id, url)

    assert caught.value.code == code


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"events": ["job.lost"]}, "unknown_event"),
        ({"balance_threshold": -1}, "invalid_amount"),
        ({"limit_threshold_percent": 0}, "invalid_share"),
        ({"limit_threshold_percent": 101}, "invalid_share"),
    ],
)
def test_what_no_endpoint_can_have_is_refused(given, code):
    account_id = an_account()

    with transaction() as session, pytest.raises(InvalidRequest) as caught:
        endpoints.create(session, account_id, "https://app.example/hook", **given)

    assert caught.value.code == code


def test_an_account_has_so_many_endpoints_at_most_and_what_is_not_there_is_unknown(receiver):
    account_id = an_account()
    for _ in range(endpoints.ENDPOINTS_MAX):
        an_endpoint(receiver, account_id)

    with pytest.raises(InvalidRequest, match="at most"):
        an_endpoint(receiver, account_id)
    with transaction() as session:
        (first, *_) = endpoints.of_account(session, account_id)
        with pytest.raises(UnknownThing):
            endpoints.remove(session, first.id, account_id=account_id + 1)
        with pytest.raises(UnknownThing):
            endpoints.rotate(session, uuid4(), overlap=HOUR, now=database_now(session))
        endpoints.remove(session, first.id, account_id=account_id)
        assert len(endpoints.of_account(session, account_id)) == endpoints.ENDPOINTS_MAX - 1


def test_through_a_flaky_receiver_all_arrive_at_least_once_and_in_order_for_each_job(receiver, deliver):
    made = an_endpoint(receiver)
    sql(
        "INSERT INTO webhook_messages (endpoint_id, account_id, event, subject, data) "
        "SELECT :endpoint, :account, 'job.settled', 'job ' || n % 100, jsonb_build_object('id', n) "
        "FROM generate_series(1, 1000) n",
        endpoint=made.view.id, account=made.view.account_id,
    )  # fmt: skip
    chance = random.Random(7)
    receiver.answer = lambda *_: chance.choices([204, 500, 429, None], [7, 1, 1, 1])[0]

    with ThreadPoolExecutor(3) as workers:
        for _ in range(60):
            list(workers.map(lambda _: deliver(), range(3)))
            if rows(STATES) == [("delivered", 1000)]:
                break
            sql(DUE)

    assert rows(STATES) == [("delivered", 1000)]
    taken = [got.event["data"]["id"] for got in receiver.taken()]
    assert set(taken) == set(range(1, 1001))
    of_jobs = defaultdict(list)
    for number in dict.fromkeys(taken):
        of_jobs[number % 100].append(number)
    assert all(numbers == sorted(numbers) for numbers in of_jobs.values())


def test_what_a_killed_sender_had_taken_is_sent_by_another_one(receiver, deliver):
    made = an_endpoint(receiver)
    a_settled_job(made.view.account_id)
    with transaction() as session:
        (lost,) = deliveries.take(session, now=database_now(session), within=timedelta(seconds=40), limit=9)

    assert deliver() == 0
    sql("UPDATE webhook_messages SET next_at = now()")
    assert deliver() == 1
    with transaction() as session:
        late = deliveries.record(session, lost, Answer(status=500), now=database_now(session), chance=0.5)
    assert late == "late"
    assert rows(STATES) == [("delivered", 1)]


def test_whoever_settles_sends_somebody_to_deliver_only_where_there_is_somebody_to_tell(receiver, deliver, monkeypatch):
    sent = []
    monkeypatch.setattr("tasks.pipeline.deliver_webhooks", lambda: sent.append("sent"))
    assert periodic.deliver_webhooks() == 0
    pipeline.tell([uuid4()])
    assert sent == []
    made = an_endpoint(receiver)
    a_settled_job(made.view.account_id)

    assert periodic.deliver_webhooks() == 1
    pipeline.tell([uuid4()])
    pipeline.tell([uuid4()])

    # The tick's own, and one for both.
    assert sent == ["sent", "sent"]


def test_the_doctor_tells_of_webhooks_that_wait_and_were_given_up(receiver, run):
    made = an_endpoint(receiver)
    for _ in range(2):
        a_settled_job(made.view.account_id)
    fine = run("doctor")[1]
    sql("UPDATE webhook_messages SET created_at = now() - interval '16 minutes'")
    late = run("doctor")[1]
    sql("UPDATE webhook_messages SET state = 'dead'")

    assert "No webhook waits for long." in fine
    assert "2 webhooks wait for longer than 15 minutes" in late
    assert "2 were given up" in run("doctor")[1]
