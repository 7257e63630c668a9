"""The API in this process, and keys that ask it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient

from billing.access import keys
from billing.jobs import calling, reserving, settling
from config.database import database_now, transaction
from tests.factories import MINUTE, a_claim, a_delivery, an_account, moment
from workers import bootstrap
from workers.web.app import make_app

JOB = {"operation": "clustering", "params": {"prompt": "bread", "max_output_tokens": 1000}}
"""A request that holds 11 credits."""


class App:
    """An app that asks the API with a key of an account."""

    def __init__(self, client: TestClient, account_id: int | None, **given: Any) -> None:
        self.account_id = account_id
        with transaction() as session:
            made = keys.create(session, account_id, actor="anna", now=database_now(session), **given)
        self.key, self.key_id = made.key, made.view.id
        self._client = client

    def ask(self, method: str, path: str, **given: Any) -> Any:
        """The answer to a request with the key."""
        headers = {"Authorization": f"Bearer {self.key}", **given.pop("headers", {})}
        return self._client.request(method, f"/api/v1{path}", headers=headers, **given)

    def get(self, path: str, **params: Any) -> Any:
        """What a GET answers."""
        return self.ask("GET", path, params=params)

    def submit(self, body: Any = JOB, *, key: str = "order-1") -> Any:
        """What a submission answers."""
        return self.ask("POST", "/jobs", json=body, headers={"Idempotency-Key": key})


@pytest.fixture
def client(env, db):
    """The API, in this process."""
    bootstrap.publisher("api")
    with TestClient(make_app(), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def app(client):
    """An app of an account with 1,000 credits."""
    return App(client, an_account(1000))


def work_off(job_id: str) -> None:
    """What the workers do for a job: 5 credits are charged."""
    job = UUID(job_id)
    with transaction() as session:
        now = database_now(session)
        assert reserving.reserve(session, [job], at=moment(session, now), publish_by=MINUTE).job_ids == [job]
    claim = a_claim(job, now=now)
    with transaction() as session:
        calling.succeed(session, claim, a_delivery(text="Three names."), now=now, publish_by=MINUTE)
    with transaction() as session:
        assert settling.settle(session, [job]) == [job]
