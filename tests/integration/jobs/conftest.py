"""What holds after every test of a module that asks for it: the books balance."""

from __future__ import annotations

import pytest

from billing.reports import audit
from config.database import transaction
from tests.factories import NOON


@pytest.fixture
def the_books_balance(db):
    """Whatever a test does, the books balance afterwards."""
    yield
    with transaction(isolation="REPEATABLE READ", read_only=True) as session:
        assert audit.audit(session, now=NOON) == []
