"""The hours of periodic work: one claim at a time, no hour skipped, and effect and end of an hour in one commit."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from threading import Barrier
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError, OperationalError

from billing.plans import plans, renewals, subscriptions
from billing.reports import audit
from billing.upkeep import periodic_runs
from billing.upkeep.periodic_runs import LEASE, Claim
from config import database
from config.database import transaction
from tasks.catching_up import LIMITS, RENEWALS, catch_up
from tests.factories import HOUR, MINUTE, NOON, an_account, rows, the_account

pytestmark = pytest.mark.usefixtures("db")
DAY = timedelta(days=1)
MOMENT = timedelta(microseconds=1)
RENEW, RESET = RENEWALS.task, LIMITS.task
BOUNDARY = datetime(2026, 12, 20, tzinfo=UTC)
"""When the second period begins of who subscribes at noon."""
EVE = BOUNDARY - 10 * MINUTE


def subscribers(count, **given):
    """Accounts that were subscribed at noon, with 500 credits each; 500 more come with every period."""
    with transaction() as session:
        plans.set_plan(session, "starter", {"included_credits": "500", "content_ideas": "5"})
    ids = [an_account(0, **given) for _ in range(count)]
    with transaction() as session:
        for account_id in ids:
            subscriptions.subscribe(session, account_id, "starter", now=NOON)
    return ids


def a_subscriber(**given):
    return subscribers(1, **given)[0]


def at(instant):
    return lambda _: instant


def renew(instant):
    return catch_up(RENEWALS, clock=at(instant))


def claim(task=RENEW, *, now=NOON, by=None, oldest=None, blocked=0):
    """The claim of somebody who finds something to do, now unless said otherwise."""
    with transaction() as session:
        return periodic_runs.claim(session, task, by=by or uuid4(), oldest=oldest or now, blocked=blocked, now=now)


def go_on(held, *, now):
    with transaction() as session:
        return periodic_runs.go_on(session, held, now=now)


def finish(held, *, now=NOON, blocked=0):
    with transaction() as session:
        periodic_runs.finish(session, held, blocked=blocked, now=now)


def runs(task=RENEW):
    """Each hour of a task: its start, how often it was run, what was written and blocked, and when it finished."""
    return rows(
        "SELECT period, runs, worked, blocked, finished_at, claimed_by IS NOT NULL FROM periodic_runs "
        "WHERE task = :task ORDER BY period",
        task=task,
    )


def whole(task=RENEW):
    return rows("SELECT r::text FROM periodic_runs r WHERE task = :task ORDER BY period", task=task)


def hours(task=RENEW):
    return [each[0] for each in runs(task)]


def every_hour(first, last):
    return [first + number * HOUR for number in range((last - first) // HOUR + 1)]


def balances(account_ids):
    return [the_account(each).balance for each in account_ids]


@contextmanager
def statements():
    """What the block says to the database, statement by statement."""
    said = []

    def note(_, __, statement, *___):
        said.append(statement)

    event.listen(database.engine(), "before_cursor_execute", note)
    yield said
    event.remove(database.engine(), "before_cursor_execute", note)


@pytest.fixture
def in_twos(monkeypatch):
    """Batches of two accounts."""
    monkeypatch.setattr(renewals, "BATCH", 2)


# --- one claim at a time ---


def test_of_many_who_claim_an_hour_at_once_one_gets_it():
    for number in range(20):
        # In odd rounds the task has an hour already, which its owner has left.
        task = f"task-{number}"
        if number % 2:
            claim(task)
        barrier = Barrier(8)

        def run(by, task=task, barrier=barrier):
            barrier.wait()
            return claim(task, by=by, now=NOON + LEASE)

        names = [uuid4() for _ in range(8)]
        with ThreadPoolExecutor(8) as pool:
            held = [each for each in pool.map(run, names) if each is not None]

        assert len(held) == 1
        assert rows("SELECT period, claimed_by FROM periodic_runs WHERE task = :task", task=task) == [
            (NOON, held[0].by)
        ]


def test_a_claim_refuses_others_up_to_the_end_of_its_lease():
    mine = claim()

    assert [claim(now=now) for now in (NOON, NOON + MINUTE, NOON + LEASE - MOMENT)] == [None] * 3
    theirs = claim(now=NOON + LEASE)
    assert (theirs.period, theirs.by != mine.by) == (NOON, True)


def test_each_step_prolongs_the_lease():
    mine = claim()
    assert go_on(mine, now=NOON + 2 * MINUTE)

    assert claim(now=NOON + 2 * MINUTE + LEASE - MOMENT) is None
    assert claim(now=NOON + 2 * MINUTE + LEASE) is not None


def test_who_comes_late_to_its_own_claim_goes_on_while_nobody_else_has_taken_it():
    mine = claim()

    assert go_on(mine, now=NOON + 50 * MINUTE)
    assert claim(now=NOON + 51 * MINUTE) is None


def test_who_has_lost_a_claim_writes_nothing_to_it():
    mine = claim()
    theirs = claim(now=NOON + LEASE)
    before = whole()

    assert not go_on(mine, now=NOON + LEASE)
    with transaction() as session:
        periodic_runs.note_work(session, mine, 7)
    finish(mine, now=NOON + LEASE, blocked=3)

    assert whole() == before
    assert go_on(theirs, now=NOON + LEASE)


def test_a_claim_is_of_its_hour_alone():
    me = uuid4()
    first = claim(by=me)
    finish(first, now=NOON + HOUR)
    second = claim(by=me, now=NOON + HOUR)
    before = whole()

    assert second.period == NOON + HOUR
    assert not go_on(first, now=NOON + HOUR)
    assert not go_on(Claim(RESET, second.period, me), now=NOON + HOUR)
    assert whole() == before


def test_the_end_of_the_work_gives_the_claim_back():
    finish(claim(), blocked=2)
    assert runs() == [(NOON, 1, 0, 2, NOON, False)]

    again = claim(now=NOON + MOMENT)
    # What was blocked is so until a run has ended that could work on it.
    assert (again.period, runs()) == (NOON, [(NOON, 2, 0, 2, NOON, True)])
    finish(again, now=NOON + MOMENT)
    assert runs() == [(NOON, 2, 0, 0, NOON + MOMENT, False)]


def test_a_claim_without_a_lease_is_refused_by_the_database_itself():
    claim()

    with pytest.raises(IntegrityError, match="claim_is_leased"), transaction() as session:
        session.execute(text("UPDATE periodic_runs SET lease_until = NULL"))


def test_who_is_taken_over_between_two_steps_writes_nothing_more(in_twos):
    ids = subscribers(3)
    renew(EVE)
    rivals = []

    def clock(session, ticks=iter([0, 0, 4])):  # noqa: B008 - one for the test
        """The third look at it, before the second batch, comes too late."""
        now = BOUNDARY + next(ticks) * MINUTE
        if now > BOUNDARY:
            rivals.append(claim(now=now))
        return now

    assert catch_up(RENEWALS, clock=clock) == 2
    (rival,) = rivals
    assert runs()[-1] == (BOUNDARY, 2, 2, 0, None, True)
    assert balances(ids) == [1000, 1000, 500]

    with transaction() as session:
        assert periodic_runs.go_on(session, rival, now=BOUNDARY + 4 * MINUTE)
        renewals.renew(session, BOUNDARY + 4 * MINUTE, worked := renewals.Worked())
        periodic_runs.note_work(session, rival, worked.periods)
        periodic_runs.finish(session, rival, blocked=0, now=BOUNDARY + 4 * MINUTE)
    assert runs()[-1] == (BOUNDARY, 2, 3, 0, BOUNDARY + 4 * MINUTE, False)
    assert balances(ids) == [1000] * 3


def test_who_is_in_the_middle_of_a_batch_is_not_taken_over_however_long_that_takes():
    account_id = a_subscriber()
    renew(EVE)
    taken, much_later = [], BOUNDARY + 10 * MINUTE

    def long_batch(session, until, worked):
        RENEWALS.batch(session, until, worked)
        # More than a lease later, and without any waiting for the row.
        with transaction() as other:
            other.execute(text("SET LOCAL lock_timeout = '1s'"))
            taken.append(periodic_runs.claim(other, RENEW, by=uuid4(), oldest=BOUNDARY, blocked=0, now=much_later))

    assert catch_up(replace(RENEWALS, batch=long_batch), clock=at(BOUNDARY)) == 1
    assert set(taken) == {None}
    assert runs()[-1] == (BOUNDARY, 1, 1, 0, BOUNDARY, False)
    assert balances([account_id]) == [1000]


# --- every hour, in its order ---


def test_a_first_run_does_all_that_is_due_in_the_present_hour():
    account_id = a_subscriber()
    tick = NOON + 65 * DAY

    assert renew(tick) == 2
    assert hours() == [tick]
    assert balances([account_id]) == [1500]


def test_without_anything_due_a_first_run_is_of_the_present_hour_alone():
    assert (renew(NOON + 20 * MINUTE), runs()) == (0, [(NOON, 1, 0, 0, NOON + 20 * MINUTE, False)])


def test_after_three_months_each_hour_has_its_row_and_only_those_with_work_were_run():
    first, second = a_subscriber(), a_subscriber(time_zone="Asia/Kathmandu")
    renew(NOON)
    back = NOON + 92 * DAY + 7 * MINUTE

    with statements() as said:
        assert renew(back) == 6

    assert hours() == every_hour(NOON, back)
    assert all(closed >= period + HOUR for period, *_, closed, _ in runs()[:-1])
    assert [(each[0], each[2]) for each in runs() if each[2]] == [
        (datetime(2026, 12, 19, 18, tzinfo=UTC), 1), (datetime(2026, 12, 20, 0, tzinfo=UTC), 1),
        (datetime(2027, 1, 19, 18, tzinfo=UTC), 1), (datetime(2027, 1, 20, 0, tzinfo=UTC), 1),
        (datetime(2027, 2, 19, 18, tzinfo=UTC), 1), (datetime(2027, 2, 20, 0, tzinfo=UTC), 1),
    ]  # fmt: skip
    # The first tick, six hours with work, and the present one; all others were closed by the stretch.
    assert sum(each[1] for each in runs()) == 1 + 6 + 1
    assert sum("generate_series" in each for each in said) == 7
    assert len(said) < 300
    assert rows("SELECT DISTINCT balance FROM accounts") == [(2000,)]
    assert rows(
        "SELECT created_at FROM credit_transactions WHERE account_id = :id ORDER BY id OFFSET 1", id=second
    ) == [(datetime(2026 + month // 12, month % 12 + 1, 19, 18, 15, tzinfo=UTC),) for month in (11, 12, 13)]
    assert balances([first]) == [2000]


def test_three_empty_months_are_closed_in_one_statement():
    renew(NOON)

    with statements() as said:
        assert renew(NOON + 92 * DAY) == 0

    assert len(hours()) == 92 * 24 + 1
    assert sum("INTO periodic_runs" in each and "generate_series" in each for each in said) == 1
    assert len(said) < 20
    assert sum(each[1] for each in runs()) == 2


def test_the_present_hour_stays_open_for_what_comes_in_its_course():
    account_id = a_subscriber(time_zone="Asia/Kathmandu")
    quarter = datetime(2026, 12, 19, 18, 15, tzinfo=UTC)
    hour = quarter - 15 * MINUTE

    assert [renew(quarter + minutes * MINUTE) for minutes in (-5, 5, 6)] == [0, 1, 0]

    assert runs()[-1] == (hour, 3, 1, 0, quarter + 6 * MINUTE, False)
    assert balances([account_id]) == [1000]


def test_what_came_after_the_last_tick_of_an_hour_is_done_as_that_hours_work():
    a_subscriber(time_zone="Asia/Kathmandu")
    quarter = datetime(2026, 12, 19, 18, 15, tzinfo=UTC)
    hour = quarter - 15 * MINUTE
    renew(quarter - MOMENT)

    next_tick = hour + HOUR
    assert renew(next_tick) == 1
    assert runs()[-2:] == [(hour, 2, 1, 0, next_tick, False), (hour + HOUR, 1, 0, 0, next_tick, False)]


def test_an_hour_is_worked_on_up_to_its_end_and_no_further():
    zones = ["UTC", "Atlantic/Cape_Verde", "America/Lima"]
    ids = [a_subscriber(time_zone=zone) for zone in zones]
    renew(EVE)
    seen = []

    def note(session, until, worked):
        seen.append(until)
        RENEWALS.batch(session, until, worked)

    tick = BOUNDARY + 5 * HOUR
    assert catch_up(replace(RENEWALS, batch=note), clock=at(tick)) == 3
    assert seen == [BOUNDARY + HOUR - MOMENT, BOUNDARY + 2 * HOUR - MOMENT, tick]
    assert balances(ids) == [1000, 1000, 1000]


def test_a_closed_hour_is_never_worked_on_again():
    a_subscriber()
    renew(NOON)
    renew(BOUNDARY + 30 * MINUTE)
    closed = whole()[:-1]
    late = a_subscriber(time_zone="Asia/Kathmandu")

    # Due in an hour that is closed: it is done with the present one.
    assert renew(BOUNDARY + 40 * MINUTE) == 1
    assert whole()[:-1] == closed
    assert balances([late]) == [1000]
    renew(BOUNDARY + 5 * HOUR)
    assert whole()[: len(closed)] == closed


def test_what_is_due_in_an_hour_that_was_closed_is_done_with_the_one_after_it():
    finish(claim(), now=NOON + HOUR)
    before = whole()

    # The first hour is over and done with, even if it was its very end at which it was finished.
    assert claim(now=NOON + HOUR, oldest=NOON).period == NOON + HOUR
    assert whole()[:1] == before


def test_the_hours_that_pass_while_work_goes_on_are_worked_on_too():
    a_subscriber()
    renew(EVE)
    now = BOUNDARY + 58 * MINUTE

    def clock(_):
        nonlocal now
        now += MINUTE
        return now

    # The claim is of the hour before its end, the batch after it.
    assert catch_up(RENEWALS, clock=clock) == 1
    assert renew(now) == 0
    assert hours() == every_hour(EVE.replace(minute=0), now)


@pytest.mark.parametrize("back", [HOUR, 31 * DAY, 400 * DAY], ids=["an_hour", "a_month", "over_a_year"])
def test_a_clock_that_was_set_back_stops_nothing_and_opens_no_closed_hour(back):
    early = a_subscriber()
    renew(NOON)
    renew(BOUNDARY + 45 * MINUTE)
    closed = whole()[:-1]
    before = len(whole())
    # Something that is due by the clock that was set back.
    now = BOUNDARY + 45 * MINUTE - back
    with transaction() as session:
        late = an_account(0)
        subscriptions.subscribe(session, late, "starter", now=now - 40 * DAY)

    assert [renew(now), renew(now + MINUTE)] == [1, 0]
    assert balances([early, late]) == [1000, 1000]
    assert (whole()[:-1], len(whole())) == (closed, before)
    assert runs()[-1][4] == now + MINUTE

    # And when it is there again, it goes on with the hours of before.
    there = BOUNDARY + 3 * HOUR
    renew(there)
    assert hours() == every_hour(NOON, there)
    assert whole()[: len(closed)] == closed


def test_by_a_clock_that_was_set_back_still_only_one_has_a_claim():
    finish(claim(now=NOON), now=NOON)
    then = NOON - 31 * DAY

    held = claim(now=then)
    assert claim(now=then) is None
    assert go_on(held, now=then)
    assert claim(now=then + LEASE).by != held.by


def test_a_lease_of_a_clock_that_was_set_back_does_not_last_until_that_clock_is_there_again():
    claim(now=NOON)

    for back in (MINUTE, HOUR, 31 * DAY):
        assert claim(now=NOON - back) is not None


def test_between_two_claims_a_clock_may_be_set_back_over_the_end_of_an_hour():
    a_subscriber()
    renew(EVE)
    clock = iter([BOUNDARY + HOUR, BOUNDARY + MINUTE, BOUNDARY + MINUTE, BOUNDARY + MINUTE])

    assert catch_up(RENEWALS, clock=lambda _: next(clock)) == 1
    assert hours() == every_hour(EVE.replace(minute=0), BOUNDARY)


# --- effect and end in one commit ---

DYING = """
import os, signal, sys
from datetime import datetime
from sqlalchemy.engine.default import DefaultDialect
from billing.plans import renewals
from config import database
from tasks.catching_up import RENEWALS, catch_up

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
catch_up(RENEWALS, clock=lambda _: now)
"""


@pytest.mark.parametrize(
    ("phase", "commit", "granted", "closed", "rule"),
    [
        ("before", 1, 0, None, "the claim was not stored"),
        ("after",  1, 0, False, "claimed, and nothing more"),
        ("before", 2, 0, False, "the first batch went with its worker"),
        ("after",  2, 2, False, "between two batches"),
        ("before", 3, 2, False, "neither the last effect nor the end"),
        ("after",  3, 3, True, "both"),
    ],
)  # fmt: skip
def test_a_worker_that_is_killed_leaves_effect_and_end_of_an_hour_or_neither(
    db, in_twos, phase, commit, granted, closed, rule
):
    ids = subscribers(3)
    renew(EVE)
    died = subprocess.run(
        [sys.executable, "-c", DYING, db, BOUNDARY.isoformat(), phase, str(commit)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert died.returncode == -9, died.stderr

    assert balances(ids) == [1000] * granted + [500] * (3 - granted), rule
    mine = runs()[-1] if closed is not None else None
    if mine is not None:
        assert (mine[0], mine[2], mine[4] is not None) == (BOUNDARY, granted, closed), rule
    else:
        assert hours() == [EVE.replace(minute=0)], rule

    # While its lease lasts, nobody else works on the hour; then it is brought to its end.
    waits = closed is False
    assert renew(BOUNDARY + LEASE - MOMENT) == (0 if waits else 3 - granted)
    assert balances(ids) == ([1000] * granted + [500] * (3 - granted) if waits else [1000] * 3)
    renew(BOUNDARY + LEASE)
    assert balances(ids) == [1000] * 3
    assert runs()[-1][2:] == (3, 0, BOUNDARY + LEASE, False)
    with transaction() as session:
        assert audit.audit(session, now=NOON) == []


def failing_at_batch(number, trouble):
    """The renewals, in which this batch ends in trouble after its work."""
    batches = iter(range(1, 100))

    def batch(session, until, worked):
        RENEWALS.batch(session, until, worked)
        if next(batches) == number:
            trouble(session)

    return replace(RENEWALS, batch=batch)


def break_down(_):
    raise RuntimeError("broken")


def lose_the_session(session):
    pid = session.scalar(text("SELECT pg_backend_pid()"))
    with transaction() as other:
        other.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": pid})


@pytest.mark.parametrize(
    ("trouble", "raised"), [(break_down, RuntimeError), (lose_the_session, OperationalError)], ids=["code", "database"]
)
def test_a_tick_that_fails_in_the_middle_keeps_what_was_committed_and_its_claim_ends_with_the_lease(
    in_twos, trouble, raised
):
    ids = subscribers(5)
    renew(EVE)

    with pytest.raises(raised):
        catch_up(failing_at_batch(2, trouble), clock=at(BOUNDARY))

    assert balances(ids) == [1000, 1000, 500, 500, 500]
    assert runs()[-1] == (BOUNDARY, 1, 2, 0, None, True)
    assert renew(BOUNDARY + LEASE - MOMENT) == 0
    assert renew(BOUNDARY + LEASE) == 3
    assert balances(ids) == [1000] * 5
    assert runs()[-1] == (BOUNDARY, 2, 5, 0, BOUNDARY + LEASE, False)


def test_what_a_batch_wrote_is_counted_only_with_its_commit(in_twos):
    ids = subscribers(4)
    renew(EVE)
    slow = failing_at_batch(2, lambda session: session.execute(text("DELETE FROM periodic_runs WHERE false")))

    assert catch_up(slow, clock=at(BOUNDARY)) == 4
    assert runs()[-1] == (BOUNDARY, 1, 4, 0, BOUNDARY, False)
    assert balances(ids) == [1000] * 4


# --- accounts that cannot be worked on ---


def no_room(account_id, *, balance):
    with transaction() as session:
        session.execute(
            text("UPDATE accounts SET balance = :balance WHERE id = :id"), {"balance": balance, "id": account_id}
        )


@contextmanager
def undone():
    """Count the attempts that were taken back."""
    count = []

    def note(*_):
        count.append(1)

    event.listen(database.engine(), "rollback_savepoint", note)
    yield count
    event.remove(database.engine(), "rollback_savepoint", note)


def test_a_blocked_account_is_tried_once_a_tick_however_many_hours_were_missed():
    zones = ["UTC", "Asia/Kathmandu", "America/Lima", "Asia/Tokyo"]
    ids = [a_subscriber(time_zone=zone) for zone in zones]
    stuck = ids[3]
    renew(NOON)
    no_room(stuck, balance=2**53 - 1)
    tick = NOON + 70 * DAY

    with undone() as attempts:
        assert renew(tick) == 2 * 3

    # At most once with the others of its hour, and once alone.
    assert len(attempts) <= 2
    assert hours() == every_hour(NOON, tick)
    assert {each[3] for each in runs() if each[1] and each[0] > NOON} == {1}
    # The first tick, the hour in which it was found, six with work, and the present one.
    assert sum(each[1] for each in runs()) == 1 + 1 + 6 + 1
    assert balances(ids[:3]) == [1500] * 3

    # Each tick tries it anew, and no hour of the past is opened for it.
    with undone() as attempts:
        assert [renew(tick + MINUTE), renew(tick + HOUR)] == [0, 0]
    assert len(attempts) == 2 * 2
    # The hour of before was run twice in its course, and closed by the next one's tick, in which the account is due.
    assert [each[1:4] for each in runs()[-2:]] == [(3, 0, 1), (1, 0, 1)]

    no_room(stuck, balance=500)
    assert renew(tick + HOUR + MINUTE) == 2
    assert runs()[-1][1:4] == (2, 2, 0)
    assert balances(ids) == [1500] * 4
    assert rows("SELECT created_at FROM credit_transactions WHERE account_id = :id ORDER BY id", id=stuck)[1:] == [
        (datetime(2026, 12, 19, 15, tzinfo=UTC),),
        (datetime(2027, 1, 19, 15, tzinfo=UTC),),
    ]


def test_blocked_accounts_are_counted_and_fill_no_batch(in_twos):
    ids = subscribers(7)
    for stuck in ids[:5]:
        no_room(stuck, balance=2**53 - 1)

    # More of them than a batch holds, and before all others.
    assert renew(BOUNDARY) == 2
    assert runs()[-1][2:4] == (2, 5)
    assert balances(ids[5:]) == [1000, 1000]


def test_an_account_that_somebody_holds_for_long_does_not_hold_up_the_others():
    held, free = subscribers(2)
    renew(EVE)

    with transaction() as other:
        other.execute(text("SELECT 1 FROM accounts WHERE id = :id FOR UPDATE"), {"id": held})
        began = datetime.now(UTC)
        assert renew(BOUNDARY) == 1
        # Twice a second, once with the other and once alone; statements usually wait for ten.
        assert datetime.now(UTC) - began < timedelta(seconds=9)
        assert (balances([free]), runs()[-1][3]) == ([1000], 1)

    assert renew(BOUNDARY + MINUTE) == 1
    assert runs()[-1][2:4] == (2, 0)
    assert balances([held, free]) == [1000, 1000]


# --- tasks side by side ---


def test_the_claims_of_two_tasks_do_not_hinder_each_other():
    with transaction() as session:
        session.execute(text("SET LOCAL lock_timeout = '1s'"))
        first = periodic_runs.claim(session, RENEW, by=uuid4(), oldest=NOON, blocked=0, now=NOON)
        assert first is not None
        # While the other's claim is being written.
        with transaction() as other:
            other.execute(text("SET LOCAL lock_timeout = '1s'"))
            second = periodic_runs.claim(other, RESET, by=uuid4(), oldest=NOON, blocked=0, now=NOON)
            assert second is not None
            assert periodic_runs.go_on(other, second, now=NOON)
    assert go_on(first, now=NOON)

    finish(second)
    assert [len(runs(task)) for task in (RENEW, RESET)] == [1, 1]
    assert [runs(task)[0][5] for task in (RENEW, RESET)] == [True, False]


def test_what_one_task_leaves_undone_the_other_does_not_wait_for():
    account_id = a_subscriber()
    no_room(account_id, balance=2**53 - 1)
    claim(RENEW, now=BOUNDARY)

    assert catch_up(LIMITS, clock=at(BOUNDARY)) == 2
    assert renew(BOUNDARY) == 0
    no_room(account_id, balance=500)
    assert renew(BOUNDARY + LEASE) == 1
    assert balances([account_id]) == [1000]


def test_both_tasks_of_one_hour_at_once_many_times():
    ids = [a_subscriber(time_zone=zone) for zone in ("UTC", "Asia/Kathmandu", "America/Lima")]
    for month in range(1, 13):
        tick = NOON + month * 31 * DAY
        with ThreadPoolExecutor(4) as pool:
            done = list(pool.map(lambda work, tick=tick: catch_up(work, clock=at(tick)), [RENEWALS, LIMITS] * 2))
        assert sum(done[::2]) == 3
        assert sum(done[1::2]) == (6 if month == 1 else 3)

    assert balances(ids) == [500 * 13] * 3
    assert hours(RENEW)[-1] == hours(RESET)[-1] == tick


# --- tasks that look at the present only ---


def note(task="audit_books", *, now, worked=0, blocked=0):
    with transaction() as session:
        periodic_runs.note(session, task, worked=worked, blocked=blocked, now=now)


def test_a_note_counts_the_runs_of_its_hour():
    note(now=NOON, worked=3, blocked=2)
    note(now=NOON + 59 * MINUTE, worked=4, blocked=1)
    note(now=NOON + HOUR)

    assert runs("audit_books") == [
        (NOON, 2, 7, 1, NOON + 59 * MINUTE, False),
        (NOON + HOUR, 1, 0, 0, NOON + HOUR, False),
    ]


def test_notes_at_once_are_all_counted():
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: note(now=NOON, worked=2), range(24)))

    assert runs("audit_books") == [(NOON, 24, 48, 0, NOON, False)]


def test_the_latest_of_each_task_is_the_one_that_was_worked_to_its_end():
    with transaction() as session:
        assert (periodic_runs.latest(session), periodic_runs.first_at(session)) == ({}, None)
    claim(RESET)
    note(now=NOON + 5 * MINUTE)
    note(now=NOON + HOUR)
    finish(claim(), now=NOON + 7 * MINUTE, blocked=1)
    finish(claim(now=NOON + HOUR), now=NOON + HOUR, blocked=2)
    # Being worked on again, an hour still shows the run before; one without any counts when its first is done.
    claim(now=NOON + HOUR + MINUTE)
    claim("other", now=NOON + 2 * HOUR)

    with transaction() as session:
        latest = periodic_runs.latest(session)
        assert {name: (run.period, run.finished_at, run.blocked) for name, run in latest.items()} == {
            "audit_books": (NOON + HOUR, NOON + HOUR, 0),
            RENEW: (NOON + HOUR, NOON + HOUR, 2),
        }
        assert periodic_runs.first_at(session) == NOON + 5 * MINUTE


def test_an_hour_is_that_of_the_whole_world():
    there = datetime.fromisoformat("2026-11-20T17:50:30.5+05:45")

    assert periodic_runs.hour_of(there) == NOON
    assert Claim(RENEW, NOON, UUID(int=0)).end == NOON + HOUR - MOMENT
    assert there.date() == date(2026, 11, 20)
