"""Slots: never more in use than there are, and a batch waits for room only for a moment."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tasks.slots import Slots
from tests.system import wait_until


def test_what_is_free_is_taken_and_no_more():
    slots = Slots(3)

    assert [slots.take(2), slots.take(2)] == [2, 1]
    assert slots.used == 3
    slots.give_back(3)
    assert slots.used == 0


def test_a_batch_waits_for_the_room_that_it_wants():
    slots = Slots(3)
    slots.take(2)

    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(slots.take, 3, within_s=30)
        wait_until(lambda: slots._awaited == [3], what="a thread that waits")
        slots.give_back(1)
        slots.give_back(1)

        assert taken.result(10) == 3


def test_a_batch_that_has_waited_takes_what_there_is():
    slots = Slots(3)
    slots.take(2)

    assert slots.take(2, within_s=0.01) == 1


def test_more_than_there_are_is_not_waited_for():
    slots = Slots(2)

    assert slots.take(5, within_s=60) == 2


def test_a_slot_comes_back_although_its_work_failed():
    slots = Slots(1)

    with pytest.raises(ZeroDivisionError), slots.one():
        raise ZeroDivisionError

    assert slots.used == 0


def test_many_threads_never_use_more_than_there_are():
    slots, seen = Slots(4), []

    def work(number):
        for _ in range(50):
            taken = slots.take(1 + number % 4, within_s=0.001 * (number % 2))
            seen.append(slots.used)
            time.sleep(0)
            slots.give_back(taken)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))

    assert max(seen) <= 4
    assert slots.used == 0
    assert slots._awaited == []
