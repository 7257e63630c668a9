"""Whatever an OpenAI server answers, the adapter delivers or says why not, in no words of the provider."""

from __future__ import annotations

import json
from decimal import Decimal
from functools import cache
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.catalog import pricing
from billing.catalog.pricing import Price
from billing.catalog.rates import TokenRates
from billing.money import Rounding
from tasks.providers.base import ProviderError
from tests.rounds import rounds
from tests.unit.providers.any_json import json_values
from tests.unit.providers.openai_wire import ANSWERS, Wire, answering, assert_no_words, some_images


@cache
def fuzzed() -> Wire:
    return Wire(answering({}), honours_keys=True)


def changed_somewhere(body: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """An answer with some of its values replaced by others."""
    return st.fixed_dictionaries({}, optional={name: json_values | st.just(body[name]) for name in body}).map(
        lambda changed: body | changed
    )


whole_answers = st.sampled_from(list(ANSWERS)).flatmap(lambda api: changed_somewhere(ANSWERS[api]()))
contents = st.binary() | (json_values | whole_answers).map(lambda body: json.dumps(body).encode())
statuses = st.sampled_from([200, 201, 204, 400, 401, 409, 429, 500, 503, 524])


@settings(deadline=None, max_examples=rounds(200))
@given(content=contents, status=statuses, api=st.sampled_from(list(ANSWERS)))
def test_whatever_is_answered_a_call_delivers_or_says_why_not(content, status, api):
    wire = fuzzed()
    headers = {"content-type": "application/json"}
    wire.handler = lambda request: httpx2.Response(status, content=content, headers=headers)

    try:
        delivery = wire.call(api)
    except ProviderError as error:
        assert_no_words(error)
        delivery = None

    assert wire.found_out(api) == delivery


# --- Readable content is never lost ---

NAMES = (
    *("prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens", "cached_tokens"),
    *("prompt_cache_hit_tokens", "cache_creation_input_tokens", "reasoning_tokens", "cost", "service_tier"),
)
DETAILS = ("cached_tokens", "reasoning_tokens", "cache_write_tokens", "image_tokens", "audio_tokens")
numbers = st.none() | st.integers(-5, 10_000) | st.floats() | st.text(max_size=6) | st.integers() | json_values
details = st.dictionaries(st.sampled_from(DETAILS), numbers) | json_values
usages = json_values | st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(NAMES, numbers),
        **{f"{side}_tokens_details": details for side in ("prompt", "completion", "input", "output")},
    },
)
CONTENTS = {
    "responses": {"text": "Bread."},
    "chat_completions": {"text": "Bread."},
    "images": {"images": some_images(4)["data"]},
    "embeddings": {"embeddings": [[0.0, 0.25], [0.5, 0.25]]},
}
# fmt: off
RATES = TokenRates(
    *map(Decimal, ("0.3", "0.075", "0.5", "0.5")), cache_write=Decimal("0.4"),
    long_context_above=5_000, long_input=Decimal("0.6"), long_output=Decimal(1), tiers=(("priority", Decimal(2)),),
)
# fmt: on
PRICE = Price("gpt-test", "text", 100, 1, Rounding.UP, Decimal("0.01"), rates=RATES)


@settings(deadline=None, max_examples=rounds(400))
@given(usage=usages, rest=st.dictionaries(st.sampled_from(["service_tier", "id", "model"]), json_values))
@pytest.mark.parametrize("api", ANSWERS)
def test_readable_content_is_delivered_whatever_stands_beside_it(api, usage, rest):
    wire = fuzzed()
    body = {**ANSWERS[api](), **rest, "usage": usage}
    wire.handler = answering(body)

    delivery = wire.call(api, bills_tokens=True) if api != "embeddings" else wire.call(api)

    assert delivery.content == CONTENTS[api]
    assert (delivery.raw_usage is None) == (usage is None and api != "images")
    json.dumps([delivery.content, delivery.raw_usage], ensure_ascii=False, allow_nan=False).encode()
    assert pricing.cost(delivery.usage, PRICE) >= 0
    assert 0 <= pricing.charge(delivery.usage, PRICE, held=21).credits <= 21
    assert delivery.reported_cost_usd is None or delivery.reported_cost_usd >= 0
    assert delivery.usage.total_tokens > 0
