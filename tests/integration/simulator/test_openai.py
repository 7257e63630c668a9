"""The simulator through OpenAI's own SDK: what it answers, how it fails, and what its journal says was executed."""

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest
import toktok
from click.testing import CliRunner
from openai import OpenAI

from workers.simulator.command import main
from workers.simulator.faults import FAULTS, FaultError, random_fault, read_marker, read_rates
from workers.simulator.journal import Entry, Journal, read_journal

ROOT = Path(__file__).resolve().parents[3]
PROMPT = "Describe a quiet garden in the morning."


class Running:
    """A simulator in a process of its own."""

    def __init__(self, journal: Path, *options: str):
        command = [sys.executable, "-m", "workers.simulator", "--journal", str(journal), *options]
        self.journal_path = journal
        self.stderr_path = journal.with_suffix(f".{time.monotonic_ns()}.log")
        with self.stderr_path.open("wb") as stderr:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr)
        assert self.process.stdout is not None
        self.ready = json.loads(self.process.stdout.readline())
        self.url = self.ready["simulator"]
        self.root = self.url.removesuffix("/v1")

    def client(self, key: str = "sim-test", timeout: float = 30, strict: bool = True) -> OpenAI:
        return OpenAI(
            api_key=key, base_url=self.url, max_retries=0, timeout=timeout, _strict_response_validation=strict
        )

    def journal(self, key: str) -> list[Entry]:
        return [entry for entry in read_journal(self.journal_path) if entry.idempotency_key == key]

    def events(self, key: str) -> list[str]:
        return [entry.event for entry in self.journal(key)]

    def http(self, method: str, path: str, body: bytes | None = None, key: str = "sim-test") -> tuple[int, dict]:
        request = urllib.request.Request(self.root + path, data=body, method=method)
        request.add_header("Authorization", f"Bearer {key}")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            if self.process.stdout:
                self.process.stdout.close()
        return code


Start = Callable[..., Running]


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    journal = tmp_path_factory.mktemp("simulator") / "journal.jsonl"
    running = Running(journal, "--latency", "0", "--hang", "0.3")
    yield running
    running.stop()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Running] = []

    def start_one(*options: str, journal: str = "journal.jsonl") -> Running:
        started.append(Running(tmp_path / journal, "--latency", "0", *options))
        return started[-1]

    yield start_one
    for running in started:
        running.stop()


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    return f"key-{request.node.name}"


def keyed(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


def tokens(text: str) -> int:
    return toktok.batch_count([text], "o200k_base", threads=1)[0]


def wait_until(holds: Callable[[], bool], within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)


def ask(client: OpenAI, key: str, prompt: str = PROMPT, model: str = "gpt-4o-mini", **more):
    return client.responses.create(model=model, input=prompt, extra_headers=keyed(key), **more)


# Answers


def test_a_response_parses_strictly_and_its_usage_is_exact(simulator, key):
    raw = simulator.client().responses.with_raw_response.create(
        model="gpt-4o-mini", input=PROMPT, instructions="Be brief.", extra_headers=keyed(key)
    )
    response = raw.parse()

    assert raw.headers["X-Simulator"] == "creditmill"
    assert raw.headers["x-request-id"] == response._request_id == simulator.journal(key)[0].request_id
    assert response.status == "completed"
    assert response.incomplete_details is None
    assert "imulated" in response.output_text
    assert response.usage.input_tokens == tokens(PROMPT) + tokens("Be brief.") + 3 + 3
    assert response.usage.output_tokens == tokens(response.output_text)
    assert 150 <= response.usage.output_tokens <= 900
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    assert response.usage.output_tokens_details.reasoning_tokens == 0
    assert response.usage.input_tokens_details.cached_tokens == 0


def test_a_drawn_length_beyond_the_limit_is_cut_and_marked(simulator, key):
    prompt = "A story [[simulate: tokens 300]]"
    cut = ask(simulator.client(), key, prompt, max_output_tokens=100)
    whole = ask(simulator.client(), key, prompt, max_output_tokens=300)

    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert cut.usage.output_tokens == tokens(cut.output_text) == 100
    assert whole.status == "completed"
    assert 296 <= whole.usage.output_tokens <= 300


@pytest.mark.parametrize("model", ["gpt-5-mini", "o3"])
@pytest.mark.parametrize("limit", [1, 16, 100, 2_000])
def test_reasoning_is_part_of_the_output_and_within_the_limit(simulator, key, model, limit):
    response = ask(simulator.client(), key, PROMPT + " [[simulate: tokens 1000]]", model, max_output_tokens=limit)

    reasoning = response.usage.output_tokens_details.reasoning_tokens
    assert reasoning > 0
    assert response.usage.output_tokens == reasoning + tokens(response.output_text) <= limit
    assert (response.status == "incomplete") == (limit < 1_000)


def test_output_never_exceeds_the_limit_whatever_the_draw(simulator, key):
    client = simulator.client()
    answers = [ask(client, key, max_output_tokens=limit) for limit in [*range(1, 40), 64, 128, 256]]

    assert all(answer.usage.output_tokens <= answer.max_output_tokens for answer in answers)
    assert all(answer.usage.output_tokens == tokens(answer.output_text) for answer in answers)


def test_a_chat_completion_parses_strictly_and_its_usage_is_exact(simulator, key):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    ]
    whole = simulator.client().chat.completions.create(model="gpt-5", messages=messages, extra_headers=keyed(key))
    cut = simulator.client().chat.completions.create(
        model="gpt-4o", messages=messages, max_tokens=5, extra_headers=keyed(key)
    )

    usage, text = whole.usage, whole.choices[0].message.content
    assert whole.choices[0].finish_reason == "stop"
    assert usage.prompt_tokens == tokens("Be brief.") + tokens("Hi") + 3 * 2 + 3
    assert usage.completion_tokens == tokens(text) + usage.completion_tokens_details.reasoning_tokens
    assert usage.completion_tokens_details.reasoning_tokens > 0
    assert usage.prompt_tokens_details.cached_tokens == 0
    assert whole._request_id
    assert cut.usage.completion_tokens <= 5


def test_a_cut_chat_completion_ends_with_length(simulator, key):
    message = {"role": "user", "content": "Tell [[simulate: tokens 90]]"}
    cut = simulator.client().chat.completions.create(
        model="gpt-4o", messages=[message], max_completion_tokens=40, extra_headers=keyed(key)
    )

    assert (cut.choices[0].finish_reason, cut.usage.completion_tokens) == ("length", 40)


def test_json_is_written_when_json_is_asked_for(simulator, key):
    client = simulator.client()
    schema = {
        "type": "object",
        "properties": {
            "title": {"type": "string"},
            "pages": {"type": "integer"},
            "kind": {"enum": ["novel", "essay"]},
            "authors": {"type": "array", "items": {"$ref": "#/$defs/author"}},
        },
        "$defs": {"author": {"type": "object", "properties": {"name": {"type": ["string", "null"]}}}},
    }
    shape = {"type": "json_schema", "name": "book", "schema": schema}
    asked = {"type": "json_schema", "json_schema": {"name": "book", "schema": schema}}
    message = {"role": "user", "content": "As JSON, please."}

    plain = json.loads(ask(client, key, text={"format": {"type": "json_object"}}).output_text)
    book = json.loads(ask(client, key, text={"format": shape}).output_text)
    chat = client.chat.completions.create(
        model="gpt-4o", messages=[message], response_format=asked, extra_headers=keyed(key)
    )

    assert plain["simulated"] is True
    for made in (book, json.loads(chat.choices[0].message.content)):
        assert set(made) == {"title", "pages", "kind", "authors"}
        assert made["title"].startswith("simulated")
        assert isinstance(made["pages"], int)
        assert made["kind"] in ("novel", "essay")
        assert made["authors"][0]["name"].startswith("simulated")


def test_a_long_prompt_is_cached_from_its_second_time_in_steps_of_128(simulator, key):
    prefix = "A long and patient introduction. " * 300
    cached = [
        ask(simulator.client(), key, prompt).usage.input_tokens_details.cached_tokens
        for prompt in (prefix, prefix, prefix + "Now something else entirely.", PROMPT, PROMPT)
    ]

    shared = tokens(prefix) // 128 * 128
    assert cached == [0, shared, shared, 0, 0]


def test_images_come_as_urls_that_serve_a_png(simulator, key):
    images = simulator.client().images.generate(
        model="dall-e-3", prompt=PROMPT, n=3, size="1792x1024", quality="hd", style="vivid", extra_headers=keyed(key)
    )

    assert len({image.url for image in images.data}) == 3
    assert all(image.revised_prompt == f"A simulated image of: {PROMPT}" for image in images.data)
    assert images.usage is None
    assert [entry.images for entry in simulator.journal(key)] == [None, 3, None]
    with urllib.request.urlopen(images.data[0].url, timeout=30) as answer:
        png = answer.read()
    assert png.startswith(b"\x89PNG")
    assert b"Simulated" in png


def test_gpt_image_gives_base64_and_token_usage(simulator, key):
    images = simulator.client().images.generate(
        model="gpt-image-1", prompt=PROMPT, n=2, size="1024x1536", quality="low", extra_headers=keyed(key)
    )

    assert all(image.b64_json and image.url is None for image in images.data)
    assert (images.usage.input_tokens, images.usage.output_tokens) == (tokens(PROMPT), 2 * 408)


@pytest.mark.parametrize(
    ("model", "wrong", "status"),
    [
        ("dall-e-3", {"n": 0}, 400),
        ("dall-e-3", {"n": 11}, 400),
        ("dall-e-3", {"size": "huge"}, 400),
        ("dall-e-3", {"quality": "best"}, 400),
        ("dall-e-3", {"style": "odd"}, 400),
        ("dall-e-3", {"response_format": "jpg"}, 400),
        ("paint-9000", {}, 404),
    ],
)
def test_a_wrong_image_request_is_refused_and_not_executed(simulator, key, model, wrong, status):
    with pytest.raises(openai.APIStatusError) as error:
        simulator.client().images.generate(model=model, prompt=PROMPT, extra_headers=keyed(key), **wrong)

    assert error.value.status_code == status
    assert error.value.code == ("model_not_found" if status == 404 else "invalid_value")
    assert (PROMPT in str(error.value)) == (status == 400)
    assert simulator.events(key) == ["received", "answered"]


def test_embeddings_are_repeatable_unit_vectors_in_either_encoding(simulator, key):
    # The SDK asks for base64 unless told otherwise, and its own strict validation then refuses the base64.
    create = simulator.client(strict=False).embeddings.create
    create_strictly = simulator.client().embeddings.create
    given = {"model": "text-embedding-3-small", "input": ["one", "two words"], "extra_headers": keyed(key)}
    packed, plain = create(**given), create_strictly(**given, encoding_format="float")

    assert [item.embedding for item in packed.data] == [item.embedding for item in plain.data]
    assert [len(item.embedding) for item in packed.data] == [8, 8]
    assert all(math.hypot(*item.embedding) == pytest.approx(1, abs=1e-6) for item in packed.data)
    assert packed.data[0].embedding != packed.data[1].embedding
    assert packed.usage.prompt_tokens == packed.usage.total_tokens == tokens("one") + tokens("two words")


def test_models_are_listed(simulator):
    assert "gpt-4o-mini" in [model.id for model in simulator.client().models.list()]


# Refusals


@pytest.mark.parametrize("secret", ["sk-live-secret-123456", "sim-"])
def test_a_key_that_is_not_simulated_is_refused_with_an_echo(simulator, key, secret):
    with pytest.raises(openai.AuthenticationError) as error:
        ask(simulator.client(secret), key)

    assert error.value.code == "invalid_api_key"
    assert f"provided: {secret}." in str(error.value)
    assert simulator.events(key) == ["received", "answered"]
    assert [entry.status for entry in simulator.journal(key)] == [None, 401]


def test_no_prompt_and_no_key_reach_the_journal_or_the_log(simulator, key):
    secret = "a-prompt-nobody-may-read"
    with pytest.raises(openai.AuthenticationError):
        ask(simulator.client("sk-secret-key"), key, secret)
    with pytest.raises(openai.BadRequestError):
        ask(simulator.client("sim-secret-key"), key, f"{secret} [[simulate: bad_request]]")
    ask(simulator.client("sim-secret-key"), key, secret)

    written = simulator.journal_path.read_text() + simulator.stderr_path.read_text()
    assert secret not in written
    assert "secret-key" not in written
    assert simulator.journal(key)[-1].prompt_sha256 == hashlib.sha256(secret.encode()).hexdigest()


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{not json", 400, "invalid_json"),
        (b'"\\ud800"', 400, "invalid_json"),
        (b"[" * 100_000, 400, "invalid_json"),
        (b"[]", 400, "invalid_value"),
        (b"{}", 400, "invalid_value"),
        (b'{"model": "gpt-4o", "input": " "}', 400, "invalid_value"),
        (b'{"model": "gpt-4o", "input": [7]}', 400, "invalid_value"),
        (b'{"model": "gpt-4o", "input": "x", "stream": true}', 400, "invalid_value"),
        (b'{"model": "gpt-4o", "input": "x", "max_output_tokens": 0}', 400, "invalid_value"),
        (b'{"model": "gpt-4o", "input": "' + b"x" * 2 * 1024 * 1024 + b'"}', 413, "request_too_large"),
    ],
)
def test_an_unreadable_body_is_one_error_in_openai_shape(simulator, body, status, code):
    answered, error = simulator.http("POST", "/v1/responses", body)

    assert (answered, error["error"]["code"]) == (status, code)


def test_an_unknown_path_is_an_error_in_openai_shape(simulator):
    with pytest.raises(openai.NotFoundError, match="/v1/audio/speech"):
        simulator.client().audio.speech.create(model="gpt-4o", voice="alloy", input=PROMPT)


# Faults

TIMED_OUT, DROPPED = openai.APITimeoutError, openai.APIConnectionError
RAISED = {
    "rate_limit": (openai.RateLimitError, 429, "rate_limit_exceeded"),
    "overloaded": (openai.InternalServerError, 503, "overloaded"),
    "server_error": (openai.InternalServerError, 500, "server_error"),
    "content_policy": (openai.BadRequestError, 400, "content_policy_violation"),
    "bad_request": (openai.BadRequestError, 400, "invalid_value"),
    "insufficient_quota": (openai.RateLimitError, 429, "insufficient_quota"),
    "hang_before_accept": (DROPPED, None, None),
    "hang_after_accept": (DROPPED, None, None),
    "reset_before_accept": (DROPPED, None, None),
    "reset_mid_body": (DROPPED, None, None),
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
    assert set(FAULTS) == {*RAISED, "missing_usage", "fewer_images", "slow"}


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


@pytest.mark.parametrize(("asked", "delivered"), [(4, 3), (1, 1)])
def test_fewer_images_are_delivered_and_journalled_but_at_least_one(simulator, key, asked, delivered):
    prompt = f"{PROMPT} [[simulate: fewer_images]]"
    images = simulator.client().images.generate(model="dall-e-3", prompt=prompt, n=asked, extra_headers=keyed(key))

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


def outcomes(client: OpenAI, key: str | None, prompt: str, times: int) -> list[str]:
    """Send one request `times` times and say how each ended."""
    ended = []
    for _ in range(times):
        try:
            headers = keyed(key) if key else {}
            ended.append(client.responses.create(model="gpt-4o", input=prompt, extra_headers=headers).status)
        except openai.APIStatusError as error:
            ended.append(error.code)
    return ended


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


def test_the_command_refuses_an_unknown_fault(tmp_path):
    ended = CliRunner().invoke(main, ["--journal", str(tmp_path / "j"), "--fault", "explode=0.1"])

    assert ended.exit_code == 2
    assert "There is no fault named 'explode'" in ended.output
    assert not (tmp_path / "j").exists()


def test_a_marker_without_times_always_holds():
    marker = read_marker("[[simulate: slow x1; overloaded]]")

    assert [marker.fault(seen) for seen in range(4)] == ["slow", "overloaded", "overloaded", "overloaded"]


# Determinism


def run_through(running: Running) -> list[object]:
    """Send a fixed series of requests and say what came of them, without addresses and times."""
    client = running.client()

    def response(number: int) -> object:
        made = ask(client, f"key-{number}", f"Story {number}", model="gpt-5")
        return made.id, made._request_id, made.output_text, made.usage.to_dict()

    def images(number: int) -> object:
        made = client.images.generate(model="dall-e-3", prompt=PROMPT, n=2, extra_headers=keyed(f"image-{number}"))
        return [image.url.removeprefix(running.root) for image in made.data]

    def vector(number: int) -> object:
        made = client.embeddings.create(model="text-embedding-3-small", input=f"{number}", encoding_format="float")
        return made.data[0].embedding

    seen: list[object] = []
    for send in (response, images, vector, response):
        for number in range(8):
            try:
                seen.append(send(number))
            except openai.APIStatusError as error:
                seen.append(error.code)
    return seen


def test_one_seed_gives_one_course_of_events_and_another_seed_another(start):
    faults = ("--fault", "rate_limit=0.3", "--fault", "server_error=0.2")
    first, second, other = (
        run_through(start("--seed", seed, *faults, journal=journal))
        for seed, journal in (("7", "first"), ("7", "second"), ("8", "other"))
    )

    assert first == second
    assert first != other
    assert {type(item) for item in first} == {tuple, list, str}


# Journal and process


def test_double_calls_are_both_executed_and_differ(simulator, key):
    first, second = ask(simulator.client(), key), ask(simulator.client(), key)

    assert simulator.events(key).count("executed") == 2
    assert first.id != second.id
    assert first.output_text != second.output_text


def test_the_sdk_sends_no_idempotency_key_by_itself(start):
    running = start()
    running.client().responses.create(model="gpt-4o", input=PROMPT)

    assert {entry.idempotency_key for entry in read_journal(running.journal_path)} == {None}


def test_the_executed_entry_holds_the_usage_that_was_answered(simulator, key):
    response = ask(simulator.client(), key)
    received, executed, answered = simulator.journal(key)

    assert executed.usage == response.usage.to_dict()
    assert (received.status, executed.status, answered.status) == (None, None, 200)
    assert received.seq < executed.seq < answered.seq
    assert {entry.endpoint for entry in (received, executed, answered)} == {"responses"}
    assert {entry.model for entry in (received, executed, answered)} == {"gpt-4o-mini"}


def test_the_journal_is_served_by_key_and_event(simulator, key):
    ask(simulator.client(), key)
    _, served = simulator.http("GET", f"/simulator/journal?key={key}&event=executed")

    assert [(entry["event"], entry["idempotency_key"]) for entry in served["entries"]] == [("executed", key)]


def test_health_names_the_process(simulator):
    assert simulator.http("GET", "/simulator/health") == (
        200,
        {"status": "ok", "pid": simulator.process.pid, "seed": 1},
    )
    assert simulator.ready["pid"] == simulator.process.pid


def test_the_journal_and_the_turns_of_keys_resume_after_a_restart(start, key):
    prompt = "Hi [[simulate: rate_limit x2]]"
    before = start()
    ended = outcomes(before.client(), key, prompt, 1)
    before.stop()
    with before.journal_path.open("ab") as journal:
        journal.write(b'{"seq": 99, "torn')
    after = start()
    ended += outcomes(after.client(), key, prompt, 2)

    assert ended == ["rate_limit_exceeded", "rate_limit_exceeded", "completed"]
    assert [entry.seq for entry in read_journal(after.journal_path)] == list(range(1, 8))


def test_a_torn_last_line_is_left_out_and_a_broken_one_is_an_error(tmp_path):
    path = tmp_path / "journal.jsonl"
    assert read_journal(path) == []

    journal = Journal(path)
    journal.write("received", idempotency_key=None, request_id="req_1", endpoint="responses")
    journal.close()
    with path.open("ab") as file:
        file.write(b'{"seq": 2, "at"')
    assert [entry.request_id for entry in read_journal(path)] == ["req_1"]

    with path.open("ab") as file:
        file.write(b"\n")
    with pytest.raises(ValueError, match="delimiter"):
        read_journal(path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_cleanly_while_requests_hang_and_wait(start, key, number):
    running = start("--hang", "300")
    prompts = ["[[simulate: hang_before_accept]]", "[[simulate: hang_after_accept]]", "[[simulate: latency 300]]"]
    failed: list[type] = []

    def send(prompt: str) -> None:
        try:
            ask(running.client(timeout=60), key, prompt)
        except openai.APIConnectionError as error:
            failed.append(type(error))

    threads = [threading.Thread(target=send, args=(prompt,)) for prompt in prompts]
    for thread in threads:
        thread.start()
    wait_until(lambda: sorted(running.events(key)) == ["executed", "received", "received", "received"])
    os.kill(running.process.pid, number)

    assert running.process.wait(10) == 0
    for thread in threads:
        thread.join(10)
    assert failed == [DROPPED] * 3
    assert running.events(key).count("dropped") == 3
    assert running.events(key).count("executed") == 1
    assert "Traceback" not in running.stderr_path.read_text()


def test_a_taken_port_is_one_clear_sentence(simulator, tmp_path):
    port = simulator.root.rpartition(":")[2]
    command = [sys.executable, "-m", "workers.simulator", "--port", port, "--journal", str(tmp_path / "j")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode == 1
    assert ended.stderr.startswith(f"Error: Cannot serve 127.0.0.1:{port}: ")
    assert "Traceback" not in ended.stderr


def test_no_request_left_a_traceback(simulator):
    assert "Traceback" not in simulator.stderr_path.read_text()
