"""Calls whose answers are lost: resolved by a provider that can tell, through real workers and a real wire."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from uuid import UUID

import pytest

from billing.jobs.requests import Submission
from tasks import pipeline
from tests.conftest import emptied, fresh_database
from tests.factories import an_account, rows, the_account
from tests.system import System, running_system, wait_until
from workers.local.embedded.servers import Servers

pytestmark = pytest.mark.own_system

OPENING = 100_000
LOST = ("hang_after_accept", "reset_mid_body", "malformed_body")
"""Faults after which the provider has done the work and we have no answer."""
NOT_DONE = "hang_before_accept"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, servers: Servers, template: str) -> Iterator[System]:
    home = tmp_path_factory.mktemp("lost")
    pace = {"text_call_s": "2", "image_call_s": "2", "republish_after_s": "1", "unknown_wait_s": "20"}
    with (
        fresh_database(servers, template) as database_url,
        running_system(home, database_url, emptied(servers), honour_keys=True, **pace) as started,
    ):
        started.wait_for_workers("billing", "generation")
        yield started


def submit(account_id: int, operation: str, *prompts: str, model: str | None = None) -> list[UUID]:
    more = {"max_output_tokens": 64} if operation == "clustering" else {}
    return [
        job.job_id
        for job in pipeline.submit_many(
            [
                Submission(account_id=account_id, operation=operation, model=model, params={"prompt": prompt, **more})
                for prompt in prompts
            ]
        )
    ]


def prompts(*faults: str) -> list[str]:
    return [f"bread [[simulate: {fault} x1]]" for fault in faults]


@pytest.mark.parametrize(
    ("operation", "model"),
    [("clustering", None), ("image_generation", "runware:97@1")],
    ids=["sent again under its key", "looked up by its task"],
)
def test_what_was_done_is_charged_although_its_answer_was_lost(system, operation, model):
    account_id = an_account(OPENING)

    finished = system.finished(submit(account_id, operation, *prompts(*LOST), model=model))

    assert {(job.state, job.attempts) for job in finished.values()} == {("settled", 1)}
    assert {system.executions()[job_id] for job_id in finished} == {1}
    charged = sum(job.credits_charged for job in finished.values())
    assert charged > 0
    assert (the_account(account_id).balance, the_account(account_id).reserved) == (OPENING - charged, 0)
    told = rows(
        "SELECT DISTINCT r.outcome, r.actor, c.exposure FROM resolutions r JOIN provider_calls c ON c.id = r.call_id "
        "WHERE c.job_id = ANY(:jobs)",
        jobs=list(finished),
    )
    assert told == [("delivered", "recovery", False)]
    assert system.findings() == []


def test_a_request_that_never_arrived_is_done_when_it_is_sent_again(system):
    account_id = an_account(OPENING)

    finished = system.finished(submit(account_id, "clustering", *prompts(NOT_DONE)))

    assert {job.state for job in finished.values()} == {"settled"}
    assert {system.executions()[job_id] for job_id in finished} == {1}


def test_a_task_that_cannot_be_found_is_refunded_in_the_end_and_its_cost_is_ours(system):
    account_id = an_account(OPENING)

    finished = system.finished(submit(account_id, "image_generation", *prompts(NOT_DONE), model="runware:97@1"))

    assert {(job.state, job.error_code) for job in finished.values()} == {("refunded", "outcome_unknown")}
    assert {system.executions()[job_id] for job_id in finished} == {0}
    assert rows("SELECT asked > 0, exposure FROM provider_calls WHERE job_id = ANY(:jobs)", jobs=list(finished)) == [
        (True, True)
    ]
    assert (the_account(account_id).balance, system.findings()) == (OPENING, [])


def test_a_call_that_died_with_its_worker_is_found_out(system):
    account_id = an_account(OPENING)
    jobs = submit(account_id, "image_generation", "bread [[simulate: latency 1]]", model="runware:97@1")
    wait_until(lambda: rows("SELECT 1 FROM generation_jobs WHERE state = 'calling'"), what="the call")
    wait_until(lambda: system.calls_in_flight() > 0, what="the call at the provider")

    os.kill(system.supervisor.pids()["generation"], signal.SIGKILL)

    finished = system.finished(jobs, within_s=90)
    executed = system.executions()[jobs[0]]
    assert executed <= 1
    assert finished[jobs[0]].state == ("settled" if executed else "refunded")
