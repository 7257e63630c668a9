"""Answers over real HTTP, and what each is billed: a chat model at $0.3, $0.075 cached and $0.5 per 1M tokens."""

from __future__ import annotations

import base64
import struct
from decimal import Decimal

import pytest

from tests.catalogue import change
from tests.integration.providers.billed import bill
from tests.integration.providers.fake_provider import fake_provider

pytestmark = pytest.mark.usefixtures("db")

CHAT = {
    "model_type": "text",
    "provider": "openai",
    "api": "chat_completions",
    "input_cost_per_1m": "0.3",
    "cached_input_cost_per_1m": "0.075",
    "output_cost_per_1m": "0.5",
    "context_window": 100_000,
    "max_output_tokens": 2000,
    "tokenizer": "o200k_base",
}
REQUEST = {"model": "chat-test", "params": {"prompt": "Say something about bread."}}
TEXT = "A loaf of bread."


@pytest.fixture
def provider(db):
    change("add_model", "chat-test", **CHAT)
    change("set_operation", "clustering", tokens_per_credit=100, min_credits=1, force=True)
    with fake_provider() as running:
        yield running


def chat(usage, content=TEXT, finish="stop", **message):
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}
    body = {"id": "chatcmpl_1", "object": "chat.completion", "model": "chat-test", "choices": [choice]}
    return body if usage is ... else {**body, "usage": usage}


def counts(prompt, completion, total=None, cached=None, reasoning=None):
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": total,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


# fmt: off
DELIVERED = [
    # usage                                      credits  cost           note
    (counts(12, 1, 399, None, 386),              4,       "0.0001971",   "reasoning_outside"),
    (counts(1012, 149, 1281, 128, 120),          13,      "0.0004093",   "reasoning_outside"),
    (counts(1012, 149, None, 128, 120),          12,      "0.0003493",   None),
    (counts(100, 50, 150, 101),                  2,       "0.0000325",   "cached_above_input"),
    (counts(99.5, 400.4),                        5,       "0.00023",     "rounded"),
    (counts("100", "400", "500"),                5,       "0.00023",     "read_from_text"),
    (counts(100, None, 500),                     5,       "0.00023",     "from_total"),
    (counts(None, None),                         1,       "0.000004",    "input_counted output_counted"),
    (counts(0, 0, 0),                            1,       "0.000004",    "input_counted output_counted"),
    (None,                                       1,       "0.000004",    "input_counted output_counted"),
    (...,                                        1,       "0.000004",    "input_counted output_counted"),
    ({"prompt_tokens": 1000, "prompt_cache_hit_tokens": 900, "completion_tokens": 10},
                                                 11,      "0.0001025",   None),
    ({"prompt_tokens": 1000, "cached_tokens": 900, "completion_tokens": 10},
                                                 11,      "0.0001025",   None),
    (counts(100, 9_000, 9_100),                  21,      "0.00453",     None),
    (counts(float("nan"), 400, float("inf")),    5,       "0.0002015",   "input_counted"),
    (counts(100, 10**200, None),                 2,       "0.0000325",   "output_counted"),
]
# fmt: on


@pytest.mark.parametrize(("usage", "credits", "cost", "note"), DELIVERED)
def test_a_readable_answer_is_delivered_and_billed(provider, usage, credits, cost, note):
    provider.answers_with(chat(usage))

    billed = bill(provider, **REQUEST)

    assert (billed.state, billed.content) == ("settled", {"text": TEXT})
    assert (billed.held, billed.credits, billed.cost_usd, billed.note) == (21, credits, Decimal(cost), note)


def test_a_charge_by_count_says_so(provider):
    provider.answers_with(chat(None))

    assert bill(provider, **REQUEST).description == "clustering with chat-test, by count"


def test_a_charge_by_report_says_nothing_of_it(provider):
    provider.answers_with(chat(counts(12, 1)))

    assert bill(provider, **REQUEST).description == "clustering with chat-test"


def refusal(text):
    return chat(counts(12, 9), None, refusal=text)


SAID = "I cannot help with that."
# fmt: off
FAILED = [
    # answer                                                         code                 cost         calls
    ({"error": {"code": 429}},                                       "retries_exhausted", "0",         2),
    ({"error": {"code": 502, "message": "bad gateway"}},             "retries_exhausted", "0",         2),
    ({**chat(counts(12, 1)), "error": {"code": 400}},                "bad_request",       "0.0000041", 1),
    ({"error": {"code": "invalid_prompt"}},                          "bad_request",       "0",         1),
    (chat(counts(100, 50), finish="error"),                          "retries_exhausted", "0.00011",   2),
    (chat(counts(0, 0, 0), None),                                    "retries_exhausted", "0",         2),
    (chat(None, None),                                               "retries_exhausted", "0",         2),
    (chat(None, None, "content_filter"),                             "content_policy",    "0",         1),
    (chat(counts(100, 50), finish="content_filter"),                 "content_policy",    "0.000055",  1),
    (refusal(SAID),                                                  "content_policy",    "0.0000081", 1),
    ({"detail": "Too many tokens."},                                 "retries_exhausted", "0",         2),
    ({"message": "Slow down.", "type": "rate_limit"},                "retries_exhausted", "0",         2),
    ({"success": False, "data": None},                               "retries_exhausted", "0",         2),
    ({"code": "invalid_prompt", "msg": "No."},                       "bad_request",       "0",         1),
]
# fmt: on


@pytest.mark.parametrize(("answer", "code", "cost", "calls"), FAILED)
def test_an_answer_that_failed_is_free_and_ends_at_once(provider, answer, code, cost, calls):
    provider.answers_with(answer)

    billed = bill(provider, **REQUEST)

    assert (billed.state, billed.code, billed.credits) == ("refunded", code, None)
    assert (billed.cost_usd, billed.calls) == (Decimal(cost), calls)


def test_a_refusal_of_the_model_is_the_jobs_reason(provider):
    provider.answers_with(refusal(SAID))

    assert bill(provider, **REQUEST).message.endswith(f"content policy. It said: {SAID}")


def test_an_answer_that_failed_is_tried_again_and_then_delivered(provider):
    provider.answers_with({"error": {"code": 429}}, chat(counts(12, 5)))

    billed = bill(provider, **REQUEST)

    assert (billed.state, billed.credits, billed.calls) == ("settled", 1, 2)


@pytest.mark.parametrize(("code", "state"), [("invalid_prompt", "bad_request"), ("bio_policy", "content_policy")])
def test_a_failed_response_ends_with_one_call(provider, code, state):
    change("add_model", "response-test", **CHAT | {"api": "responses"})
    provider.answers_with({"object": "response", "status": "failed", "error": {"code": code}, "usage": None})

    billed = bill(provider, **REQUEST | {"model": "response-test"})

    assert (billed.state, billed.code, billed.calls) == ("refunded", state, 1)


def test_an_empty_answer_that_was_thought_over_is_charged_as_used(provider):
    provider.answers_with(chat(counts(12, 2000, 2012, None, 2000), "", "length"))

    billed = bill(provider, **REQUEST)

    assert (billed.state, billed.credits, billed.content) == ("settled", 21, {"text": ""})


def test_what_is_written_to_the_cache_costs_its_own_rate(provider):
    rates = {"input_cost_per_1m": "1", "cache_write_cost_per_1m": "1.25", "output_cost_per_1m": "6"}
    change("add_model", "writing", **CHAT | rates | {"cached_input_cost_per_1m": "0.1"})
    usage = {"prompt_tokens": 18014, "prompt_tokens_details": {"cache_write_tokens": 18011}, "completion_tokens": 5}
    provider.answers_with(chat(usage))

    assert bill(provider, **REQUEST | {"model": "writing"}).cost_usd == Decimal("0.02254675")


@pytest.mark.parametrize(
    ("tier", "cost"), [("priority", "0.00000820"), ("flex", "0.00000205"), ("default", "0.0000041")]
)
def test_a_service_tier_has_its_own_price(provider, tier, cost):
    change("set_model", "chat-test", service_tier_factors="priority=2,flex=0.5")
    provider.answers_with({**chat(counts(12, 1)), "service_tier": tier})

    assert bill(provider, **REQUEST).cost_usd == Decimal(cost)


@pytest.mark.parametrize(("prompt", "cost"), [(1000, "0.0003005"), (1001, "0.0006016")])
def test_a_long_request_costs_the_higher_rates(provider, prompt, cost):
    long = {"long_context_input_cost_per_1m": "0.6", "long_context_output_cost_per_1m": "1"}
    change("set_model", "chat-test", long_context_above=1000, **long)
    provider.answers_with(chat(counts(prompt, 1)))

    assert bill(provider, **REQUEST).cost_usd == Decimal(cost)


# Forms in which servers answer: the model's interface, what stands in the answer, and what is delivered.
FORMS = [
    ("chat_completions", {"choices": [{"index": 0, "delta": {"content": TEXT}}]}, {"text": TEXT}),
    ("chat_completions", {"choices": [{"index": 0, "text": TEXT}]},               {"text": TEXT}),
    ("responses",        {"output_text": TEXT},                                   {"text": TEXT}),
]  # fmt: skip


@pytest.mark.parametrize(("api", "answer", "content"), FORMS)
def test_a_text_in_another_form_is_read(provider, api, answer, content):
    change("add_model", "other-form", **CHAT | {"api": api})
    provider.answers_with({**answer, "usage": counts(12, 1)})

    billed = bill(provider, **REQUEST | {"model": "other-form"})

    assert (billed.state, billed.content, billed.credits) == ("settled", content, 1)


def test_one_image_without_a_list_is_delivered(provider):
    provider.answers_with({"created": 1, "data": {"url": "https://images.example/1.png"}})

    billed = bill(provider, "image_generation", params={"prompt": "A red fox."})

    assert (billed.state, billed.cost_usd) == ("settled", Decimal("0.04"))
    assert billed.content == {"images": [{"url": "https://images.example/1.png"}]}


def test_images_whose_usage_has_the_names_of_chat_are_billed_by_it(provider):
    rates = {"input_cost_per_1m": "5", "output_cost_per_1m": "40", "max_output_tokens": 6240}
    image = {"model_type": "image", "provider": "openai", "api": "images", "valid_sizes": "1024x1024"}
    change("add_model", "image-test", **image, **rates)
    usage = {"prompt_tokens": 22, "completion_tokens": 1372}
    provider.answers_with({"created": 1, "data": [{"b64_json": "aGk="}], "usage": usage})

    billed = bill(provider, "image_generation", model="image-test", params={"prompt": "A red fox."})

    assert (billed.state, billed.cost_usd) == ("settled", Decimal("0.05499"))


def embed(provider, *vectors, usage=None, **model):
    """Bill embeddings of two texts by a model with these fields, which are answered with these vectors."""
    embedding = {"model_type": "embedding", "provider": "openai", "api": "embeddings", "input_cost_per_1m": "0.3"}
    change("add_model", "embedding-test", **embedding, context_window=8000, tokenizer="o200k_base", **model)
    change("add_operation", "embed", model_type="embedding", tokens_per_credit=4)
    data = [{"index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    provider.answers_with({"data": data} if usage is None else {"data": data, "usage": usage})
    return bill(provider, "embed", model="embedding-test", params={"input": ["A red fox."] * len(vectors)})


def test_embeddings_without_usage_are_billed_by_count(provider):
    billed = embed(provider, [0.5])

    assert (billed.state, billed.credits, billed.cost_usd) == ("settled", 1, Decimal("0.0000012"))
    assert billed.note == "input_counted"


def test_a_server_that_refuses_encoding_format_is_never_sent_it_unless_its_model_takes_it(provider):
    provider.refuses = {"encoding_format"}

    billed = embed(provider, [0.5, -0.25], [1.0, 2], usage={"prompt_tokens": 8, "total_tokens": 8})

    assert provider.asked == [{"model": "embedding-test", "input": ["A red fox."] * 2}]
    assert (billed.state, billed.content) == ("settled", {"embeddings": [[0.5, -0.25], [1.0, 2]]})
    assert (billed.credits, billed.cost_usd, billed.note, billed.calls) == (2, Decimal("0.0000024"), None, 1)


def test_a_model_that_is_said_to_take_what_its_server_refuses_costs_nobody_anything(provider):
    provider.refuses = {"encoding_format"}

    billed = embed(provider, [0.5], encoding_format="float")

    assert [asked["encoding_format"] for asked in provider.asked] == ["float"]
    assert (billed.state, billed.code, billed.credits, billed.calls) == ("refunded", "bad_request", None, 1)
    assert billed.cost_usd == 0


def test_embeddings_in_base64_are_read_although_nobody_asked_for_it(provider):
    packed = base64.b64encode(struct.pack("<3f", 0.5, -0.25, 1e-3)).decode()

    billed = embed(provider, packed, [0.5], usage={"prompt_tokens": 8, "total_tokens": 8})

    assert "encoding_format" not in provider.asked[0]
    first, second = billed.content["embeddings"]
    assert (first, second) == (pytest.approx([0.5, -0.25, 1e-3]), [0.5])
    assert (billed.state, billed.credits, billed.cost_usd) == ("settled", 2, Decimal("0.0000024"))


@pytest.mark.parametrize("vector", ["", "not base64", "AAAA", [], [None], ["0.5"], None, "AADAfw=="])
def test_a_vector_that_cannot_be_read_is_not_charged(provider, vector):
    billed = embed(provider, vector, usage={"prompt_tokens": 8, "total_tokens": 8})

    assert (billed.state, billed.credits, billed.calls) == ("unknown", None, 1)
