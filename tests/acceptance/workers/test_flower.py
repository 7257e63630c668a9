"""Flower, the operators' view: the four chained tasks of a job by their names, its refund, and the workers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from tasks import pipeline
from tests.factories import an_account
from tests.system import System, running_beside, wait_until

pytestmark = pytest.mark.fleet

CHAIN = [
    "generation.check_balance",
    "generation.reserve_credits",
    "generation.call_provider",
    "generation.settle_charge",
]


@pytest.fixture(scope="module", autouse=True)
def _flower(system: System) -> Iterator[None]:
    """Flower, beside the fleet."""
    with running_beside(system, "flower"):
        wait_until(lambda: _workers(system), what="Flower, with both workers")
        yield


def _workers(system: System) -> dict[str, Any]:
    """The workers by their first names, asked anew, as soon as Flower knows both."""
    try:
        found = {name.split("-")[0]: worker for name, worker in system.flower("/api/workers?refresh=1").items()}
    except OSError:
        return {}
    return found if {"billing", "generation"} <= set(found) else {}


def _tasks(system: System, job_id: UUID, **wanted: str) -> list[dict[str, Any]]:
    """What Flower knows of a job, in the order of its start."""
    query = "".join(f"&{name}={value}" for name, value in wanted.items())
    tasks = system.flower(f"/api/tasks?limit=1000{query}").values()
    ours = [task for task in tasks if str(job_id) in task["args"]]
    return sorted(ours, key=lambda task: task["started"] or 0)


def _ended(system: System, job_id: UUID, *names: str) -> list[dict[str, Any]]:
    """Wait until Flower shows that tasks of exactly these names were done for the job, each once."""

    def look() -> list[dict[str, Any]]:
        tasks = _tasks(system, job_id, state="SUCCESS")
        return tasks if sorted(task["name"] for task in tasks) == sorted(names) else []

    return wait_until(look, what=f"{', '.join(names)} in Flower")


@pytest.mark.parametrize(
    ("operation", "params"),
    [
        ("clustering", {"prompt": "bread", "max_output_tokens": 64}),
        ("image_generation", {"prompt": "bread"}),
    ],
)
def test_flower_shows_the_four_chained_tasks_of_a_job(system, operation, params):
    job = pipeline.submit(an_account(1000), operation, params)

    tasks = _ended(system, job.job_id, *CHAIN)

    assert [task["name"] for task in tasks] == CHAIN
    assert len({task["root_id"] for task in tasks}) == 1
    workers = [task["worker"].split("-")[0] for task in tasks]
    assert workers == ["billing", "billing", "generation", "billing"]


def test_flower_shows_the_refund_of_a_job_that_failed(system):
    job = pipeline.submit(
        an_account(1000), "clustering", {"prompt": "[[simulate: content_policy]]", "max_output_tokens": 64}
    )

    tasks = _ended(system, job.job_id, *CHAIN[:3], "generation.refund_credits")

    assert tasks[-1]["name"] == "generation.refund_credits"
    assert _tasks(system, job.job_id, taskname="generation.settle_charge") == []
    assert system.finished([job.job_id])[job.job_id].state == "refunded"


def test_flower_shows_a_jobs_task_by_its_id(system):
    job = pipeline.submit(an_account(1000), "clustering", {"prompt": "bread", "max_output_tokens": 64})
    first = _ended(system, job.job_id, *CHAIN)[0]

    shown = system.flower(f"/api/task/info/{first['uuid']}")

    assert (shown["name"], shown["state"]) == ("generation.check_balance", "SUCCESS")
    assert str(job.job_id) in shown["args"]


def test_flower_shows_the_workers_and_their_queues(system):
    def queues() -> dict[str, set[str]]:
        # Flower asks the workers anew for this; until they have answered, it has no queues to show.
        found = {
            name: {queue["name"] for queue in worker.get("active_queues", [])}
            for name, worker in _workers_anew(system).items()
        }
        return found if len(found) == 2 and all(found.values()) else {}

    assert wait_until(queues, what="the workers' queues") == {
        "billing": {"requests", "billing", "periodic"},
        "generation": {"text", "image", "embedding", "webhooks"},
    }


def _workers_anew(system: System) -> dict[str, Any]:
    found = system.flower("/api/workers?refresh=1").items()
    return {name.split("-")[0]: worker for name, worker in found}


def test_flower_shows_the_periodic_tasks(system):
    def look() -> bool:
        tasks = system.flower("/api/tasks?limit=1000&taskname=periodic.recover_jobs")
        return any(task["state"] == "SUCCESS" for task in tasks.values())

    wait_until(look, what="periodic.recover_jobs in Flower")
