"""A model gets only the parameters that its row says it takes; an image whose quality is not named has a price, too."""

from __future__ import annotations

import pytest

from billing.errors import BillingError
from tests.catalogue import EMBEDDING, TOKEN_IMAGE, change, sql
from tests.factories import a_queued_job, a_reserved_job, an_account, rows, the_job

pytestmark = pytest.mark.usefixtures("db")

BY_IMAGE = {"model_type": "image", "provider": "openai", "valid_sizes": "1024x1024"}


def an_image(model: str, **params):
    return a_queued_job(an_account(), "image_generation", model=model, params={"prompt": "A fox.", **params})


def refused(model: str, **params) -> BillingError:
    with pytest.raises(BillingError) as caught:
        an_image(model, **params)
    assert rows("SELECT count(*) FROM generation_jobs") == [(0,)]
    return caught.value


TOLD = {"style_in_prompt": "photorealistic"}
"""What becomes of the platform's style where the model does not know it."""


@pytest.mark.parametrize(
    ("model", "params", "code", "message"),
    [
        ("dall-e-3", {"quality": "low"}, "invalid_quality", "dall-e-3 takes no quality low. Known: standard, hd."),
        ("strict", {"style": "noir"}, "invalid_style", "strict takes no style noir. Known: vivid, natural."),
        (
            "strict",
            {},
            "invalid_style",
            "strict takes no style photorealistic (image_style of the platform). Known: vivid, natural.",
        ),
        ("runware:97@1", {"quality": "standard"}, "invalid_quality", "runware:97@1 takes no quality."),
        (
            "gpt-image-1",
            {"quality": "standard"},
            "invalid_quality",
            "gpt-image-1 takes no quality standard. Known: auto, low, medium, high.",
        ),
        (
            "dall-e-3",
            {"response_format": "url"},
            "invalid_params",
            "response_format: there is no such field.",
        ),
    ],
)
def test_a_value_that_the_model_does_not_take_is_refused_with_those_that_it_takes(model, params, code, message):
    change("add_model", "gpt-image-1", **TOKEN_IMAGE, valid_qualities="auto,low,medium,high")
    change("add_model", "strict", **BY_IMAGE, valid_styles="vivid,natural", unknown_style="refuse")

    error = refused(model, **params)

    assert (error.code, error.message) == (code, message)


@pytest.mark.parametrize(
    ("model", "given", "kept"),
    [
        ("dall-e-3", {}, {"size": "1024x1024", "quality": "standard", **TOLD}),
        ("dall-e-3", {"quality": "hd"}, {"size": "1024x1024", "quality": "hd", **TOLD}),
        ("dall-e-3", {"style": "natural"}, {"size": "1024x1024", "quality": "standard", "style": "natural"}),
        ("runware:97@1", {}, {"size": "1024x1024", **TOLD}),
        ("runware:97@1", {"size": "832x1248"}, {"size": "832x1248", **TOLD}),
        # The platform's quality is not among its own, so it gets its first one.
        ("gpt-image-1", {}, {"size": "1024x1024", "quality": "auto", **TOLD}),
        ("gpt-image-1", {"quality": "low"}, {"size": "1024x1024", "quality": "low", **TOLD}),
        ("formatted", {}, {"size": "1024x1024", "response_format": "b64_json", **TOLD}),
    ],
)
def test_what_a_request_leaves_open_is_filled_in_with_what_the_model_takes(model, given, kept):
    change("add_model", "gpt-image-1", **TOKEN_IMAGE, valid_qualities="auto,low,medium,high")
    change("add_model", "formatted", **BY_IMAGE, response_format="b64_json")
    change("set_image_price", "formatted", "*", "*", cost_per_image_usd="0.04", credits_per_image="5")

    assert the_job(an_image(model, **given)).params == {"prompt": "A fox.", **given, **kept}


def test_the_platforms_quality_counts_before_the_models_first_one():
    change("add_model", "gpt-image-1", **TOKEN_IMAGE, valid_qualities="auto,low,medium,high")
    sql("UPDATE global_integration_settings SET image_quality = 'medium'")

    assert the_job(an_image("gpt-image-1")).params["quality"] == "medium"
    # One that it does not take is another model's.
    assert the_job(an_image("dall-e-3")).params["quality"] == "standard"


def test_a_later_change_of_the_model_leaves_a_job_as_it_was_submitted():
    change("add_model", "formatted", **BY_IMAGE, response_format="b64_json")
    change("set_image_price", "formatted", "*", "*", cost_per_image_usd="0.04", credits_per_image="5")
    job_id = an_image("formatted")

    change("set_model", "formatted", response_format="url")

    assert the_job(job_id).params["response_format"] == "b64_json"


@pytest.mark.parametrize(
    ("qualities", "priced", "given", "price"),
    [
        # No quality is sent: the price is that of the platform's quality, as before models named theirs.
        ("none", {"standard": "5", "*": "7"}, {}, (5, "standard")),
        ("none", {"*": "7"}, {}, (7, "standard")),
        ("none", {"hd": "9"}, {}, None),
        ("standard,hd", {"standard": "5", "hd": "9"}, {}, (5, "standard")),
        ("standard,hd", {"standard": "5", "hd": "9"}, {"quality": "hd"}, (9, "hd")),
        ("medium,high", {"medium": "5", "high": "9"}, {}, (5, "medium")),
        ("medium,high", {"high": "9"}, {}, None),
    ],
)
def test_an_image_has_the_price_of_the_quality_that_it_is_made_in(qualities, priced, given, price):
    change("add_model", "painter", **BY_IMAGE)
    for quality, credits in priced.items():
        change("set_image_price", "painter", "*", quality, cost_per_image_usd="0.04", credits_per_image=credits)
    change("set_model", "painter", valid_qualities=qualities)
    if price is None:
        assert refused("painter", **given).code == "price_not_configured"
        return

    job_id = a_reserved_job(an_account(), "image_generation", model="painter", params={"prompt": "A fox.", **given})

    image = the_job(job_id).price["image"]
    assert (image["credits"], image["quality"], the_job(job_id).credits_reserved) == (*price, price[0])


def test_an_embedding_names_the_format_that_its_model_takes_and_no_other():
    change("add_operation", "embedding", model_type="embedding")
    change("add_model", "text-embedding-3-small", **EMBEDDING)
    plain = a_queued_job(an_account(), "embedding", params={"input": ["rye"]})
    change("set_model", "text-embedding-3-small", encoding_format="float")
    named = a_queued_job(an_account(), "embedding", params={"input": ["rye"]})

    assert the_job(plain).params == {"input": ["rye"]}
    assert the_job(named).params == {"input": ["rye"], "encoding_format": "float"}
