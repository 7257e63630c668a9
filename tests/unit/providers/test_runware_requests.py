"""What the Runware adapter sends: one task with exactly the claim's params, under the attempt's own id."""

from __future__ import annotations

import json
from dataclasses import replace
from uuid import UUID

import pytest

from billing.jobs.calling import Attempt, Refusal
from billing.jobs.policy import Failure
from billing.migrations.first import seeds
from tasks.providers.runware import RunwareProvider, task_id
from tests.unit.providers.runware_wire import (
    CLAIM,
    JOB,
    KEY,
    OTHER,
    PARAMS,
    PROMPT,
    TASK,
    URL,
    Wire,
    answering,
    some_images,
)
from workers import bootstrap


def test_one_task_is_sent_with_exactly_the_claims_params():
    wire = Wire(answering(some_images()))

    wire.call()

    (request,) = wire.requests
    assert (request.method, str(request.url)) == ("POST", URL)
    assert json.loads(request.content) == [
        {
            "taskType": "imageInference",
            "taskUUID": TASK,
            "model": "runware:97@1",
            "positivePrompt": PROMPT,
            "width": 832,
            "height": 1248,
            "numberResults": 4,
            "outputType": "URL",
            "includeCost": True,
            "deliveryMethod": "sync",
        }
    ]


def test_a_call_carries_the_connections_key_and_the_jobs_own():
    wire = Wire(answering(some_images()))

    wire.call()

    (request,) = wire.requests
    assert request.headers.get_list("authorization") == [f"Bearer {KEY}"]
    assert request.headers.get_list("idempotency-key") == [f"creditmill-{JOB}"]
    assert request.extensions["timeout"] == {"connect": 5.0, "read": 30, "write": 30, "pool": 30}


def test_without_an_address_runware_itself_is_called():
    wire = Wire(answering(some_images()), base_url=None)

    wire.call()

    assert str(wire.requests[0].url) == "https://api.runware.ai/v1"


@pytest.mark.parametrize("prompt", ["é 😀", '"\\\n\x01', "a" * 100_000], ids=["other letters", "escapes", "long"])
def test_any_prompt_can_be_sent(prompt):
    wire = Wire(answering(some_images()))

    wire.call(replace(CLAIM, params={**PARAMS, "prompt": prompt}))

    assert json.loads(wire.requests[0].content)[0]["positivePrompt"] == prompt


def test_a_tasks_id_is_a_uuid_v4_that_follows_from_the_attempt_alone():
    one = task_id(Attempt(JOB, 1))

    assert (one.version, one.variant) == (4, UUID(TASK).variant)
    assert one == task_id(replace(CLAIM, attempt=1, model_name="google:4@2", call_id=99))
    assert len({one, task_id(Attempt(JOB, 2)), task_id(Attempt(UUID(OTHER), 1))}) == 3


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"api": "responses"}, "no_adapter"),
        ({"bills_tokens": True}, "no_token_usage"),
        ({"params": {"prompt": PROMPT}}, "no_size"),
    ],
)
def test_what_could_not_be_asked_or_charged_is_refused_before_anything_is_sent(changed, code):
    wire = Wire(answering(some_images()))

    assert wire.refused(replace(CLAIM, **changed)) == Refusal(Failure.NOT_CONFIGURED, provider_code=code)
    assert wire.requests == []


@pytest.mark.parametrize("model", [each for each in seeds.IMAGE_MODELS if each["provider"] == "runware"])
def test_every_size_of_the_catalogues_models_makes_a_valid_task(model):
    wire = Wire(answering(some_images(1)))

    assert model["api"] == "images"
    for size in model["valid_sizes"]:
        params = {"prompt": PROMPT, "n": model["max_images"], "size": size, "quality": "standard"}
        wire.call(replace(CLAIM, model_name=model["model_name"], params=params))

    tasks = [json.loads(request.content)[0] for request in wire.requests]
    assert [f"{task['width']}x{task['height']}" for task in tasks] == model["valid_sizes"]
    assert {task["model"] for task in tasks} == {model["model_name"]}
    # https://runware.ai/docs/image-inference/api-reference: 1 to 20 images, of 128 to 2048 pixels a side.
    assert all(1 <= task["numberResults"] <= 20 for task in tasks)
    assert all(128 <= task[side] <= 2_048 for task in tasks for side in ("width", "height"))


def test_the_worker_can_call_runware():
    assert isinstance(bootstrap.all_providers()["runware"], RunwareProvider)


def test_one_client_serves_every_call():
    provider = RunwareProvider()

    assert provider._client() is provider._client()


def test_a_key_does_not_follow_a_redirect():
    assert RunwareProvider()._client().follow_redirects is False
