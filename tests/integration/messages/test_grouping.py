"""What several threads write at one time is written together, and nobody's trouble is another's."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, OperationalError

from config.database import transaction
from tasks.grouping import Group
from tests.factories import rows
from tests.system import wait_until

pytestmark = pytest.mark.usefixtures("db")


class Writer:
    """Writes numbers into a table that refuses negative ones; the first write waits until it is let go."""

    def __init__(self, pool) -> None:
        with transaction() as session:
            session.execute(text("CREATE TABLE written (number bigint CHECK (number >= 0), xact bigint)"))
        self.waits, self.go_on, self.told, self.ended = Event(), Event(), [], []
        self.pool = pool
        self.group = Group(self.write, key=lambda number: number % 100, size=50, spawn=pool.submit, after=self.tell)

    def write(self, session, numbers):
        if not self.waits.is_set():
            self.waits.set()
            self.go_on.wait(30)
        for number in numbers:
            session.execute(text("INSERT INTO written VALUES (:number, txid_current())"), {"number": number})
        return [number * 2 for number in numbers]

    def tell(self, numbers, written):
        self.told.append((sorted(numbers), sorted(written)))

    def end(self, number):
        return lambda error: self.ended.append((number, type(error).__name__ if error else None))

    def gather(self, numbers, *, later=()):
        """Have each number written by a thread of its own while the first of them is being written."""
        first = self.pool.submit(self.group, [0])
        self.waits.wait(30)
        others = [self.pool.submit(self.group, [number]) for number in numbers]
        for number in later:
            self.group.later([number], self.end(number))
        wait_until(lambda: len(self.group._gathered) == len(numbers) + len(later), what="all of them in the group")
        self.go_on.set()
        wait_until(lambda: len(self.ended) == len(later), what="everybody's end")
        return [first, *others]


@pytest.fixture
def writer():
    with ThreadPoolExecutor(80) as pool:
        yield Writer(pool)


def test_what_gathers_during_a_write_is_written_by_one_transaction(writer):
    found = [each.result() for each in writer.gather(range(1, 11))]

    assert found == [[0], *([2 * number] for number in range(1, 11))]
    assert rows("SELECT count(*) FROM written GROUP BY xact ORDER BY 1") == [(1,), (10,)]


def test_what_nobody_waits_for_is_written_and_told_together(writer):
    first, waited_for = writer.gather([5], later=range(1, 4))

    assert [first.result(), waited_for.result()] == [[0], [10]]
    assert rows("SELECT count(*) FROM written GROUP BY xact ORDER BY 1") == [(1,), (4,)]
    assert writer.told == [([1, 2, 3], [2, 4, 6])]
    assert sorted(writer.ended) == [(1, None), (2, None), (3, None)]


def test_what_comes_alone_and_is_not_waited_for_is_written_at_once(writer):
    writer.waits.set()

    writer.group.later([7], writer.end(7))

    assert (writer.told, writer.ended) == ([([7], [14])], [(7, None)])


def test_what_the_database_refuses_undoes_nothing_of_the_others(writer):
    first, bad, other = writer.gather([-3, 2], later=[1, -4])

    assert [each.result() for each in (first, other)] == [[0], [4]]
    with pytest.raises(IntegrityError):
        bad.result()

    assert rows("SELECT number FROM written ORDER BY number") == [(0,), (1,), (2,)]
    assert writer.told == [([1], [2])]
    assert sorted(writer.ended) == [(-4, "IntegrityError"), (1, None)]


def test_whoever_cannot_be_told_ends_with_that(writer, monkeypatch):
    def be_full(*_):
        raise RuntimeError("no room")

    monkeypatch.setattr(writer.group, "_after", be_full)

    first, waited_for = writer.gather([5], later=[1])

    assert [first.result(), waited_for.result()] == [[0], [10]]
    assert writer.ended == [(1, "RuntimeError")]


def test_two_items_of_one_key_are_never_written_together(writer):
    for each in writer.gather([1, 101, 201, 2]):
        each.result()

    assert rows("SELECT count(*), count(DISTINCT number % 100) FROM written GROUP BY xact HAVING count(*) > 1") == [
        (2, 2)
    ]


def test_a_group_has_a_bound(writer):
    for each in writer.gather(range(1, 71)):
        each.result()

    assert rows("SELECT count(*) FROM written GROUP BY xact ORDER BY 1") == [(1,), (20,), (50,)]


def test_a_database_that_stays_away_is_everybodys_trouble(writer, monkeypatch):
    def be_away(write, **_):
        raise OperationalError("COMMIT", {}, Exception("the server closed the connection"))

    monkeypatch.setattr("tasks.grouping.record", be_away)

    with pytest.raises(OperationalError):
        writer.group([1])
    with pytest.raises(OperationalError):
        writer.group([2])


def test_threads_that_write_again_and_again_all_get_what_is_theirs(writer):
    writer.waits.set()

    def write(start):
        return [writer.group([start + 100 * turn]) for turn in range(20)]

    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(write, range(12)))

    assert found == [[[2 * (start + 100 * turn)] for turn in range(20)] for start in range(12)]
    assert rows("SELECT count(*), count(DISTINCT number) FROM written") == [(240, 240)]
