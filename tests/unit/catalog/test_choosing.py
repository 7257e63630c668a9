"""Which model a request without one takes, by the settings that hold: cases over a small catalogue."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal
from types import SimpleNamespace

import pytest

from billing.catalog import choosing
from billing.catalog.choosing import BY_MODEL, Choice, Filled
from billing.catalog.pricing import ImagePrice
from billing.catalog.snapshot import Catalog, Model
from config.tiers.merging import Setting, Tier

TODAY = date(2026, 11, 20)
RATES = SimpleNamespace()


def a_model(name, provider="openai", kind="text", **given):
    facts = dict.fromkeys(Model.__dataclass_fields__)
    facts |= {"model_name": name, "model_type": kind, "provider": provider, "is_active": True, "is_default": False}
    facts |= {"rates": RATES if kind == "text" else None, "valid_sizes": (), "valid_qualities": (), "valid_styles": ()}
    return Model(**facts | given)


MODELS = (
    a_model("gpt-5", is_default=True, max_output_tokens=1000, supports_temperature=True),
    a_model("gpt-4"),
    a_model("gpt-off", is_active=False),
    a_model("gpt-gone", deprecation_date=TODAY),
    a_model("claude-off", "anthropic", is_active=False),
    a_model("claude-a", "anthropic"),
    a_model("claude-b", "anthropic"),
    a_model("gemini-off", "google", is_active=False),
    a_model("dall-e", kind="image", is_default=True, valid_sizes=("256x256", "512x512"), valid_qualities=("low", "hd")),
    a_model("hi", "runware", kind="image"),
    a_model("unpriced", "runware", kind="image"),
)


def a_catalog(*models):
    facts = dict.fromkeys(Catalog.__dataclass_fields__)
    prices = {(name, "*", "*"): ImagePrice("*", "*", cost_usd=Decimal(1), credits=1) for name in ("dall-e", "hi")}
    return Catalog(**facts | {"models": {each.model_name: each for each in models}, "image_prices": prices})


CATALOG = a_catalog(*MODELS)


def settings(**of):
    """Settings by name: `account="..."` is what an account has set."""
    return {
        name.replace("__", "."): Setting(value, Tier(tier))
        for tier, named in of.items()
        for name, value in named.items()
    }


@pytest.mark.parametrize(
    ("kind", "given", "name", "tier"),
    [
        ("text",  {},                                                            "gpt-5",    "platform"),
        ("text",  {"platform": {"default_text_provider": "anthropic"}},          "gpt-5",    "platform"),
        ("text",  {"account": {"default_text_provider": "anthropic"}},           "claude-a", "account"),
        ("text",  {"user": {"default_text_provider": "anthropic"}},              "claude-a", "user"),
        ("text",  {"account": {"default_text_provider": "openai"}},              "gpt-5",    "platform"),
        ("text",  {"account": {"default_text_provider": "google"}},              "gpt-5",    "platform"),
        ("text",  {"account": {"openai__model": "gpt-4"}},                       "gpt-4",    "account"),
        ("text",  {"account": {"openai__model": "gpt-off"}},                     "gpt-5",    "platform"),
        ("text",  {"account": {"openai__model": "gpt-gone"}},                    "gpt-5",    "platform"),
        ("text",  {"account": {"openai__model": "claude-b"}},                    "gpt-5",    "platform"),
        ("text",  {"account": {"openai__model": "no-more"}},                     "gpt-5",    "platform"),
        ("text",  {"account": {"anthropic__model": "claude-b"}},                 "gpt-5",    "platform"),
        ("text",  {"account": {"default_text_provider": "anthropic", "anthropic__model": "claude-b"}},
                                                                                 "claude-b", "account"),
        ("text",  {"account": {"default_text_provider": "anthropic"}, "user": {"anthropic__model": "claude-b"}},
                                                                                 "claude-b", "user"),
        ("text",  {"account": {"default_text_provider": "anthropic", "anthropic__model": "claude-off"}},
                                                                                 "claude-a", "account"),
        ("image", {"account": {"default_image_service": "runware"}},             "hi",       "account"),
        ("image", {"account": {"default_image_service": "runware", "runware__model": "unpriced"}}, "hi", "account"),
        ("image", {"account": {"default_text_provider": "anthropic"}},           "dall-e",   "platform"),
    ],
)  # fmt: skip
def test_the_model_of_a_request_that_names_none(kind, given, name, tier):
    found = choosing.choose_model(CATALOG, kind, settings(**given), today=TODAY)

    assert found == Choice(CATALOG.models[name], Tier(tier))


@pytest.mark.parametrize(("kind", "given"), [("embedding", {}), ("text", {"platform": {"default_text_provider": "x"}})])
def test_without_a_default_model_there_is_none(kind, given):
    catalog = a_catalog(*(replace(each, is_default=False) for each in MODELS))

    assert choosing.choose_model(catalog, kind, settings(**given), today=TODAY).model is None


def test_an_account_has_a_model_of_its_own_choice_even_where_the_platform_has_none():
    catalog = a_catalog(*(replace(each, is_default=False) for each in MODELS))
    given = settings(account={"default_text_provider": "anthropic"})

    assert choosing.choose_model(catalog, "text", given, today=TODAY).model.model_name == "claude-a"


DALLE, GPT, CLAUDE = (CATALOG.models[name] for name in ("dall-e", "gpt-5", "claude-a"))


@pytest.mark.parametrize(
    ("of", "model", "given", "found"),
    [
        ("image_size",        DALLE,  {},                                  ("256x256", BY_MODEL)),
        ("image_size",        DALLE,  {"user": {"dalle__size": "512x512"}}, ("512x512", "user")),
        ("image_size",        DALLE,  {"user": {"dalle__size": "9x9"}},    ("256x256", BY_MODEL)),
        ("image_size",        DALLE,  {"user": {"runware__size": "512x512"}}, ("256x256", BY_MODEL)),
        ("image_quality",     DALLE,  {"platform": {"image_quality": "hd"}}, ("hd", "platform")),
        ("image_quality",     DALLE,  {"platform": {"image_quality": "best"}}, ("low", BY_MODEL)),
        ("image_quality",     GPT,    {"platform": {"image_quality": "hd"}}, None),
        ("max_output_tokens", GPT,    {"platform": {"openai__max_tokens": 999}}, (999, "platform")),
        ("max_output_tokens", GPT,    {"account": {"openai__max_tokens": 1001}}, (1000, BY_MODEL)),
        ("max_output_tokens", GPT,    {"account": {"google__max_tokens": 9}}, (1000, BY_MODEL)),
        ("temperature",       GPT,    {"account": {"openai__temperature": 0}}, (0, "account")),
        ("temperature",       CLAUDE, {"account": {"anthropic__temperature": 1}}, None),
    ],
)  # fmt: skip
def test_what_a_parameter_is_filled_in_with(of, model, given, found):
    assert getattr(choosing, of)(model, settings(**given)) == (found and Filled(*found))


def test_a_style_of_none_asks_for_no_style():
    assert choosing.image_style(settings(platform={"image_style": "noir"})) == Filled("noir", Tier.PLATFORM)
    assert choosing.image_style(settings(account={"image_style": "none"})) is None
