"""Single guards of upkeep, one test each: what the database refuses of losses and of the runs of a task."""

from __future__ import annotations

import pytest

from billing.upkeep import worker_losses
from config.database import transaction
from tests.factories import NOON
from tests.guarding import assert_refused

pytestmark = pytest.mark.usefixtures("db")

REFUSED = [
    ("INSERT INTO periodic_runs VALUES ('a', 1, -1, 0, now(), now())",   "ck_periodic_runs_not_negative"),
    ("INSERT INTO periodic_runs SELECT 'a', 1, 0, 0, now(), now() FROM generate_series(1, 2)", "pk_periodic_runs"),
    ("INSERT INTO worker_losses (subject, losses, last_at) VALUES ('job', 0, now())", "ck_worker_losses_counted"),
]  # fmt: skip


@pytest.mark.usefixtures("books")
@pytest.mark.parametrize("rule", dict.fromkeys(rule for _, rule in REFUSED))
def test_the_database_refuses_it_by_itself(rule):
    assert_refused(REFUSED, rule)


def test_losses_in_a_row_are_added_up_and_forgotten_at_the_end():
    def count():
        with transaction() as session:
            return worker_losses.count(session, "a job", now=NOON)

    assert [count(), count(), count()] == [1, 2, 3]
    with transaction() as session:
        worker_losses.forget(session, ["a job"])
    assert count() == 1
