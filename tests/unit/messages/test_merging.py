"""Hints that are merged: one is worked on at a time, and it answers for those that were received before its take."""

from __future__ import annotations

import pytest

from tasks.messages import merging, takes
from tasks.messages.merging import HINT, Merging, is_mergeable


class AMessage:
    """A message as kombu gives it: what it carries, and what became of it."""

    def __init__(
        self, at: float = 0.0, *, task: str = HINT, args=None, kwargs=None, redelivered: bool = False, eta=None
    ) -> None:
        self.headers = {"task": task, "received_at": at, "eta": eta}
        self.payload = [[["id"]] if args is None else args, kwargs or {}, {}]
        self.delivery_info = {"redelivered": redelivered}
        self.acknowledged = False

    def ack_log_error(self, *_) -> None:
        self.acknowledged = True

    def reject_log_error(self, *_, **__) -> None:
        self.acknowledged = False


class Work:
    """What a worker was given, in order, and what it has put off."""

    def __init__(self) -> None:
        self.begun: list[AMessage] = []
        self.put_off: list[float] = []
        self.merging = Merging(self.begun.append, self._later, ())

    def _later(self, seconds: float, act) -> None:
        self.put_off.append(seconds)
        act()

    def receive(self, *messages: AMessage) -> None:
        for message in messages:
            self.merging.receive(message)


@pytest.fixture
def clock(monkeypatch):
    """The clock of the worker, and no take so far."""
    monkeypatch.setattr(takes, "_complete_since", takes.c_double(0.0))
    now = [100.0]
    monkeypatch.setattr(merging.time, "monotonic", lambda: now[0])
    return now


def test_one_hint_is_worked_on_at_a_time(clock):
    work, first, second = Work(), AMessage(100), AMessage(100)

    work.receive(first, second)
    assert work.begun == [first]
    first.ack_log_error()

    assert (work.begun, first.acknowledged, second.acknowledged) == ([first, second], True, False)


def test_a_complete_take_answers_for_the_hints_that_came_before_it_began(clock):
    work, first, before, after = Work(), AMessage(100), AMessage(101), AMessage(103)
    work.receive(first, before, after)

    takes.note_complete(102)
    first.ack_log_error()

    assert (before.acknowledged, after.acknowledged) == (True, False)
    assert work.begun == [first, after]


def test_a_take_that_left_jobs_behind_answers_for_none(clock):
    work, first, before = Work(), AMessage(100), AMessage(101)
    work.receive(first, before)

    first.reject_log_error()

    assert (work.begun, before.acknowledged) == ([first, before], False)


def test_a_worker_that_is_idle_begins_at_once_and_a_busy_one_after_a_pause(clock):
    work, first, second = Work(), AMessage(100), AMessage(100)

    work.receive(first, second)
    assert work.put_off == []
    clock[0] += 0.005
    takes.note_complete(100)
    first.ack_log_error()
    assert work.put_off == [pytest.approx(merging.PAUSE_S - 0.005)]

    second.ack_log_error()
    work.receive(AMessage(101))
    assert len(work.put_off) == 1


def test_a_worker_that_left_jobs_behind_goes_on_at_once(clock):
    work, first, second = Work(), AMessage(100), AMessage(100)
    work.receive(first, second)

    first.ack_log_error()

    assert (work.begun, work.put_off) == ([first, second], [])


def test_a_hint_that_cannot_be_worked_on_holds_up_no_other(clock):
    def handle(message):
        if message is broken:
            raise ValueError("broken")
        begun.append(message)

    begun, broken, other = [], AMessage(100), AMessage(100)
    merged = Merging(handle, lambda seconds, act: act(), ())

    with pytest.raises(ValueError, match="broken"):
        merged.receive(broken)
    merged.receive(other)

    assert begun == [other]


def test_a_hint_that_is_never_acknowledged_holds_up_no_other_for_long(clock):
    work, lost, waiting, later = Work(), AMessage(100), AMessage(100), AMessage(100)
    work.receive(lost, waiting)
    assert work.begun == [lost]

    clock[0] += merging.PATIENCE_S + 1
    work.receive(later)

    assert work.begun == [lost, waiting]


def test_a_hint_that_was_given_up_for_lost_and_ends_after_all_harms_nothing(clock):
    work, lost, waiting, later = Work(), AMessage(100), AMessage(100), AMessage(100)
    work.receive(lost, waiting)
    clock[0] += merging.PATIENCE_S + 1
    work.receive(later)

    for message in (lost, waiting, later):
        message.ack_log_error()
    work.merging._begin()

    assert work.begun == [lost, waiting, later]


@pytest.mark.parametrize(
    ("message", "mergeable"),
    [
        (AMessage(), True),
        (AMessage(task="generation.reserve_credits"), False),
        (AMessage(kwargs={"alone": True}), False),
        (AMessage(redelivered=True), False),
        (AMessage(args=[]), False),
        (AMessage(args=["no list"]), False),
        (AMessage(eta="2026-11-20T12:00:00"), False),
    ],
)
def test_only_a_hint_like_any_other_is_merged(message, mergeable):
    assert is_mergeable(message) is mergeable
