"""Webhooks by real workers: what ends is told at once, and a worker that is killed loses none of what it had taken."""

from __future__ import annotations

import os
import random
import signal
from collections import defaultdict
from collections.abc import Iterator

import pytest
from standardwebhooks import Webhook

from billing.webhooks import endpoints
from config.database import transaction
from tasks import periodic, pipeline
from tests.catalogue import sql
from tests.conftest import emptied, fresh_database
from tests.factories import an_account, rows
from tests.integration.webhooks.receiver import Receiver, receiving
from tests.rounds import rounds
from tests.system import System, running_system, wait_until
from workers.local.embedded.servers import Servers

pytestmark = pytest.mark.own_system
MESSAGES = rounds(1_000)
STATES = "SELECT state, count(*) FROM webhook_messages GROUP BY 1"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, servers: Servers, template: str) -> Iterator[System]:
    home, broker_url = tmp_path_factory.mktemp("system"), emptied(servers)
    with (
        fresh_database(servers, template) as database_url,
        running_system(home, database_url, broker_url, webhooks_to_private="1") as system,
    ):
        system.wait_for_workers("billing", "generation")
        yield system


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def an_endpoint(receiver: Receiver) -> endpoints.NewSecret:
    with transaction() as session:
        return endpoints.create(session, an_account(1000), receiver.url, plain=True)


def test_the_end_of_a_job_is_told(system, receiver):
    made = an_endpoint(receiver)
    # Without this tick, the first message would wait for the next one.
    periodic.deliver_webhooks()
    job = pipeline.submit(made.view.account_id, "clustering", {"prompt": "bread", "max_output_tokens": 64})

    wait_until(lambda: receiver.taken(), what="the message")

    (got,) = receiver.taken()
    event = Webhook(made.secret).verify(got.body, got.headers)
    assert (event["type"], event["data"]["id"]) == ("job.settled", str(job.job_id))


def test_a_killed_worker_loses_none_of_what_it_had_taken(system, receiver):
    made = an_endpoint(receiver)
    chance = random.Random(7)
    receiver.answer = lambda *_: chance.choices([204, 500, None], [8, 1, 1])[0]
    sql(
        "INSERT INTO webhook_messages (endpoint_id, account_id, event, subject, data) "
        "SELECT :endpoint, :account, 'job.settled', 'job ' || n % 100, jsonb_build_object('id', n) "
        "FROM generate_series(1, :count) n",
        endpoint=made.view.id, account=made.view.account_id, count=MESSAGES,
    )  # fmt: skip

    for share in (4, 2):
        pipeline.deliver_webhooks()
        wait_until(lambda share=share: len(receiver.got) > MESSAGES / share, what="deliveries under way")
        os.kill(system.process("generation").pid, signal.SIGKILL)
        # What the killed worker had taken would be due again in 40 seconds.
        sql("UPDATE webhook_messages SET next_at = now() WHERE state = 'pending'")
        system.wait_for_workers("generation")

    def all_delivered() -> bool:
        # What has failed is due at once, instead of later; what is being sent was taken for 40 seconds.
        sql(
            "UPDATE webhook_messages SET next_at = now() WHERE state = 'pending' "
            "AND next_at > now() AND next_at - now() NOT BETWEEN '35 s' AND '41 s'"
        )
        if rows("SELECT FROM webhook_messages WHERE state = 'pending' AND next_at <= now() LIMIT 1"):
            pipeline.deliver_webhooks()
        return dict(rows(STATES)).keys() == {"delivered"}

    wait_until(all_delivered, what="the delivery of all")
    taken = [got.event["data"]["id"] for got in receiver.taken()]
    assert set(taken) == set(range(1, MESSAGES + 1))
    of_jobs = defaultdict(list)
    for number in dict.fromkeys(taken):
        of_jobs[number % 100].append(number)
    assert all(numbers == sorted(numbers) for numbers in of_jobs.values())
