"""What the OpenAI adapter sends over the real SDK: exactly the claim's params, once, with the job's key."""

from __future__ import annotations

import json

import httpx2
import pytest

from billing.jobs.calling import Refusal
from billing.jobs.policy import Failure
from config.providers import Connection
from tasks.providers import openai_requests
from tasks.providers.openai import CLIENTS_KEPT, OpenAIProvider
from tests.unit.providers.openai_wire import (
    ANSWERS,
    EMBEDDING_PARAMS,
    IMAGE_PARAMS,
    KEY,
    PROMPT,
    URL,
    Wire,
    a_claim,
    a_completion,
    a_response,
    answering,
    breaking,
    some_images,
)


def test_a_response_is_asked_for_with_exactly_the_claims_params():
    wire = Wire(answering(a_response()))

    wire.call("responses")

    (request,) = wire.requests
    assert (request.method, str(request.url)) == ("POST", f"{URL}/responses")
    assert json.loads(request.content) == {
        "model": "gpt-test",
        "input": PROMPT,
        "instructions": "Be brief.",
        "max_output_tokens": 500,
        "temperature": 0.5,
        "text": {"format": {"type": "json_object"}},
        "store": False,
    }


def test_a_completion_is_asked_for_with_exactly_the_claims_params():
    wire = Wire(answering(a_completion()))

    wire.call("chat_completions")

    (request,) = wire.requests
    assert (request.method, str(request.url)) == ("POST", f"{URL}/chat/completions")
    assert json.loads(request.content) == {
        "model": "gpt-test",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROMPT}],
        "max_completion_tokens": 500,
        "temperature": 0.5,
        "response_format": {"type": "json_object"},
    }


def test_images_are_asked_for_with_exactly_the_claims_params():
    wire = Wire(answering(some_images(4)))

    wire.call("images")

    (request,) = wire.requests
    assert (request.method, str(request.url)) == ("POST", f"{URL}/images/generations")
    assert json.loads(request.content) == {"model": "gpt-test", **IMAGE_PARAMS}


@pytest.mark.parametrize(
    ("api", "field", "before"),
    [("responses", "input", []), ("chat_completions", "messages", [{"role": "system", "content": "Be brief."}])],
)
def test_a_conversation_is_sent_turn_by_turn(api, field, before):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    wire = Wire(answering(ANSWERS[api]()))

    wire.call(api, messages=turns, system="Be brief.")

    assert json.loads(wire.requests[0].content)[field] == before + turns


@pytest.mark.parametrize(
    ("api", "sent"),
    [
        ("responses", {"model", "input", "max_output_tokens", "store"}),
        ("chat_completions", {"model", "messages", "max_completion_tokens"}),
        ("images", {"model", "prompt", "n"}),
    ],
)
def test_what_was_not_asked_for_is_not_sent(api, sent):
    wire = Wire(answering(ANSWERS[api]()))

    wire.call(api, prompt=PROMPT)

    assert set(json.loads(wire.requests[0].content)) == sent


def test_embeddings_are_asked_for_in_no_format_that_the_job_does_not_name():
    plain = openai_requests.embeddings(a_claim("embeddings"))
    named = openai_requests.embeddings(a_claim("embeddings", **EMBEDDING_PARAMS, encoding_format="float"))

    assert plain == {"model": "gpt-test", **EMBEDDING_PARAMS}
    assert named == {**plain, "encoding_format": "float"}


def test_images_are_asked_for_in_the_format_that_the_job_names():
    wire = Wire(answering(some_images(4)))

    wire.call("images", **IMAGE_PARAMS, response_format="b64_json")

    assert json.loads(wire.requests[0].content)["response_format"] == "b64_json"


def test_an_api_without_an_adapter_is_refused_before_anything_is_sent():
    wire = Wire(answering(a_response()))

    assert wire.refused("audio") == Refusal(Failure.NOT_CONFIGURED, provider_code="no_adapter")
    assert wire.requests == []


@pytest.mark.parametrize("api", ANSWERS)
def test_every_call_carries_the_jobs_idempotency_key_and_the_connections_key(api):
    wire = Wire(answering(ANSWERS[api]()))

    wire.call(api)

    (request,) = wire.requests
    assert request.headers.get_list("idempotency-key") == ["creditmill-1"]
    assert request.headers.get_list("authorization") == [f"Bearer {KEY}"]


@pytest.mark.parametrize("api", ANSWERS)
def test_a_call_waits_no_longer_than_it_is_told_and_five_seconds_for_a_connection(api):
    wire = Wire(answering(ANSWERS[api]()))

    wire.call(api)

    assert wire.requests[0].extensions["timeout"] == {"connect": 5.0, "read": 30, "write": 30, "pool": 30}


@pytest.mark.parametrize("api", ANSWERS)
@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_the_sdk_makes_one_request_and_no_retry(api, status):
    # "x-should-retry" asks the SDK itself for another try, whatever the status.
    wire = Wire(answering({"error": {}}, status, **{"retry-after": "0", "x-should-retry": "true"}))

    wire.refused(api)

    assert len(wire.requests) == 1


@pytest.mark.parametrize("error", [httpx2.ConnectError("x"), httpx2.ReadTimeout("x"), httpx2.ReadError("x")])
def test_the_sdk_tries_a_broken_connection_once(error):
    wire = Wire(breaking(error))

    wire.refused()

    assert len(wire.requests) == 1


def test_no_environment_decides_where_keys_are_sent(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "https://elsewhere.example/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-somebody-else")
    wire = Wire(answering(a_response()), base_url=None)

    wire.call()

    assert str(wire.requests[0].url) == "https://api.openai.com/v1/responses"
    assert wire.requests[0].headers["authorization"] == f"Bearer {KEY}"


def test_a_client_is_made_once_for_each_key_and_address():
    provider = OpenAIProvider()
    one, other = Connection("openai", KEY, URL), Connection("openai", KEY, None)

    assert provider._client(one) is provider._client(Connection("openai", KEY, URL))
    assert provider._client(one) is not provider._client(other)
    assert provider._client(one) is not provider._client(Connection("openai", "sk-another", URL))


def test_only_so_many_clients_are_kept():
    provider = OpenAIProvider()
    first = provider._client(Connection("openai", "sk-key-0", URL))
    for number in range(1, CLIENTS_KEPT + 1):
        provider._client(Connection("openai", f"sk-key-{number}", URL))

    assert len(provider._clients) == CLIENTS_KEPT
    assert first is not provider._client(Connection("openai", "sk-key-0", URL))
