"""Settings in a running system: the workers, which keep the catalogue, take in the next request by what was changed."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest

from billing.settings import saving
from billing.settings.saving import Owner
from config.database import transaction
from tasks.app import app
from tests.conftest import emptied, fresh_database
from tests.factories import NOON, an_account, the_job
from tests.system import System, running_system
from workers.local.embedded.servers import Servers

pytestmark = pytest.mark.own_system


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, servers: Servers, template: str) -> Iterator[System]:
    home = tmp_path_factory.mktemp("settings")
    with (
        fresh_database(servers, template) as database_url,
        running_system(home, database_url, emptied(servers)) as started,
    ):
        started.wait_for_workers("billing", "generation")
        yield started


def save(name: str, value: object, account_id: int | None = None) -> None:
    with transaction() as session:
        saving.save(session, Owner(account_id), name, value, today=NOON.date())


def ask(account_id: int) -> UUID:
    """Send a request as another app does: a worker examines it."""
    job_id = uuid4()
    request = {"account_id": account_id, "operation": "clustering", "params": {"prompt": "bread"}}
    app.send_task("generation.submit", kwargs={**request, "job_id": str(job_id)}, queue="requests")
    return job_id


def test_a_change_holds_for_the_next_request_of_running_workers_and_for_no_earlier_one(system):
    account_id, other = an_account(100_000), an_account(100_000)
    before = ask(account_id)
    system.finished([before])

    save("openai.model", "gpt-4o")
    save("openai.max_tokens", 300)
    save("openai.model", "gpt-4o-mini", other)
    save("openai.temperature", 0.1, other)
    after, others = ask(account_id), ask(other)
    system.finished([after, others])

    told = {job_id: (job.model_name, job.params.get("temperature"), job.params["max_output_tokens"], job.state)
            for job_id in (before, after, others) for job in [the_job(job_id)]}  # fmt: skip
    assert told == {
        before: ("gpt-5.1", None, 8192, "settled"),
        after: ("gpt-4o", 0.7, 300, "settled"),
        others: ("gpt-4o-mini", 0.1, 300, "settled"),
    }
    assert the_job(others).settings_used == {
        "model": "account",
        "temperature": "account",
        "max_output_tokens": "platform",
    }
    assert the_job(before).price["model_name"] == "gpt-5.1"
