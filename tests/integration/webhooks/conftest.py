"""A receiver, an account that it is told of, and deliveries made in this process."""

from __future__ import annotations

import pytest

from billing.webhooks import endpoints
from config.database import transaction
from tasks import webhooks
from tasks.runtime import Runtime, use_runtime
from tests.factories import an_account
from tests.integration.webhooks.receiver import receiving
from workers import bootstrap


@pytest.fixture
def receiver():
    """Something that listens."""
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def deliver(env, db, monkeypatch):
    """Send what is due, as the task does."""
    monkeypatch.setenv("CREDITMILL_WEBHOOKS_TO_PRIVATE", "1")
    settings = bootstrap.publisher("tests")
    use_runtime(Runtime(settings=settings, providers={}))
    return webhooks.deliver


def an_endpoint(receiver, account_id=None, **given):
    """An endpoint of an account that is told at this receiver, with its secret."""
    account_id = an_account(1000) if account_id is None else account_id
    with transaction() as session:
        return endpoints.create(session, account_id, receiver.url + "/hook", plain=True, **given)
