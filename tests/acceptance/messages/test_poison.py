"""Messages that are broken where Celery itself trips over them: a worker that ends over one never gets past it.

Each is put before a good one in the queue that apps write to. Whatever anybody sends, the good ones are settled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.acceptance.envelopes import item, put, request, unacknowledged
from tests.acceptance.messages.test_wire import a_good_one, a_request
from tests.factories import an_account, rows
from tests.system import System, wait_until

pytestmark = pytest.mark.fleet


def changed(raw: str, **parts: Any) -> str:
    """The item with some of its own parts replaced."""
    return json.dumps({**json.loads(raw), **parts})


def changed_properties(raw: str, **properties: Any) -> str:
    """The item with some of its properties replaced; None leaves one out."""
    found = json.loads(raw)
    kept = {name: value for name, value in {**found["properties"], **properties}.items() if value is not None}
    return json.dumps({**found, "properties": kept})


def without_id(text: str) -> str:
    """An item whose message has no id."""
    found = json.loads(item(text))
    del found["headers"]["id"]
    return json.dumps(found)


def plain(body: Any) -> str:
    """An item whose body is not wrapped in base64, so that it may be anything that JSON knows."""
    return changed(changed_properties(item("x"), body_encoding=None), body=body)


def to_set_aside(text: str) -> dict[str, str]:
    """What can be kept for an operator, with the body of a good message where it has one."""
    return {
        "no id": without_id(text),
        "an id with a NUL": item(text, message_id="a\x00b"),
        "an id with a NUL, of an unknown task": item(text, message_id="b\x00c", task="nonsense"),
        "an id that is no text, of an unknown task": item(text, message_id="a\ud800b", task="nonsense"),
        "an id of 100,000 characters": item(text, message_id="x" * 100_000, task="nonsense"),
        "a task that is a list": item(text, task=["generation.submit"]),
        "a task that is a list, in Celery's first protocol": changed(item('{"task": ["a"]}'), headers={}),
        "an empty list": item("[]"),
        "an empty object": item("{}"),
        "a text": item('"bread"'),
        "a number": item("3"),
        "null": item("null"),
        "an empty body": item(""),
        "keyword arguments that are a list": item('[[], ["bread"], {}]'),
        "time limits that are texts": item(text, headers={"timelimit": ["x", "y"]}),
        "a task of Celery's own": item(text, task="celery.accumulate"),
        "time limits of a moment": item(text, headers={"timelimit": [0.0001, 0.0001]}),
        "a time in the next millennium": item(text, headers={"eta": "2999-01-01T00:00:00+00:00"}),
        "a time that is none": item(text, headers={"eta": "soon"}),
        "a time limit that is a text": item(text, headers={"timelimit": "soon"}),
        "headers that are a text": changed(item(text), headers="task"),
        "a body that is an object": plain({"prompt": "bread"}),
        "a body that is no text": plain("bread\ud800"),
        "a body that is no base64": changed(item("x"), body="!!!"),
    }


def to_log(text: str) -> dict[str, str | bytes]:
    """What is not even an item of a queue: kombu takes it from the list before anybody can look at it."""
    return {
        "no properties": changed(item(text), properties={}),
        "no delivery information": changed_properties(item(text), delivery_info=None),
        "no delivery tag": changed_properties(item(text), delivery_tag=None),
        "an item that is a list": "[]",
        "an item that is an object": '{"hello": 1}',
        "an item that is text": "hello",
        "an item of random bytes": bytes(range(256)),
    }


@dataclass(frozen=True)
class Sent:
    """The good jobs by what stood before them, how many messages are to be set aside, and what was there before."""

    good: Mapping[str, UUID]
    set_aside: int
    jobs_before: set[UUID]
    set_aside_before: int


def jobs() -> set[UUID]:
    return {job_id for (job_id,) in rows("SELECT id FROM generation_jobs")}


def kept() -> int:
    return rows("SELECT count(*) FROM dead_messages WHERE body_encrypted IS NOT NULL")[0][0]


@pytest.fixture(scope="module")
def sent(system: System) -> Sent:
    """All of them, each before a good one."""
    account_id = an_account(100_000)
    before = jobs(), kept()
    text = request(a_request(account_id))
    set_aside = to_set_aside(text)
    good: dict[str, UUID] = {}
    for name, raw in {**set_aside, **to_log(text)}.items():
        put(system.environment["BROKER_URL"], "requests", raw)
        good[name], kwargs = a_good_one(account_id)
        put(system.environment["BROKER_URL"], "requests", item(request(kwargs), message_id=str(uuid4())))
    return Sent(good, len(set_aside), *before)


def test_good_messages_behind_poison_are_settled(system, sent):
    finished = system.finished(list(sent.good.values()))

    assert {job.state for job in finished.values()} == {"settled"}


def test_no_worker_ends_over_poison(system, sent):
    billing = system.logs()["billing.log"]

    assert [line[:200] for line in billing.splitlines() if "Unrecoverable error" in line] == []
    assert "Frequent restarts" not in billing


def test_poison_is_set_aside(system, sent):
    wait_until(
        lambda: kept() - sent.set_aside_before >= sent.set_aside,
        within_s=20,
        what=f"setting {sent.set_aside} messages aside",
    )


def test_poison_does_not_stay_in_anybodys_hands(system, sent):
    wait_until(lambda: unacknowledged(system.environment["BROKER_URL"]) == 0, within_s=20, what="every acknowledgement")


def test_poison_leaves_nothing_half_written(system, sent):
    assert jobs() - sent.jobs_before == set(sent.good.values())
    assert system.findings() == []
