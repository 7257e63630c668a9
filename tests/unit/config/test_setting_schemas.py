"""What may be saved as a setting, and what is refused or stripped: bad input of every kind, and smuggled keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.tiers import schemas
from config.tiers.keylike import is_named_like_a_key, is_shaped_like_a_key
from config.tiers.merging import Tier
from config.tiers.naming import NAMES
from config.tiers.schemas import SETTINGS_SCHEMAS, SettingRefused

KEY = "sk-live-Zq9pLm3xT7vB1nK5"
OTHER_KEYS = ["AIzaSyA1234567890abcdefghijklmnopqrstuv", "Bearer abc.def", "rQ2vX9mL4kP7wT1yB6nC3zH8jD5fG0sA"]
VALID = {
    "default_text_provider": "anthropic",
    "default_image_service": "runware",
    "image_quality": "hd",
    "image_style": "illustration",
    "max_in_article_images": 4,
    "model": "gpt-4o",
    "temperature": 0.5,
    "max_tokens": 4096,
    "size": "1024x1024",
}


def refusal(act, *arguments):
    with pytest.raises(SettingRefused) as refused:
        act(*arguments)
    told = refused.value.message
    assert told.endswith((".", "?"))
    assert KEY not in told
    return refused.value.code, told


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_has_a_shape_and_takes_what_fits_it(name):
    value = VALID[name.rpartition(".")[2]]

    assert schemas.read(name, value) == schemas.read_text(name, str(value)) == value
    assert name in SETTINGS_SCHEMAS


@pytest.mark.parametrize("tier", list(Tier))
@pytest.mark.parametrize(
    ("name", "code", "told"),
    [
        ("openai.temprature",     "unknown_setting", "There is no such setting. Did you mean openai.temperature?"),
        ("OpenAI.Temperature",    "unknown_setting", "There is no such setting. Did you mean openai.temperature?"),
        ("default_text_provder",  "unknown_setting", "There is no such setting. Did you mean default_text_provider?"),
        ("",                      "unknown_setting", "Known: default_text_provider, "),
        ("x" * 100_000,           "unknown_setting", "Known: default_text_provider, "),
        ("openai",                "unknown_setting", "There is no such setting."),
        ("openai_api_key",        "key_refused",     "API keys are the platform's only"),
        ("apiKey",                "key_refused",     "API keys are the platform's only"),
        ("API-KEY",               "key_refused",     "API keys are the platform's only"),
        ("openai.api key",        "key_refused",     "API keys are the platform's only"),
        ("\u0430p\u0456K\u0435y", "key_refused",     "API keys are the platform's only"),
        ("ａｐｉ＿ｋｅｙ",         "key_refused",     "API keys are the platform's only"),
        ("a\u200bp\u200bi_k\u00e9y", "key_refused",  "API keys are the platform's only"),
        ("k3y",                   "key_refused",     "API keys are the platform's only"),
        (KEY,                     "key_refused",     "API keys are the platform's only"),
    ],
)  # fmt: skip
def test_a_name_that_no_setting_has_is_refused(tier, name, code, told):
    found, sentence = refusal(schemas.check_name, name, tier)

    assert found == code
    assert told in sentence


def test_a_user_does_not_raise_the_bound_that_binds_users():
    assert refusal(schemas.check_name, "max_in_article_images", Tier.USER)[0] == "setting_not_yours"
    schemas.check_name("max_in_article_images", Tier.ACCOUNT)


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("openai.temperature",    "0.5",           "invalid_value"),
        ("openai.temperature",    True,            "invalid_value"),
        ("openai.temperature",    -0.1,            "invalid_value"),
        ("openai.temperature",    2.1,             "invalid_value"),
        ("openai.temperature",    float("nan"),    "invalid_value"),
        ("openai.temperature",    float("inf"),    "invalid_value"),
        ("openai.temperature",    [0.5],           "invalid_value"),
        ("openai.max_tokens",     15,              "invalid_value"),
        ("openai.max_tokens",     4096.5,          "invalid_value"),
        ("openai.max_tokens",     10**30,          "invalid_value"),
        ("dalle.size",            "big",           "invalid_value"),
        ("dalle.size",            "1024x1024\n",   "invalid_value"),
        ("image_style",           "a b",           "invalid_value"),
        ("image_style",           "\ud800",        "invalid_value"),
        ("default_text_provider", "runware",       "invalid_value"),
        ("default_image_service", "acme",          "invalid_value"),
        ("max_in_article_images", 0,               "invalid_value"),
        ("max_in_article_images", 1001,            "invalid_value"),
        ("openai.model",          "a b",           "invalid_value"),
        ("openai.model",          b"gpt",          "invalid_value"),
        ("openai.model",          {"a": {"b": 1}}, "invalid_value"),
        ("openai.model",          None,            "empty_value"),
        ("openai.model",          "",              "empty_value"),
        ("openai.model",          "  ",            "empty_value"),
        ("openai.model",          [],              "empty_value"),
        ("openai.model",          {},              "empty_value"),
        ("openai.model",          KEY,             "key_refused"),
        ("image_style",           OTHER_KEYS[0],   "key_refused"),
        ("openai.model",          "x" * 10_000_000, "value_too_large"),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_refused(name, value, code):
    assert refusal(schemas.read, name, value)[0] == code


def test_what_is_nested_beyond_all_measure_is_refused():
    deep = []
    for _ in range(100_000):
        deep = [deep]

    assert refusal(schemas.read, "openai.model", deep)[0] == "invalid_value"
    assert refusal(schemas.read_config, "openai", {"temperature": deep})[0] == "invalid_value"


@pytest.mark.parametrize(
    ("text", "code"),
    [("warm", "invalid_value"), ("0,5", "invalid_value"), ("", "empty_value"), (" ", "empty_value"),
     ("9" * 10_000_000, "value_too_large"), (KEY, "key_refused"), ("nan", "invalid_value")],
)  # fmt: skip
def test_what_is_typed_is_checked_as_well(text, code):
    assert refusal(schemas.read_text, "openai.temperature", text)[0] == code


SMUGGLED = [
    {"openai_api_key": KEY},
    {"apiKey": "x"},
    {"API-KEY": "x"},
    {"api_key ": "x"},
    {"Secret": "x"},
    {"password": 1},
    {"authorization": "Basic x"},
    {"accessToken": "x"},
    {"\u0430\u0440\u0456_k\u0435y": "x"},
    {"apı_key": "x"},
    {"a": {"b": [{"apiKey": KEY}]}},
    {"keys": [KEY, KEY]},
    {"notes": KEY},
    {"list": [KEY]},
    {KEY: 1},
    {"note": f"my key is {KEY}"},
    *({"model": key} for key in [KEY, *OTHER_KEYS]),
]


@pytest.mark.parametrize("smuggled", SMUGGLED, ids=range(len(SMUGGLED)))
def test_a_smuggled_key_is_stripped_and_what_stands_beside_it_is_kept(smuggled):
    kept, stripped = schemas.read_config("openai", smuggled | {"temperature": 0.5})

    assert kept == {"openai.temperature": 0.5}
    assert stripped >= 1
    assert refusal(schemas.read_config, "openai", smuggled)[0] == "empty_value"


@pytest.mark.parametrize(
    ("integration", "config", "code"),
    [
        ("openai",  {"tempertaure": 0.5},                 "unknown_setting"),
        ("openai",  {"max_token": 100},                   "unknown_setting"),
        ("openai",  {"size": "1024x1024"},                "unknown_setting"),
        ("openai",  {"base_url": "https://example.com"},  "unknown_setting"),
        ("openai",  {"temperature": None},                "empty_value"),
        ("openai",  {},                                   "empty_value"),
        ("openai",  [],                                   "invalid_value"),
        ("openai",  "temperature",                        "invalid_value"),
        ("openai",  {"temperature": 0.5, "max_tokens": 1}, "invalid_value"),
        ("opnai",   {"temperature": 0.5},                 "unknown_integration"),
        ("openai",  {"model": "x" * 10_000_000},          "value_too_large"),
        ("openai",  {"apiKey": "x" * 10_000_000},         "value_too_large"),
    ],
)  # fmt: skip
def test_a_config_that_does_not_fit_is_refused_as_a_whole(integration, config, code):
    assert refusal(schemas.read_config, integration, config)[0] == code


@given(st.text(alphabet="abcdefghijlmnoqtuvwxyz0123456789-._:@/", min_size=1, max_size=40))
def test_no_name_of_a_model_in_small_letters_is_taken_for_a_key(name):
    assert not is_shaped_like_a_key(name)


@pytest.mark.parametrize(
    "name", ["ft:gpt-4o-mini:my-org:custom-suffix:7p4lURel", "claude-sonnet-4-5-20250929", "google:4@2"]
)
def test_the_name_of_a_model_is_no_key(name):
    assert not is_shaped_like_a_key(name)


@pytest.mark.parametrize("name", ["style", "monotone", "image_quality", "sort_order", "author", "max_images"])
def test_a_plain_name_is_no_name_of_a_key(name):
    assert not is_named_like_a_key(name)
