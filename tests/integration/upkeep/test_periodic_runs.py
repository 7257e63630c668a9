"""Runs of periodic tasks: one works on a task at a time, and a run that came to its end is kept."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from time import monotonic, sleep

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from billing.upkeep import periodic_runs
from billing.upkeep.periodic_runs import Run
from config.database import transaction
from tests.factories import HOUR, MINUTE, NOON, rows

pytestmark = pytest.mark.usefixtures("db")
TASK, OTHER = "renew_subscriptions", "reset_plan_limits"


def locked(task=TASK):
    """Whether somebody who comes now is let in."""
    with transaction() as session:
        return not periodic_runs.try_lock(session, task)


def note(task=TASK, *, now, worked=0, blocked=0):
    with transaction() as session:
        periodic_runs.note(session, task, worked=worked, blocked=blocked, now=now)


def noted(task=TASK):
    return rows("SELECT runs, worked, blocked, first_at, finished_at FROM periodic_runs WHERE task = :task", task=task)


def latest():
    with transaction() as session:
        return periodic_runs.latest(session)


# --- one at a time ---


def test_of_many_who_come_at_once_one_is_let_in():
    barrier = Barrier(8)

    def come(_):
        with transaction() as session:
            barrier.wait()
            let_in = periodic_runs.try_lock(session, TASK)
            # Nobody leaves before all have been answered.
            barrier.wait()
            return let_in

    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            assert sum(pool.map(come, range(8))) == 1


def test_who_is_let_in_is_so_until_the_transaction_ends_and_the_next_one_sees_what_was_written():
    with transaction() as session:
        assert periodic_runs.try_lock(session, TASK)
        # As often as it asks.
        assert periodic_runs.try_lock(session, TASK)
        periodic_runs.note(session, TASK, worked=7, now=NOON)
        assert locked()

    with transaction() as session:
        assert periodic_runs.try_lock(session, TASK)
        assert session.scalar(text("SELECT worked FROM periodic_runs")) == 7


def fail(_):
    raise ZeroDivisionError


def lose_the_session(session):
    pid = session.scalar(text("SELECT pg_backend_pid()"))
    with transaction() as other:
        other.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": pid})


def hang(session):
    session.execute(text("SET LOCAL idle_in_transaction_session_timeout = '200ms'"))
    assert locked()
    deadline = monotonic() + 20
    while locked():
        assert monotonic() < deadline
        sleep(0.01)


@pytest.mark.parametrize(
    ("trouble", "raised"), [(fail, ZeroDivisionError), (lose_the_session, OperationalError), (hang, OperationalError)]
)
def test_a_transaction_that_fails_is_lost_or_hangs_lets_the_next_one_in(trouble, raised):
    def work():
        with transaction() as session:
            assert periodic_runs.try_lock(session, TASK)
            trouble(session)
            assert not locked()

    with pytest.raises(raised):
        work()
    assert not locked()


def test_two_tasks_are_worked_on_side_by_side():
    with transaction() as session:
        assert periodic_runs.try_lock(session, TASK)
        assert (locked(), locked(OTHER)) == (True, False)


def test_whoever_only_notes_a_run_waits_for_nobody_who_works():
    with transaction() as session:
        assert periodic_runs.try_lock(session, TASK)
        with transaction(lock_timeout_s=1) as other:
            periodic_runs.note(other, TASK, now=NOON)


# --- what is kept of a run ---


def test_runs_are_counted_and_the_last_one_is_told():
    note(now=NOON, worked=3, blocked=2)
    note(now=NOON + MINUTE, worked=4, blocked=1)
    note(now=NOON + HOUR)

    assert noted() == [(3, 7, 0, NOON, NOON + HOUR)]


def test_runs_that_end_at_once_are_all_counted():
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: note(now=NOON, worked=2), range(24)))

    assert noted() == [(24, 48, 0, NOON, NOON)]


def test_a_run_is_noted_with_the_transaction_or_not_at_all():
    def work():
        with transaction() as session:
            periodic_runs.note(session, TASK, now=NOON)
            fail(session)

    with pytest.raises(ZeroDivisionError):
        work()
    assert noted() == []


def test_after_the_clock_was_set_back_the_last_run_is_the_one_that_ended_last():
    note(now=NOON)
    note(now=NOON - 31 * 24 * HOUR, blocked=1)

    # And no run is the first that is yet to come.
    assert noted() == [(2, 0, 1, NOON - 31 * 24 * HOUR, NOON - 31 * 24 * HOUR)]
    note(now=NOON + MINUTE)
    assert noted() == [(3, 0, 0, NOON - 31 * 24 * HOUR, NOON + MINUTE)]


def test_of_each_task_that_has_run_its_last_run_is_told():
    assert latest() == {}
    note(now=NOON)
    note(OTHER, now=NOON + MINUTE, blocked=2)
    note(now=NOON + HOUR, worked=1)

    assert latest() == {
        TASK: Run(finished_at=NOON + HOUR, blocked=0, first_at=NOON),
        OTHER: Run(finished_at=NOON + MINUTE, blocked=2, first_at=NOON + MINUTE),
    }
