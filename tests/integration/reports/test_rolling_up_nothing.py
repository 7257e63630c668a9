"""The roll-up when nothing was sold."""

from __future__ import annotations

from billing.reports import revenue
from config.database import transaction
from tests.factories import NOON


def test_the_roll_up_of_nothing_is_nothing(db):
    with transaction() as session:
        assert revenue.roll_up(session, now=NOON) == 0
