"""Ticks of the renewals: at once, killed in the middle, late, by a clock that was set back, past blocked accounts."""

from __future__ import annotations

import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from threading import Event
from time import monotonic, sleep

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError

from billing.money import CREDITS_MAX
from billing.plans import renewals, subscription_queries
from billing.upkeep import periodic_runs
from config import database
from config.database import transaction
from tasks.periodic import in_batches
from tests.factories import HOUR, MINUTE, NOON, rows, the_account
from tests.subscribers import a_plan, a_subscriber, findings, ledger, renew, reset_limits, standing_still, tick

pytestmark = pytest.mark.usefixtures("db")
DAY = timedelta(days=1)
MOMENT = timedelta(microseconds=1)
RENEW = "renew_subscriptions"
BOUNDARY = datetime(2026, 12, 20, tzinfo=UTC)
"""When the second period begins of who subscribes at noon."""


@pytest.fixture(autouse=True)
def _plan(db):
    a_plan()


def subscribers(count):
    return [a_subscriber() for _ in range(count)]


def balances(account_ids):
    return [the_account(each).balance for each in account_ids]


def set_balance(account_id, balance):
    with transaction() as session:
        session.execute(
            text("UPDATE accounts SET balance = :balance WHERE id = :id"), {"balance": balance, "id": account_id}
        )


def noted(task=RENEW):
    """How often the task ran to its end, what it wrote, what its last run could not work on, and when that ended."""
    found = rows("SELECT runs, worked, blocked, finished_at FROM periodic_runs WHERE task = :task", task=task)
    return found[0] if found else None


def granted():
    """When each period began that was granted, in the order of the grants."""
    return [at for (at,) in rows("SELECT created_at FROM credit_transactions ORDER BY id")]


@contextmanager
def listening(name):
    """Each time that this happens at the database."""
    seen = []

    def note(*given):
        seen.append(given)

    event.listen(database.engine(), name, note)
    yield seen
    event.remove(database.engine(), name, note)


@pytest.fixture
def in_twos(monkeypatch):
    """Batches of two accounts."""
    monkeypatch.setattr(renewals, "BATCH", 2)


# --- one at a time ---


def test_whoever_finds_another_at_work_ends_at_once_and_takes_nothing_for_blocked(caplog):
    caplog.set_level(logging.INFO)
    ids = subscribers(2)
    at_work, go_on = Event(), Event()

    def long_batch(session, now, worked):
        found = renewals.renew(session, now, worked)
        at_work.set()
        assert go_on.wait(30)
        return found

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(in_batches, RENEW, long_batch, clock=standing_still(BOUNDARY))
        assert at_work.wait(30)
        began = monotonic()
        # Less than it would wait for the first one's locks.
        assert (renew(BOUNDARY), monotonic() - began < 0.9) == (0, True)
        assert noted() is None
        go_on.set()
        assert first.result(30) == 2

    assert balances(ids) == [1000, 1000]
    assert noted() == (1, 2, 0, BOUNDARY)
    assert caplog.records == []


def test_whoever_is_overtaken_between_two_batches_ends_and_the_other_goes_on(in_twos, monkeypatch):
    ids = subscribers(3)
    try_lock, comers = periodic_runs.try_lock, iter(range(10))

    with transaction() as rival:

        def behind_a_rival(session, task):
            if next(comers) == 1:
                assert try_lock(rival, task)
            return try_lock(session, task)

        monkeypatch.setattr(periodic_runs, "try_lock", behind_a_rival)
        assert renew(BOUNDARY) == 2
        assert renew(BOUNDARY) == 0
    assert sorted(balances(ids)) == [500, 1000, 1000]
    assert noted() is None

    assert renew(BOUNDARY + MINUTE) == 1
    assert balances(ids) == [1000] * 3
    assert noted() == (1, 1, 0, BOUNDARY + MINUTE)


def test_ticks_of_both_tasks_at_once_many_times():
    ids = [a_subscriber(time_zone=zone) for zone in ("UTC", "Asia/Kathmandu", "America/Lima")]
    for month in range(1, 13):
        at = NOON + month * 31 * DAY
        with ThreadPoolExecutor(8) as pool:
            done = list(pool.map(lambda work, at=at: work(at), [renew, reset_limits] * 4))
        # Whoever was let in first has done it all, or was overtaken by whoever has done the rest.
        assert sum(done[::2]) == 3
        assert sum(done[1::2]) == (6 if month == 1 else 3)
        assert rows("SELECT sum(blocked), max(finished_at), min(finished_at) FROM periodic_runs") == [(0, at, at)]

    assert balances(ids) == [500 * 13] * 3
    assert findings() == []


def test_what_one_task_leaves_undone_the_other_does_not_wait_for():
    account_id = a_subscriber()
    set_balance(account_id, CREDITS_MAX)

    with transaction() as session:
        assert periodic_runs.try_lock(session, RENEW)
        assert tick(BOUNDARY) == (0, 2)
    set_balance(account_id, 500)
    assert tick(BOUNDARY) == (1, 0)


# --- killed in the middle ---

DYING = """
import os, signal, sys
from datetime import datetime
from sqlalchemy.engine.default import DefaultDialect
from billing.plans import renewals
from config import database
from tests.subscribers import renew

url, now, phase, number = sys.argv[1], datetime.fromisoformat(sys.argv[2]), sys.argv[3], int(sys.argv[4])
renewals.BATCH = 2
commit, commits = DefaultDialect.do_commit, 0

def do_commit(dialect, connection):
    global commits
    commits += 1
    if commits == number and phase == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    commit(dialect, connection)
    if commits == number:
        os.kill(os.getpid(), signal.SIGKILL)

database.connect(database.make_engine(url))
with database.transaction() as session:
    database.database_now(session)  # connects: the first connection commits by itself
DefaultDialect.do_commit = do_commit
renew(now)
"""


@pytest.mark.parametrize(
    ("phase", "commit", "granted", "ended", "rule"),
    [
        ("before", 1, 0, False, "the first batch went with its worker"),
        ("after",  1, 2, False, "between two batches"),
        ("before", 2, 2, False, "the last batch went with its worker"),
        ("after",  2, 3, False, "all is done, and the run has not ended"),
        ("before", 3, 3, False, "the same"),
        ("after",  3, 3, True,  "both"),
    ],
)  # fmt: skip
def test_a_tick_that_is_killed_keeps_what_was_committed_and_the_next_one_goes_on(
    db, in_twos, phase, commit, granted, ended, rule
):
    ids = subscribers(3)
    died = subprocess.run(
        [sys.executable, "-c", DYING, db, BOUNDARY.isoformat(), phase, str(commit)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert died.returncode == -9, died.stderr

    # Of those that are due at one instant, any may come first.
    assert sorted(balances(ids), reverse=True) == [1000] * granted + [500] * (3 - granted), rule
    assert noted() == ((1, 3, 0, BOUNDARY) if ended else None), rule

    left, later = 3 - granted, BOUNDARY + MINUTE
    # The database ends the session of the dead, and with it the lock, as soon as it notices.
    soon(lambda: renew(later) == left and (noted() or [None])[-1] == later)
    assert balances(ids) == [1000] * 3
    assert noted() == (ended + 1, left + 3 * ended, 0, later)
    assert findings() == []


def soon(condition):
    deadline = monotonic() + 20
    while not condition():
        assert monotonic() < deadline
        sleep(0.01)


def failing_at_batch(number, trouble):
    """The renewals, in which this batch ends in trouble after its work."""
    batches = iter(range(1, 100))

    def batch(session, now, worked):
        found = renewals.renew(session, now, worked)
        if next(batches) == number:
            trouble(session)
        return found

    return batch


def break_down(_):
    raise RuntimeError("broken")


def lose_the_session(session):
    pid = session.scalar(text("SELECT pg_backend_pid()"))
    with transaction() as other:
        other.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": pid})


@pytest.mark.parametrize(
    ("trouble", "raised"), [(break_down, RuntimeError), (lose_the_session, OperationalError)], ids=["code", "database"]
)
def test_a_tick_that_fails_keeps_what_was_committed_and_the_next_one_goes_on_at_once(in_twos, trouble, raised):
    ids = subscribers(5)

    with pytest.raises(raised):
        in_batches(RENEW, failing_at_batch(2, trouble), clock=standing_still(BOUNDARY))

    assert balances(ids) == [1000, 1000, 500, 500, 500]
    assert noted() is None
    assert renew(BOUNDARY) == 3
    assert balances(ids) == [1000] * 5
    assert noted() == (1, 3, 0, BOUNDARY)


# --- late ---


def test_up_to_now_and_no_further():
    account_id = a_subscriber(time_zone="Asia/Kathmandu")
    quarter = datetime(2026, 12, 19, 18, 15, tzinfo=UTC)

    assert [renew(quarter + late) for late in (-MOMENT, timedelta(), MOMENT)] == [0, 1, 0]
    assert balances([account_id]) == [1000]
    assert noted() == (3, 1, 0, quarter + MOMENT)


def test_with_nothing_due_a_tick_is_one_transaction():
    subscribers(3)

    with listening("commit") as commits:
        assert renew(BOUNDARY - MOMENT) == 0

    assert len(commits) == 1
    assert noted() == (1, 0, 0, BOUNDARY - MOMENT)


@pytest.mark.parametrize("moved_on", [0, 3, 9], ids=["none", "some", "all"])
def test_a_late_tick_goes_by_the_order_of_time_over_all_accounts(in_twos, moved_on):
    zones = ["Asia/Kathmandu", "UTC", "America/Lima"]
    ids = [a_subscriber(time_zone=zone) for zone in zones for _ in range(3)]
    late = NOON + 92 * DAY
    with transaction() as session:
        # As the other task leaves them: only their grants are due.
        renewals.move_on(session, subscription_queries.lock(session, ids[:moved_on]), late)

    with listening("commit") as commits:
        assert renew(late) == 9 * 3

    times = granted()[9:]
    assert times == sorted(times)
    assert balances(ids) == [2000] * 9
    # Three boundaries of three zones, of which each takes two batches, and the end.
    assert len(commits) == 3 * 3 * 2 + 1


@pytest.mark.parametrize("ticks", [[92], [31, 62, 92], range(1, 93)], ids=["late", "each_month", "in_time"])
def test_an_account_that_can_hold_one_more_grant_and_no_two_has_that_one_however_late_the_tick(ticks):
    account_id = a_subscriber()
    set_balance(account_id, CREDITS_MAX - 700)

    for days in ticks:
        renew(NOON + days * DAY)

    assert balances([account_id]) == [CREDITS_MAX - 200]
    assert granted() == [NOON, BOUNDARY]
    assert noted()[2] == 1


def test_what_comes_due_while_a_tick_works_is_done_by_it_and_it_ends():
    ids = [a_subscriber(time_zone=zone) for zone in ("Asia/Kathmandu", "UTC")]
    looks = iter([BOUNDARY - 3 * HOUR, BOUNDARY, BOUNDARY + 3 * HOUR])

    assert in_batches(RENEW, renewals.renew, clock=lambda _: next(looks)) == 2
    assert balances(ids) == [1000, 1000]
    assert noted() == (1, 2, 0, BOUNDARY + 3 * HOUR)


# --- the clock was set back ---


@pytest.mark.parametrize("back", [HOUR, 31 * DAY, 400 * DAY], ids=["an_hour", "a_month", "over_a_year"])
def test_a_clock_that_was_set_back_stops_nothing_and_grants_nothing_again(back):
    early = a_subscriber()
    assert renew(BOUNDARY + 45 * MINUTE) == 1
    # Something that is due by the clock that was set back.
    now = BOUNDARY + 45 * MINUTE - back
    late = a_subscriber(now=now - 40 * DAY)

    assert [renew(now), renew(now + MINUTE)] == [1, 0]
    assert balances([early, late]) == [1000, 1000]
    assert noted() == (3, 2, 0, now + MINUTE)

    # And when it is there again, what has come since is done, and nothing else.
    assert renew(BOUNDARY + 3 * HOUR) == (back == 400 * DAY) * 13 + (back == 31 * DAY)
    assert findings() == []


def test_within_a_tick_a_clock_may_be_set_back():
    ids = [a_subscriber(), a_subscriber(time_zone="America/Lima")]
    clock = iter([BOUNDARY + 6 * HOUR, BOUNDARY + MINUTE])

    assert in_batches(RENEW, renewals.renew, clock=lambda _: next(clock)) == 1
    assert noted() == (1, 1, 0, BOUNDARY + MINUTE)
    assert renew(BOUNDARY + 6 * HOUR) == 1
    assert balances(ids) == [1000, 1000]


# --- accounts that cannot be worked on ---


def test_a_blocked_account_is_tried_once_a_tick_however_much_it_is_owed(caplog):
    caplog.set_level(logging.INFO)
    zones = ["UTC", "Asia/Kathmandu", "America/Lima", "Asia/Tokyo"]
    ids = [a_subscriber(time_zone=zone) for zone in zones]
    stuck = ids[3]
    set_balance(stuck, CREDITS_MAX)
    at = NOON + 70 * DAY

    with listening("rollback_savepoint") as attempts:
        assert renew(at) == 2 * 3
    # At most once with others, and once alone.
    assert len(attempts) <= 2
    assert balances(ids[:3]) == [1500] * 3
    assert noted() == (1, 6, 1, at)
    assert [(record.levelname, record.facts) for record in caplog.records] == [
        ("ERROR", {"event": "subscription_blocked", "task": RENEW, "account_id": stuck, "error": "InvalidRequest"})
    ]

    # Each tick tries it anew.
    with listening("rollback_savepoint") as attempts:
        assert [renew(at + MINUTE), renew(at + HOUR)] == [0, 0]
    assert len(attempts) == 2 * 2
    assert noted() == (3, 6, 1, at + HOUR)

    set_balance(stuck, 500)
    assert renew(at + 2 * HOUR) == 2
    assert noted() == (4, 8, 0, at + 2 * HOUR)
    assert [each[1:] for each in ledger(stuck)] == [
        (500, 500, "2026-11-20"), (500, 1000, "2026-12-19"), (500, 1500, "2027-01-19"),
    ]  # fmt: skip


def test_blocked_accounts_fill_no_batch(in_twos):
    ids = subscribers(7)
    for stuck in ids[:5]:
        set_balance(stuck, CREDITS_MAX)

    # More of them than a batch holds, and before all others.
    assert renew(BOUNDARY) == 2
    assert noted() == (1, 2, 5, BOUNDARY)
    assert balances(ids[5:]) == [1000, 1000]


def test_an_account_that_somebody_holds_for_long_does_not_hold_up_the_others():
    held, free = subscribers(2)

    with transaction() as other:
        other.execute(text("SELECT 1 FROM accounts WHERE id = :id FOR UPDATE"), {"id": held})
        began = monotonic()
        assert renew(BOUNDARY) == 1
        # Twice a second, once with the other and once alone; statements usually wait for ten.
        assert monotonic() - began < 9
        assert (balances([free]), noted()) == ([1000], (1, 1, 1, BOUNDARY))

    assert renew(BOUNDARY + MINUTE) == 1
    assert noted() == (2, 2, 0, BOUNDARY + MINUTE)
    assert balances([held, free]) == [1000, 1000]
