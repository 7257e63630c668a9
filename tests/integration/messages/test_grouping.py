"""What several threads write at one time is written together, and nobody's trouble is another's."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock

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

    def __init__(self) -> None:
        with transaction() as session:
            session.execute(text("CREATE TABLE written (number bigint CHECK (number >= 0), xact bigint)"))
        self.waits, self.go_on, self.told, self._lock = Event(), Event(), [], Lock()
        self.group = Group(self.write, key=lambda number: number % 100, size=50, after=self.tell)

    def write(self, session, numbers):
        if not self.waits.is_set():
            self.waits.set()
            self.go_on.wait(30)
        for number in numbers:
            session.execute(text("INSERT INTO written VALUES (:number, txid_current())"), {"number": number})
        return [number * 2 for number in numbers]

    def tell(self, numbers, written):
        self.told.append((sorted(numbers), sorted(written)))

    def gather(self, pool, numbers):
        """Have each number written by a thread of its own while the first of them is being written."""
        first = pool.submit(self.group, [0])
        self.waits.wait(30)
        others = [pool.submit(self.group, [number]) for number in numbers]
        wait_until(lambda: len(self.group._gathered) == len(numbers), what="every thread in the group")
        self.go_on.set()
        return [first, *others]


@pytest.fixture
def writer():
    return Writer()


def test_what_gathers_during_a_write_is_written_by_one_transaction(writer):
    with ThreadPoolExecutor(20) as pool:
        found = [each.result() for each in writer.gather(pool, range(1, 11))]

    assert found == [([0], False), *(([2 * number], True) for number in range(1, 11))]
    assert rows("SELECT count(*) FROM written GROUP BY xact ORDER BY 1") == [(1,), (10,)]
    assert writer.told == [(list(range(1, 11)), list(range(2, 21, 2)))]


def test_what_the_database_refuses_undoes_nothing_of_the_others(writer):
    with ThreadPoolExecutor(20) as pool:
        first, good, bad, other = writer.gather(pool, [1, -3, 2])

        assert [each.result()[0] for each in (first, good, other)] == [[0], [2], [4]]
        with pytest.raises(IntegrityError):
            bad.result()

    assert rows("SELECT number FROM written ORDER BY number") == [(0,), (1,), (2,)]
    assert writer.told == [([1, 2], [2, 4])]


def test_two_items_of_one_key_are_never_written_together(writer):
    with ThreadPoolExecutor(20) as pool:
        for each in writer.gather(pool, [1, 101, 201, 2]):
            each.result()

    assert rows("SELECT count(*), count(DISTINCT number % 100) FROM written GROUP BY xact HAVING count(*) > 1") == [
        (2, 2)
    ]


def test_a_group_has_a_bound(writer):
    with ThreadPoolExecutor(80) as pool:
        for each in writer.gather(pool, range(1, 71)):
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
        return [writer.group([start + 100 * turn])[0] for turn in range(20)]

    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(write, range(12)))

    assert found == [[[2 * (start + 100 * turn)] for turn in range(20)] for start in range(12)]
    assert rows("SELECT count(*), count(DISTINCT number) FROM written") == [(240, 240)]
