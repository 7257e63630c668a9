"""Messages that were set aside: listed without what they say, and worked on once their reason is gone."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from kombu.utils import json as kombu_json

from billing.upkeep import dead_letters
from config.database import transaction
from tasks.messages import intake, setting_aside
from tests.factories import NOON, a_queued_job, an_account, rows, the_job
from tests.integration.commands.told import PLANTED, one


@pytest.fixture
def publisher(run):
    """The command line, in a process that can also take messages in."""
    run("jobs", "redrive", 1)
    return run


def request(account_id, **given):
    params = {"prompt": PLANTED, "max_output_tokens": 1000}
    return {"account_id": account_id, "operation": "translation", "params": params, **given}


def numbers(run):
    return [each["id"] for each in one(run("jobs", "dead", "--json")[1])["messages"]]


def test_a_request_is_worked_on_once_its_reason_is_gone(publisher):
    assert intake.take_in((), request(an_account(1000)), message_id="m-1") == []
    (number,) = numbers(publisher)

    still = publisher("jobs", "redrive", number)
    publisher("operations", "add", "translation", "model_type=text")
    code, out, _ = publisher("jobs", "redrive", number, "--json")

    assert (still[0], "[unknown_operation]" in still[2]) == (2, True)
    (job_id,) = one(out)["job_ids"]
    assert (code, the_job(UUID(job_id)).operation_type) == (0, "translation")
    assert numbers(publisher) == []


def test_ids_may_be_uuids_as_celery_carries_them(publisher):
    job_id, key = uuid4(), uuid4()
    sent = request(an_account(1000), job_id=job_id, idempotency_key=key)
    carried = kombu_json.loads(kombu_json.dumps(sent))
    intake.take_in((), carried, message_id="m-1")
    (number,) = numbers(publisher)
    publisher("operations", "add", "translation", "model_type=text")

    assert publisher("jobs", "redrive", number)[0] == 0
    assert intake.take_in((), carried, message_id="m-1") == [job_id]

    assert carried["job_id"] == job_id
    assert rows("SELECT id, idempotency_key FROM generation_jobs") == [(job_id, str(key))]


def test_a_request_that_is_sent_again_and_again_is_one_job(publisher):
    kwargs = request(an_account(1000))
    intake.take_in((), kwargs, message_id="m-1")
    (number,) = numbers(publisher)
    publisher("operations", "add", "translation", "model_type=text")

    assert publisher("jobs", "redrive", number)[0] == 0
    intake.take_in((), kwargs, message_id="m-1")

    assert rows("SELECT count(*) FROM generation_jobs") == [(1,)]


def test_what_was_worked_on_keeps_its_reason_and_no_prompt(publisher):
    intake.take_in((), request(an_account(1000)), message_id="m-1")
    (number,) = numbers(publisher)
    publisher("operations", "add", "translation", "model_type=text")
    publisher("jobs", "redrive", number)

    assert rows("SELECT code, redriven_at IS NOT NULL, body_encrypted FROM dead_messages") == [
        ("unknown_operation", True, None)
    ]
    code, _, err = publisher("jobs", "redrive", number)
    assert (code, "[not_redrivable]" in err) == (2, True)


def test_a_message_that_is_set_aside_once_more_can_be_worked_on_once_more(publisher):
    kwargs = request(an_account(1000))
    intake.take_in((), kwargs, message_id="m-1")
    with transaction() as session:
        dead_letters.mark_redriven(session, numbers(publisher)[0], now=NOON)
    assert numbers(publisher) == []

    intake.take_in((), kwargs, message_id="m-1")

    assert len(numbers(publisher)) == 1
    assert rows("SELECT times_seen, body_encrypted IS NOT NULL FROM dead_messages") == [(2, True)]


def test_a_failed_steps_jobs_are_looked_at_again_at_once(publisher):
    job_id = a_queued_job(an_account(1000))
    setting_aside.set_aside(
        message_id="m-2",
        task_name="generation.check_balance",
        code="task_failed",
        reason="The task failed (KeyError).",
        body=[[[str(job_id)]], {}],
    )
    before = the_job(job_id).next_at

    code, out, _ = publisher("jobs", "redrive", numbers(publisher)[0], "--json")

    assert (code, one(out)["job_ids"]) == (0, [str(job_id)])
    assert the_job(job_id).next_at != before


@pytest.mark.parametrize(
    ("task", "body"),
    [
        ("generation.submit", "not JSON"),
        ("generation.submit", [1, 2]),
        (None, ["x"]),
        ("generation.settle_charge", [[[str(uuid4())]], {}]),
        ("generation.settle_charge", [[["no id"]], {}]),
        ("generation.settle_charge", [[], {}]),
    ],
    ids=["no JSON", "no parts", "no task", "no such job", "no id", "no arguments"],
)
def test_what_cannot_be_sent_again_stays_aside(publisher, task, body):
    setting_aside.set_aside(message_id="m-3", task_name=task, code="undecodable", reason="Why not.", body=body)

    code, _, err = publisher("jobs", "redrive", numbers(publisher)[0])

    assert (code, "[not_redrivable]" in err, err.count("\n")) == (2, True, 1)
    assert len(numbers(publisher)) == 1


@pytest.mark.parametrize("number", [77, 2**80])
def test_a_message_that_does_not_exist_is_one_sentence(publisher, number):
    code, _, err = publisher("jobs", "redrive", number)

    assert (code, "[unknown_dead_message]" in err) == (2, True)


def test_the_list_never_shows_what_a_message_says(publisher):
    intake.take_in((), request(an_account(1000)), message_id="m-1")

    for arguments in ([], ["--json"]):
        assert PLANTED not in publisher("jobs", "dead", *arguments)[1]


def test_a_request_of_the_greatest_length_can_be_sent_again(publisher):
    params = {"prompt": "\u00e9" * 490_000, "max_output_tokens": 16}
    intake.take_in((), request(an_account(1000), params=params), message_id="m-1")
    publisher("operations", "add", "translation", "model_type=text")

    code, _, err = publisher("jobs", "redrive", numbers(publisher)[0])

    # It is understood as a whole, and refused for what it asks.
    assert (code, "[input_too_long]" in err) == (2, True)
