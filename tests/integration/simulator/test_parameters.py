"""What the simulated OpenAI refuses as the real one does, and that a model set up as we say is asked for none of it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import openai
import pytest

from billing.catalog import changing
from billing.jobs import calling, settling
from config.database import transaction
from config.providers import Connection
from tasks.providers.openai import OpenAIProvider
from tests.catalogue import TOKEN_IMAGE, change
from tests.factories import MINUTE, NOON, a_claim, a_reserved_job, an_account, rows, the_job
from tests.integration.simulator.running import PROMPT, keyed

HOW_TO = Path(__file__).parents[3] / "docs" / "how-to" / "change-prices.md"


def asked(simulator, key, path, **body):
    """Ask past the SDK, which would not send all of this."""
    return simulator.client().post(path, body=body, cast_to=object, options={"headers": keyed(key)})


@pytest.mark.parametrize(
    ("model", "given", "code"),
    [
        ("gpt-image-1", {"quality": "standard"}, "invalid_value"),
        ("gpt-image-1.5", {"quality": "hd"}, "invalid_value"),
        ("gpt-image-1", {"style": "vivid"}, "unknown_parameter"),
        ("gpt-image-1", {"response_format": "b64_json"}, "unknown_parameter"),
        ("gpt-image-1-mini", {"size": "1792x1024"}, "invalid_value"),
        ("gpt-image-2", {"style": "natural"}, "unknown_parameter"),
        ("dall-e-2", {"quality": "hd"}, "invalid_value"),
        ("dall-e-2", {"style": "vivid"}, "unknown_parameter"),
        ("dall-e-3", {"quality": "low"}, "invalid_value"),
        ("dall-e-3", {"size": "512x512"}, "invalid_value"),
        ("dall-e-3", {"encoding_format": "float"}, "unknown_parameter"),
        ("dall-e-3", {"n": 2}, "integer_above_max_value"),
    ],
)
def test_an_image_parameter_that_the_model_does_not_take_is_refused_by_name(simulator, key, model, given, code):
    with pytest.raises(openai.BadRequestError) as error:
        asked(simulator, key, "/images/generations", model=model, prompt=PROMPT, **given)

    assert (error.value.code, error.value.param) == (code, next(iter(given)))
    assert simulator.events(key) == ["received", "answered"]


@pytest.mark.parametrize("model", ["o3", "o4-mini", "gpt-5", "gpt-5-mini"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/responses", {"input": PROMPT}),
        ("/chat/completions", {"messages": [{"role": "user", "content": PROMPT}]}),
    ],
)
def test_a_model_that_always_reasons_takes_no_temperature(simulator, key, model, path, body):
    with pytest.raises(openai.BadRequestError) as error:
        asked(simulator, key, path, model=model, temperature=0.5, **body)

    assert (error.value.code, error.value.param) == ("unsupported_parameter", "temperature")
    assert asked(simulator, key, path, model="gpt-5.1", temperature=0.5, **body)
    assert asked(simulator, key, path, model=model, **body)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/responses", {"input": PROMPT}),
        ("/chat/completions", {"messages": [{"role": "user", "content": PROMPT}]}),
        ("/images/generations", {"prompt": PROMPT}),
        ("/embeddings", {"input": PROMPT}),
    ],
)
def test_a_parameter_that_nobody_knows_is_refused(simulator, key, path, body):
    with pytest.raises(openai.BadRequestError) as error:
        asked(simulator, key, path, model="gpt-4o", colour="red", **body)

    assert (error.value.code, error.value.param) == ("unknown_parameter", "colour")


def delivered(simulator, model: str, **params):
    """Submit, call over real HTTP and settle; returns the job."""
    job_id = a_reserved_job(an_account(), "image_generation", model=model, params={"prompt": PROMPT, **params})
    claim = a_claim(job_id)
    delivery = OpenAIProvider().call(claim, Connection("openai", "sim-test", simulator.url), timeout_s=20)
    with transaction() as session:
        assert calling.succeed(session, claim, delivery, now=NOON, publish_by=MINUTE)
        assert settling.settle(session, [job_id], now=NOON) == [job_id]
    return the_job(job_id)


def added_by_the_how_to(model: str) -> None:
    """Add the model by the very command that the page shows."""
    (command,) = re.findall(rf"^creditmill models add ({model} .*?[^\\])$", HOW_TO.read_text(), re.M | re.S)
    name, *fields = shlex.split(command.replace("\\\n", " "))
    with transaction() as session:
        changing.add_model(session, name, dict(field.split("=", 1) for field in fields))


@pytest.mark.usefixtures("db")
@pytest.mark.parametrize("given", [{}, {"quality": "low"}, {"quality": "high", "n": 2}])
def test_gpt_image_1_added_as_the_how_to_says_makes_images(simulator, given):
    added_by_the_how_to("gpt-image-1")

    job = delivered(simulator, "gpt-image-1", **given)

    assert (job.state, job.error_code) == ("settled", None)
    ((images,),) = rows(
        "SELECT jsonb_array_length(content -> 'images') FROM generation_results WHERE job_id = :id", id=job.id
    )
    assert images == given.get("n", 1)


@pytest.mark.usefixtures("db")
def test_a_model_whose_row_names_no_parameter_makes_images_by_its_own_defaults(simulator):
    change("add_model", "gpt-image-1-mini", **TOKEN_IMAGE)

    assert delivered(simulator, "gpt-image-1-mini").state == "settled"


@pytest.mark.usefixtures("db")
@pytest.mark.parametrize("given", [{}, {"quality": "hd", "style": "natural", "size": "1792x1024"}])
def test_dall_e_3_gets_what_it_takes(simulator, given):
    assert delivered(simulator, "dall-e-3", **given).state == "settled"
