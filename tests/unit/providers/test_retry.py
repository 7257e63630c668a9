"""Retries of one job's call, on a clock of the test's own: nothing here really sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tenacity import RetryError

from tasks.providers.retry import FIRST_WAIT_S, TryAgain, retrying
from tests.rounds import rounds


class Clock:
    """A clock that goes on only by sleeping, and by what a call takes."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waits: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: made.now)
    return made


class Call:
    """A provider call that fails in the given ways, one after another, and then delivers."""

    def __init__(self, *failures: Exception, clock: Clock | None = None, takes_s: float = 0) -> None:
        self.failures = list(failures)
        self.calls = 0
        self.clock, self.takes_s = clock, takes_s

    def __call__(self) -> str:
        self.calls += 1
        if self.clock is not None:
            self.clock.now += self.takes_s
        if self.failures:
            raise self.failures.pop(0)
        return "delivered"


def again(seconds: float | None = None) -> TryAgain:
    return TryAgain(None if seconds is None else timedelta(seconds=seconds))


def run(
    call: Callable[[], str], sleep: Callable[[float], None], *, total_s: float = 400, wait_max_s: float = 20
) -> str:
    return retrying(total_s=total_s, wait_max_s=wait_max_s).copy(sleep=sleep)(call)


def test_a_call_that_delivers_is_made_once(clock):
    call = Call()

    assert run(call, clock.sleep) == "delivered"
    assert (call.calls, clock.waits) == (1, [])


def test_a_call_is_made_again_until_it_delivers(clock):
    call = Call(again(), again(), again())

    assert run(call, clock.sleep) == "delivered"
    assert (call.calls, len(clock.waits)) == (4, 3)


@pytest.mark.parametrize("asked_s", [0, 1, 7.5, 19.9, 20])
def test_the_provider_is_given_the_time_that_it_asks_for(clock, asked_s):
    assert run(Call(again(asked_s)), clock.sleep) == "delivered"

    (waited,) = clock.waits
    assert asked_s <= waited <= max(asked_s, FIRST_WAIT_S)


@pytest.mark.parametrize("asked_s", [20.001, 21, 3600, 10**9])
def test_a_longer_wait_than_a_worker_may_make_stops_at_once(clock, asked_s):
    call = Call(again(asked_s))

    with pytest.raises(RetryError):
        run(call, clock.sleep, wait_max_s=20)

    assert (call.calls, clock.waits) == (1, [])


def test_a_wish_counts_for_the_failure_that_it_came_with(clock):
    assert run(Call(again(15), again()), clock.sleep) == "delivered"

    first, second = clock.waits
    assert first == 15
    assert second <= 2 * FIRST_WAIT_S


@settings(deadline=None, max_examples=rounds(50))
@given(failures=st.integers(min_value=1, max_value=30), wait_max_s=st.floats(min_value=0.1, max_value=60))
def test_waits_grow_at_random_and_stay_within_their_bounds(failures, wait_max_s):
    waits: list[float] = []

    run(Call(*[again()] * failures), waits.append, total_s=10**6, wait_max_s=wait_max_s)

    assert len(waits) == failures
    for number, waited in enumerate(waits):
        assert 0 <= waited <= min(FIRST_WAIT_S * 2**number, wait_max_s)


def test_waits_are_not_all_alike():
    first_waits: list[float] = []
    for _ in range(20):
        run(Call(again()), first_waits.append)

    assert len(set(first_waits)) > 1


def test_no_call_is_begun_when_the_total_time_is_spent(clock):
    call = Call(*[again(10)] * 100, clock=clock, takes_s=5)

    with pytest.raises(RetryError):
        run(call, clock.sleep, total_s=60)

    # Calls fail 5, 20, 35, 50 and 65 seconds after the first began: the last of them is past the 60.
    assert (call.calls, clock.waits) == (5, [10, 10, 10, 10])


@pytest.mark.parametrize(("takes_s", "calls"), [(59.9, 2), (60, 1), (61, 1)])
def test_one_long_call_can_spend_the_total_time(clock, takes_s, calls):
    call = Call(*[again(1)] * 100, clock=clock, takes_s=takes_s)

    with pytest.raises(RetryError):
        run(call, clock.sleep, total_s=60)

    assert call.calls == calls


def test_the_error_at_the_end_carries_the_last_failure(clock):
    last = again(30)

    with pytest.raises(RetryError) as caught:
        run(Call(again(1), again(2), last), clock.sleep)

    assert caught.value.last_attempt.exception() is last
    assert last.retry_after == timedelta(seconds=30)
    assert caught.value.last_attempt.attempt_number == 3


@pytest.mark.parametrize(
    "error", [ValueError("other"), RuntimeError("other"), KeyError("other"), TimeoutError("other")]
)
def test_any_other_error_is_raised_as_it_is_and_not_tried_again(clock, error):
    call = Call(error)

    with pytest.raises(type(error)) as caught:
        run(call, clock.sleep)

    assert caught.value is error
    assert (call.calls, clock.waits) == (1, [])


def test_the_clock_begins_anew_with_each_job(clock):
    policy = retrying(total_s=60, wait_max_s=20).copy(sleep=clock.sleep)
    assert policy(Call(again(10), again(10))) == "delivered"
    clock.now += 10_000

    assert policy(Call(again(10), again(10))) == "delivered"
