"""How the simulator fails through OpenAI's own SDK: each fault as it should be, and which request it is chosen for."""

import json
import time

import openai
import pytest
from openai import OpenAI

from tests.integration.simulator.running import DROPPED, PROMPT, TIMED_OUT, ask, keyed, outcomes, wait_until
from workers.simulator.answers import DECLINED
from workers.simulator.faults import FAULTS, FaultError, random_fault, read_marker, read_rates

# Faults

RAISED = {
    "rate_limit": (openai.RateLimitError, 429, "rate_limit_exceeded"),
    "rate_limit_window": (openai.RateLimitError, 429, "rate_limit_exceeded"),
    "overloaded": (openai.InternalServerError, 503, "overloaded"),
    "overloaded_until": (openai.InternalServerError, 503, "overloaded"),
    "too_early": (openai.APIStatusError, 425, "too_early"),
    "server_error": (openai.InternalServerError, 500, "server_error"),
    "content_policy": (openai.BadRequestError, 400, "content_policy_violation"),
    "bad_request": (openai.BadRequestError, 400, "invalid_value"),
    "insufficient_quota": (openai.RateLimitError, 429, "insufficient_quota"),
    "hang_before_accept": (DROPPED, None, None),
    "hang_after_accept": (DROPPED, None, None),
    "reset_before_accept": (DROPPED, None, None),
    "reset_mid_body": (DROPPED, None, None),
    "drip": (DROPPED, None, None),
    "bad_gateway": (openai.InternalServerError, 502, None),
    "gateway_timeout": (openai.InternalServerError, 504, None),
    "malformed_body": (json.JSONDecodeError, None, None),
}


def call_each_endpoint(client: OpenAI, endpoint: str, prompt: str, key: str):
    headers = keyed(key)
    if endpoint == "responses":
        return client.responses.create(model="gpt-4o", input=prompt, extra_headers=headers)
    if endpoint == "chat":
        messages = [{"role": "user", "content": prompt}]
        return client.chat.completions.create(model="gpt-4o", messages=messages, extra_headers=headers)
    if endpoint == "images":
        return client.images.generate(model="gpt-image-1", prompt=prompt, n=3, extra_headers=headers)
    return client.embeddings.create(model="text-embedding-3-small", input=prompt, extra_headers=headers)


@pytest.mark.parametrize("endpoint", ["responses", "chat", "images", "embeddings"])
@pytest.mark.parametrize("fault", RAISED)
def test_each_failing_fault_raises_what_the_sdk_raises_and_executes_only_if_it_says_so(simulator, key, fault, endpoint):
    expected, status, code = RAISED[fault]
    prompt = f"{PROMPT} [[simulate: {fault}]]"
    with pytest.raises(expected) as error:
        call_each_endpoint(simulator.client(), endpoint, prompt, key)

    assert type(error.value) is expected
    assert getattr(error.value, "status_code", None) == status
    assert getattr(error.value, "code", None) == code
    assert (prompt in str(error.value)) == (status == 400)
    assert {entry.fault for entry in simulator.journal(key)} == {fault}
    end = "answered" if status or fault == "malformed_body" else "dropped"
    wait_until(lambda: simulator.events(key)[-1] == end)
    assert simulator.events(key) == ["received", *(["executed"] if FAULTS[fault].executes else []), end]


def test_every_fault_is_covered_here():
    assert set(FAULTS) == {*RAISED, "missing_usage", "model_refusal", "error_in_answer", "fewer_images", "slow"}


def test_a_rate_limit_says_when_to_retry(simulator, key):
    with pytest.raises(openai.RateLimitError) as error:
        ask(simulator.client(), key, "[[simulate: rate_limit]]")

    assert error.value.response.headers["Retry-After"] == "1"
    assert error.value.response.headers["retry-after-ms"] == "1000"


@pytest.mark.parametrize("endpoint", ["responses", "chat", "images", "embeddings"])
def test_missing_usage_is_journalled_but_not_sent(simulator, key, endpoint):
    answer = call_each_endpoint(simulator.client(strict=False), endpoint, "Hi [[simulate: missing_usage]]", key)

    executed = simulator.journal(key)[1]
    assert getattr(answer, "usage", None) is None
    assert executed.event == "executed"
    assert executed.usage["total_tokens"] > 0


def test_a_refusal_of_the_model_is_executed_and_stands_in_the_place_of_the_text(simulator, key):
    client = simulator.client()
    chat = client.chat.completions.create(
        model="gpt-4o",
        messages=[{"role": "user", "content": "Hi [[simulate: model_refusal]]"}],
        extra_headers=keyed(key),
    )
    response = ask(client, f"{key}-2", "Hi [[simulate: model_refusal]]")

    assert (chat.choices[0].message.content, chat.choices[0].message.refusal) == (None, DECLINED)
    assert [part.refusal for part in response.output[-1].content] == [DECLINED]
    assert simulator.events(key) == ["received", "executed", "answered"]


def test_an_error_inside_an_answer_comes_with_200_and_nothing_was_executed(simulator, key):
    answer = ask(simulator.client(strict=False), key, "Hi [[simulate: error_in_answer]]")

    assert answer.error.code == "server_error"
    assert simulator.events(key) == ["received", "answered"]


@pytest.mark.parametrize(("asked", "delivered"), [(4, 3), (1, 1)])
def test_fewer_images_are_delivered_and_journalled_but_at_least_one(simulator, key, asked, delivered):
    prompt = f"{PROMPT} [[simulate: fewer_images]]"
    images = simulator.client().images.generate(model="dall-e-2", prompt=prompt, n=asked, extra_headers=keyed(key))

    assert len(images.data) == delivered
    assert simulator.journal(key)[1].images == delivered


def test_slow_takes_three_latencies_and_a_second_and_then_answers(simulator, key):
    began = time.monotonic()
    response = ask(simulator.client(), key, "Hi [[simulate: slow; latency 0.05]]")

    assert time.monotonic() - began >= 1.15
    assert response.status == "completed"
    assert simulator.events(key) == ["received", "executed", "answered"]


def test_a_client_that_gives_up_on_a_slow_answer_was_executed_all_the_same(simulator, key):
    with pytest.raises(TIMED_OUT):
        ask(simulator.client(timeout=0.2), key, "Hi [[simulate: slow]]")

    wait_until(lambda: simulator.events(key) == ["received", "executed", "dropped"])


def test_a_client_that_gives_up_on_a_hang_frees_it_at_once(start, key):
    running = start("--hang", "300")
    with pytest.raises(TIMED_OUT):
        ask(running.client(timeout=0.2), key, "Hi [[simulate: hang_after_accept]]")

    wait_until(lambda: running.events(key) == ["received", "executed", "dropped"])


# Choosing faults


@pytest.mark.parametrize("with_key", [True, False], ids=["by key", "by body"])
def test_marker_items_are_used_in_turn_for_one_request(simulator, key, with_key):
    prompt = f"{key}: [[simulate: rate_limit x2; server_error x1]] and [[simulate: overloaded x1; latency 0]]"
    ended = outcomes(simulator.client(), key if with_key else None, prompt, 5)

    assert ended == ["rate_limit_exceeded", "rate_limit_exceeded", "server_error", "overloaded", "completed"]


def test_marker_turns_are_counted_for_each_key_alone(simulator, key):
    prompt = "Hi [[simulate: rate_limit x1]]"

    assert outcomes(simulator.client(), f"{key}-a", prompt, 2) == ["rate_limit_exceeded", "completed"]
    assert outcomes(simulator.client(), f"{key}-b", prompt, 2) == ["rate_limit_exceeded", "completed"]


@pytest.mark.parametrize("marker", ["explode", "explode x2", "latency soon", "rate_limit 2", ""])
def test_an_unknown_marker_item_is_refused_in_one_sentence(simulator, key, marker):
    with pytest.raises(openai.BadRequestError) as error:
        ask(simulator.client(), key, f"Hi [[simulate: {marker}]]")

    assert error.value.code == "unknown_fault"
    assert error.value.body["message"].endswith(".")
    assert simulator.events(key) == ["received", "answered"]


def test_scripted_faults_hit_the_next_matching_requests(start, key):
    running = start()
    script = {"faults": [{"fault": "server_error", "times": 2, "match": "fox"}, {"fault": "overloaded"}]}
    status, listed = running.http("POST", "/simulator/faults", json.dumps(script).encode())
    client = running.client()

    assert status == 200
    assert [fault["name"] for fault in listed["faults"]] == list(FAULTS)
    assert all(fault["description"] for fault in listed["faults"])
    assert outcomes(client, key, "a hare", 2) == ["overloaded", "completed"]
    assert outcomes(client, key, "a fox", 3) == ["server_error", "server_error", "completed"]
    assert running.http("GET", "/simulator/faults")[1]["scripted"] == []


def test_scripted_faults_can_be_forgotten(start, key):
    running = start()
    running.http("POST", "/simulator/faults", b'{"faults": [{"fault": "overloaded", "times": 9}]}')
    running.http("DELETE", "/simulator/faults")

    assert outcomes(running.client(), key, PROMPT, 1) == ["completed"]


@pytest.mark.parametrize(
    "script",
    [
        {},
        {"faults": ["overloaded"]},
        {"faults": [{"fault": "explode"}]},
        {"faults": [{"fault": "overloaded", "times": 0}]},
        {"faults": [{"fault": "overloaded", "match": 3}]},
    ],
)
def test_a_wrong_script_is_refused_and_changes_nothing(simulator, script):
    status, error = simulator.http("POST", "/simulator/faults", json.dumps(script).encode())

    assert status == 400
    assert error["error"]["message"].endswith(".")
    assert simulator.http("GET", "/simulator/faults")[1]["scripted"] == []


def test_random_faults_cover_their_share_of_the_chances():
    rates = read_rates(("rate_limit=0.25", "slow=0.5"))
    hits = [random_fault(rates, chance / 100) for chance in range(100)]

    assert [hits.count("rate_limit"), hits.count("slow"), hits.count(None)] == [25, 50, 25]


@pytest.mark.parametrize(
    "rates", [("explode=0.1",), ("slow",), ("slow=2",), ("slow=-1",), ("slow=0.6", "overloaded=0.6")]
)
def test_a_wrong_rate_is_one_clear_sentence(rates):
    with pytest.raises(FaultError, match=r"\.$"):
        read_rates(rates)


def test_a_marker_without_times_always_holds():
    marker = read_marker("[[simulate: slow x1; overloaded]]")

    assert [marker.fault(seen) for seen in range(4)] == ["slow", "overloaded", "overloaded", "overloaded"]


# Journal and process


def test_no_request_left_a_traceback(simulator):
    assert "Traceback" not in simulator.stderr_path.read_text()
