"""Answers that are held: calls are received and executed, and nobody hears of it until all answers are released."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import openai
import pytest

from tests.integration.simulator.callers import runware
from tests.integration.simulator.running import DROPPED, PROMPT, TIMED_OUT, Running, Start, ask, outcomes, wait_until

EXECUTED = ["received", "executed"]


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def holding(start: Start, threads: ThreadPoolExecutor) -> Iterator[Running]:
    """A simulator that holds its answers; the threads that wait for them get them in the end."""
    running = start()
    hold(running)
    yield running
    if running.process.poll() is None:
        release(running)


def hold(running: Running) -> None:
    assert running.http("POST", "/simulator/hold") == (200, {"holding": True, "waiting": 0})


def release(running: Running) -> int:
    """Let the answers go; how many waited."""
    status, told = running.http("DELETE", "/simulator/hold")
    assert (status, told["holding"]) == (200, False)
    return told["released"]


def waiting(running: Running) -> int:
    return running.http("GET", "/simulator/hold")[1]["waiting"]


def sent(threads: ThreadPoolExecutor, running: Running, keys: list[str], prompt: str = PROMPT) -> list[Future]:
    """The calls under these keys, all of which wait for their answers."""
    before = waiting(running)
    calls = [threads.submit(ask, running.client(), key, prompt) for key in keys]
    wait_until(lambda: waiting(running) == before + len(keys))
    return calls


def test_held_calls_are_executed_and_answered_together(holding, threads, key):
    keys = [f"{key}-{number}" for number in range(5)]
    calls = sent(threads, holding, keys)

    assert [holding.events(key) for key in keys] == [EXECUTED] * 5
    assert not any(call.done() for call in calls)
    assert release(holding) == 5
    assert [call.result(20).status for call in calls] == ["completed"] * 5
    assert [holding.events(key) for key in keys] == [[*EXECUTED, "answered"]] * 5


def test_later_calls_pass_once_answers_are_released(holding, key):
    release(holding)

    assert ask(holding.client(), key).status == "completed"
    assert holding.http("GET", "/simulator/hold") == (200, {"holding": False, "waiting": 0})


def test_holding_and_releasing_twice_is_quiet(holding, threads, key):
    (call,) = sent(threads, holding, [key])
    holding.http("POST", "/simulator/hold")

    assert waiting(holding) == 1
    assert [release(holding), call.result(20).status, release(holding)] == [1, "completed", 0]


def test_a_hold_that_follows_at_once_does_not_catch_the_answers_released_before(holding, threads, key):
    for number in range(5):
        (call,) = sent(threads, holding, [f"{key}-{number}"])
        release(holding)
        holding.http("POST", "/simulator/hold")

        assert call.result(20).status == "completed"


def test_a_refusal_is_held_and_executes_nothing(holding, threads, key):
    (call,) = sent(threads, holding, [key], f"{PROMPT} [[simulate: overloaded]]")

    assert holding.events(key) == ["received"]
    release(holding)
    assert isinstance(call.exception(20), openai.InternalServerError)
    assert holding.events(key) == ["received", "answered"]


def test_half_an_answer_is_held_as_a_whole_one_is(holding, threads, key):
    (call,) = sent(threads, holding, [key], f"{PROMPT} [[simulate: reset_mid_body]]")

    assert holding.events(key) == EXECUTED
    release(holding)
    assert isinstance(call.exception(20), DROPPED)


def test_the_answers_of_images_and_of_what_became_of_them_are_held(holding, threads):
    caller = runware(holding)
    claim = caller.claim()
    made = threads.submit(caller.call, claim)
    wait_until(lambda: waiting(holding) == 1)
    found = threads.submit(caller.found_out, claim)
    wait_until(lambda: waiting(holding) == 2)

    assert caller.executed(claim) == [3]
    release(holding)
    assert made.result(20).content == found.result(20).content


def test_who_gave_up_on_a_held_answer_is_dropped_when_it_is_released(holding, key):
    with pytest.raises(TIMED_OUT):
        ask(holding.client(timeout=0.2), key)

    assert holding.events(key) == EXECUTED
    release(holding)
    wait_until(lambda: holding.events(key) == [*EXECUTED, "dropped"])


def test_it_stops_cleanly_while_answers_are_held(holding, threads, key):
    (call,) = sent(threads, holding, [key])
    os.kill(holding.process.pid, signal.SIGTERM)

    assert holding.process.wait(10) == 0
    assert isinstance(call.exception(20), DROPPED)
    assert holding.events(key) == [*EXECUTED, "dropped"]
    assert "Traceback" not in holding.stderr_path.read_text()


def test_a_hold_with_a_body_is_refused_in_one_sentence_and_holds_nothing(simulator, key):
    status, error = simulator.http("POST", "/simulator/hold", b'{"match": "fox"}')

    assert (status, error["error"]["code"]) == (400, "unexpected_body")
    assert error["error"]["message"] == "Holding takes no body: it holds the answers to all requests."
    assert outcomes(simulator.client(), key, PROMPT, 1) == ["completed"]
