"""The simulator through OpenAI's own SDK: what it answers, and what it refuses."""

import hashlib
import json
import math
import urllib.error
import urllib.request

import openai
import pytest

from tests.integration.simulator.running import PROMPT, ask, keyed, tokens

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
        model="dall-e-2", prompt=PROMPT, n=3, size="512x512", quality="standard", extra_headers=keyed(key)
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
        ("dall-e-2", {"n": 11}, 400),
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
