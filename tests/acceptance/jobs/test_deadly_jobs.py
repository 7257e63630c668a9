"""Jobs that kill every worker that works on them: given up and refunded, while all others go on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from billing.jobs.requests import Submission
from tasks import pipeline
from tests.acceptance.envelopes import QUEUES, unacknowledged, waiting
from tests.conftest import emptied, fresh_database
from tests.factories import an_account, rows, the_account
from tests.system import System, running_system, wait_until
from workers.local import machine
from workers.local.embedded.servers import Servers
from workers.local.supervisor import Program

pytestmark = pytest.mark.own_system

OPENING = 100_000
STEPS = ("check", "reserve", "settle", "refund")


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, servers: Servers, template: str) -> Iterator[System]:
    def program(name: str, arguments: list[str], **given: int) -> Program:
        made = ordinary(name, arguments, **given)
        deadly = [sys.executable, "-m", "tests.acceptance.deadly_worker"]
        return replace(made, command=deadly) if name == "billing" else made

    ordinary, patch = machine.program, pytest.MonkeyPatch()
    patch.setattr(machine, "program", program)
    home = tmp_path_factory.mktemp("deadly")
    try:
        with (
            fresh_database(servers, template) as database_url,
            running_system(home, database_url, emptied(servers)) as started,
        ):
            started.wait_for_workers("billing", "generation")
            yield started
    finally:
        patch.undo()


def prompt_of(step: str) -> str:
    """The prompt of a job that kills its worker at this step."""
    return f"bread [[deadly {step}]]" + (" [[simulate: content_policy]]" if step == "refund" else "")


@pytest.fixture(scope="module")
def ended(system):
    """A batch with one deadly job for each step among good ones; returns them as they ended, by their prompt."""
    account_id = an_account(OPENING)
    prompts = [prompt_of(step) for step in STEPS] + [f"bread {number}" for number in range(6)]
    submitted = pipeline.submit_many(
        [
            Submission(
                account_id=account_id,
                operation="clustering",
                params={"prompt": prompt, "max_output_tokens": 64},
            )
            for prompt in prompts
        ]
    )
    finished = system.finished([job.job_id for job in submitted], within_s=120)
    return account_id, {job.params["prompt"]: job for job in finished.values()}


def test_deadly_jobs_are_given_up(ended):
    _, jobs = ended
    found = {step: jobs[prompt_of(step)] for step in STEPS}

    assert {step: (job.state, job.error_code) for step, job in found.items()} == {
        "check": ("rejected", "worker_lost"),
        "reserve": ("rejected", "worker_lost"),
        "settle": ("refunded", "worker_lost"),
        # It ends as it would have ended anyway.
        "refund": ("refunded", "content_policy"),
    }
    assert {job.credits_charged for job in found.values()} == {None}


def test_the_others_of_the_batch_are_settled(ended):
    _, jobs = ended

    assert {jobs[f"bread {number}"].state for number in range(6)} == {"settled"}


def test_what_was_delivered_for_a_deadly_job_is_our_cost(ended):
    _, jobs = ended
    deadly = jobs["bread [[deadly settle]]"].id

    assert rows("SELECT outcome, exposure, cost_usd > 0 FROM provider_calls WHERE job_id = :job", job=deadly) == [
        ("succeeded", True, True)
    ]


def test_nothing_is_executed_twice_and_the_books_balance(system, ended):
    account_id, jobs = ended
    charged = sum(job.credits_charged or 0 for job in jobs.values())
    account = the_account(account_id)

    assert max(system.executions().values()) == 1
    assert (account.balance, account.reserved) == (OPENING - charged, 0)
    assert system.findings() == []


def test_an_operator_finds_them(ended):
    _, jobs = ended
    deadly = {jobs[prompt_of(step)].id for step in STEPS}

    found = rows("SELECT job_id FROM dead_messages WHERE code = 'worker_lost'")

    assert {job_id for (job_id,) in found} == deadly


def test_their_messages_are_gone(system, ended):
    broker_url = system.environment["BROKER_URL"]
    wait_until(lambda: unacknowledged(broker_url) == 0, what="every acknowledgement")
    wait_until(lambda: not any(waiting(broker_url, queue) for queue in QUEUES), what="empty queues")
