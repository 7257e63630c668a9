"""Working on many rows at once: a bad one is undone alone, and trouble of the database is blamed on none of them."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from sqlalchemy import event, text
from sqlalchemy.exc import DataError, IntegrityError, OperationalError

from billing.ledger.tables import Account
from config import database
from config.database import each_apart, transaction
from tests.factories import rows
from tests.system import wait_until

pytestmark = pytest.mark.usefixtures("things")


@pytest.fixture
def things(db):
    """A table of names that refuses those that begin with "bad", and each name a second time."""
    with transaction() as session:
        session.execute(
            text("CREATE TABLE things (name text PRIMARY KEY CHECK (left(name, 3) <> 'bad'), n int, no serial)")
        )


def put(session, name):
    session.execute(text("INSERT INTO things (name, n) VALUES (:name, 0)"), {"name": name})


def names():
    return [name for (name,) in rows("SELECT name FROM things ORDER BY no")]


def work_on(items, work):
    """Let each item be worked on, and commit; returns the bad ones with the kinds of their errors, and the attempts."""
    attempts = []
    with transaction() as session:

        def one(some):
            attempts.append(list(some))
            for item in some:
                work(session, item)

        bad = each_apart(session, items, one)
    return [(item, type(error)) for item, error in bad], attempts


@contextmanager
def savepoints():
    """Count what happens to savepoints: those that are set, kept and undone."""
    count = Counter()
    heard = {
        name: lambda *_, name=name: count.update([name])
        for name in ("savepoint", "release_savepoint", "rollback_savepoint")
    }
    for name, note in heard.items():
        event.listen(database.engine(), name, note)
    yield count
    for name, note in heard.items():
        event.remove(database.engine(), name, note)


def test_good_ones_are_done_at_once_behind_one_savepoint():
    with savepoints() as count:
        assert work_on(["c", "a", "b"], put) == ([], [["c", "a", "b"]])

    assert names() == ["c", "a", "b"]
    assert count == {"savepoint": 1, "release_savepoint": 1}


def test_for_nothing_nothing_is_done():
    with savepoints() as count:
        assert work_on([], put) == ([], [])
    assert not count


def test_a_bad_one_is_undone_alone_and_the_others_stay_in_their_order():
    with savepoints() as count:
        found, attempts = work_on(["d", "bad", "b", "c"], put)

    assert found == [("bad", IntegrityError)]
    assert attempts == [["d", "bad", "b", "c"], ["d"], ["bad"], ["b"], ["c"]]
    assert names() == ["d", "b", "c"]
    # Each attempt of its own: the whole one and that of the bad one were undone.
    assert count == {"savepoint": 5, "release_savepoint": 3, "rollback_savepoint": 2}


def test_bad_ones_come_back_in_the_order_in_which_they_were_given():
    assert work_on(["bad2", "x", "bad1", "bad3"], put)[0] == [
        (name, IntegrityError) for name in ("bad2", "bad1", "bad3")
    ]
    assert names() == ["x"]


def test_one_that_is_alone_and_bad_is_tried_twice_and_undone():
    assert work_on(["bad"], put) == ([("bad", IntegrityError)], [["bad"], ["bad"]])
    assert names() == []


def test_nothing_of_the_whole_attempt_is_left_when_the_single_ones_begin():
    seen = []

    def look_and_put(session, name):
        seen.append([each for (each,) in session.execute(text("SELECT name FROM things ORDER BY no"))])
        put(session, name)

    work_on(["a", "b", "bad"], look_and_put)

    whole, single = seen[:3], seen[3:]
    assert whole == [[], ["a"], ["a", "b"]]
    assert single == [[], ["a"], ["a", "b"]]


def test_what_a_bad_one_wrote_before_it_failed_is_undone():
    def put_twice(session, name):
        put(session, name)
        put(session, f"{name}'s other half" if name == "good" else name)

    assert work_on(["twin", "good"], put_twice)[0] == [("twin", IntegrityError)]
    assert names() == ["good", "good's other half"]


def test_what_the_caller_wrote_before_stays():
    with transaction() as session:
        put(session, "before")
        assert [item for item, _ in each_apart(session, ["bad"], lambda some: put(session, some[0]))] == ["bad"]
        put(session, "after")

    assert names() == ["before", "after"]


@pytest.mark.parametrize("error", [ValueError, AssertionError, KeyError, RecursionError])
def test_an_error_of_the_code_is_the_items_own(error):
    def fail(session, name):
        put(session, name)
        if name == "odd":
            raise error(name)

    assert work_on(["a", "odd", "b"], fail)[0] == [("odd", error)]
    assert names() == ["a", "b"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SoftTimeLimitExceeded])
def test_an_interruption_is_no_items_fault(interruption):
    def interrupt(session, name):
        put(session, name)
        raise interruption

    with pytest.raises(interruption):
        work_on(["a", "b"], interrupt)
    assert names() == []


def test_an_object_that_cannot_be_written_is_noticed_and_forgotten():
    # Nothing is sent before the end of the attempt: that is where it fails.
    def add(session, name):
        session.add(Account(name=name, balance=-1 if name == "poor" else 7))

    assert work_on(["a", "poor", "b"], add)[0] == [("poor", IntegrityError)]
    assert rows("SELECT name, balance FROM accounts ORDER BY id") == [("a", 7), ("b", 7)]


def test_what_an_attempt_changed_in_an_object_is_undone_in_the_object_too():
    with transaction() as session:
        account = Account(name="Corner Bakery", balance=100)
        session.add(account)
        session.flush()

        def spend(some):
            for credits in some:
                account.balance -= credits
            session.flush()

        bad = each_apart(session, [30, 90, 20], spend)
        assert ([item for item, _ in bad], account.balance) == ([90], 50)

    assert rows("SELECT balance FROM accounts") == [(50,)]


def test_a_value_that_the_database_cannot_take_is_the_items_own():
    def put_number(session, number):
        put(session, f"{number}")
        session.execute(text("UPDATE things SET n = :n WHERE name = :name"), {"n": number, "name": f"{number}"})

    assert work_on([1, 2**40, 2], put_number)[0] == [(2**40, DataError)]
    assert names() == ["1", "2"]


# --- other sessions, and the database itself ---


def test_a_row_that_somebody_holds_is_that_rows_trouble_alone():
    work_on(["a", "held", "b"], put)

    def count_up(session, name):
        session.execute(text("SET LOCAL lock_timeout = '20ms'"))
        session.execute(text("UPDATE things SET n = n + 1 WHERE name = :name"), {"name": name})

    with transaction() as other:
        other.execute(text("SELECT 1 FROM things WHERE name = 'held' FOR UPDATE"))
        assert work_on(["a", "held", "b"], count_up)[0] == [("held", OperationalError)]

    assert rows("SELECT name, n FROM things ORDER BY no") == [("a", 1), ("held", 0), ("b", 1)]


GONE = {None, "57P01", "25P03"}
"""The codes of a connection that is lost: none, when its last words were lost with it."""


def raised_by(items, work, *, codes, isolation=None):
    """The attempts at work in which the database itself has trouble of one of these codes, which is raised."""
    attempts = []

    def attempt():
        with transaction(isolation=isolation) as session:

            def one(some):
                attempts.append(list(some))
                for item in some:
                    work(session, item)

            each_apart(session, items, one)

    with pytest.raises(OperationalError) as caught:
        attempt()
    assert getattr(caught.value.orig, "pgcode", None) in codes
    return attempts


def end_own_session(session):
    pid = session.scalar(text("SELECT pg_backend_pid()"))
    with transaction() as other:
        other.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": pid})


def test_a_lost_connection_is_no_items_fault():
    def lose(session, name):
        put(session, name)
        if name == "b":
            end_own_session(session)
            put(session, "too late")

    assert raised_by(["a", "b", "c"], lose, codes=GONE) == [["a", "b", "c"]]
    assert names() == []
    # And the next transaction has a connection again.
    work_on(["d"], put)
    assert names() == ["d"]


def test_a_connection_that_is_lost_unnoticed_is_no_items_fault_either():
    def lose_and_fail(session, name):
        put(session, name)
        end_own_session(session)
        raise ValueError("an error of the code, and behind it no database")

    assert raised_by(["a", "b"], lose_and_fail, codes=GONE) == [["a", "b"]]
    assert names() == []


def test_a_statement_that_takes_too_long_is_no_items_fault():
    def take_long(session, name):
        put(session, name)
        session.execute(text("SET LOCAL statement_timeout = '20ms'"))
        session.execute(text("SELECT count(*) FROM generate_series(1, 1000000000)"))

    assert raised_by(["a", "b"], take_long, codes={"57014"}) == [["a", "b"]]
    assert names() == []


def test_a_session_that_did_nothing_for_too_long_is_no_items_fault():
    def idle(session, name):
        put(session, name)
        session.execute(text("SET LOCAL idle_in_transaction_session_timeout = '20ms'"))
        pid = session.scalar(text("SELECT pg_backend_pid()"))
        gone = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = :pid)"
        wait_until(lambda: rows(gone, pid=pid)[0][0], within_s=20)
        put(session, "too late")

    assert raised_by(["a", "b"], idle, codes=GONE) == [["a", "b"]]
    assert names() == []


def test_two_transactions_that_cannot_be_put_in_an_order_are_no_items_fault():
    work_on(["a", "b"], put)

    def count_up(session, name):
        session.execute(text("SELECT count(*) FROM things"))
        with transaction() as other:
            other.execute(text("UPDATE things SET n = n + 10 WHERE name = :name"), {"name": name})
        session.execute(text("UPDATE things SET n = n + 1 WHERE name = :name"), {"name": name})

    assert raised_by(["a", "b"], count_up, codes={"40001"}, isolation="REPEATABLE READ") == [["a", "b"]]
    assert rows("SELECT name, n FROM things ORDER BY no") == [("a", 10), ("b", 0)]


def test_a_deadlock_is_no_items_fault():
    work_on(["a", "b"], put)
    first, second = Event(), Event()

    def other_way_round():
        with transaction() as session:
            session.execute(text("SET LOCAL deadlock_timeout = '20s'"))
            session.execute(text("UPDATE things SET n = n + 10 WHERE name = 'b'"))
            first.set()
            second.wait(20)
            session.execute(text("UPDATE things SET n = n + 10 WHERE name = 'a'"))

    def count_up(session, name):
        session.execute(text("SET LOCAL deadlock_timeout = '10ms'"))
        session.execute(text("UPDATE things SET n = n + 1 WHERE name = :name"), {"name": name})
        first.wait(20)
        if not second.is_set():
            second.set()
            wait_until(lambda: rows("SELECT count(*) FROM pg_locks WHERE NOT granted")[0][0], within_s=20)

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(other_way_round)
        assert raised_by(["a", "b"], count_up, codes={"40P01"}) == [["a", "b"]]
        done.result(20)
    assert rows("SELECT name, n FROM things ORDER BY no") == [("a", 10), ("b", 10)]


def test_trouble_of_the_database_in_a_single_attempt_is_raised_too():
    def fail_then_lose(session, name):
        put(session, name)
        fail_then_lose.calls += 1
        if fail_then_lose.calls == 3:
            end_own_session(session)

    fail_then_lose.calls = 0
    assert raised_by(["a", "bad", "c"], fail_then_lose, codes=GONE) == [
        ["a", "bad", "c"], ["a"], ["bad"], ["c"]
    ]  # fmt: skip
    assert names() == []
