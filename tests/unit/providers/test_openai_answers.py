"""What the OpenAI adapter reads from an answer over the real SDK: only the wire is scripted.

What was paid for is delivered, whatever its usage looks like; an answer that says itself that it failed ends as it
says; and what cannot be read is an unknown outcome: the work was done all the same.
"""

from __future__ import annotations

import base64
import struct
from decimal import Decimal

import pytest

from billing.catalog.usage import Usage
from billing.jobs.policy import VERDICTS, Failure, Verdict
from tests.unit.providers.openai_wire import (
    ANSWERS,
    BROKEN_BODIES,
    DISJOINT,
    PROMPT,
    Wire,
    a_completion,
    a_response,
    answering,
    answering_bytes,
    some_embeddings,
    some_images,
)

# --- What is read ---


@pytest.mark.parametrize(("api", "body"), [("responses", a_response()), ("chat_completions", a_completion())])
def test_text_is_delivered_with_its_usage_in_disjoint_buckets(api, body):
    delivery = Wire(answering(body)).call(api)

    assert delivery.content == {"text": "Bread."}
    assert delivery.usage == DISJOINT
    assert delivery.usage.total_tokens == 500
    assert delivery.raw_usage["total_tokens"] == 500
    assert (delivery.request_id, delivery.finish_reason) == ("req_1", "stop")


@pytest.mark.parametrize(
    ("api", "body", "reason"),
    [
        (
            "responses",
            a_response(status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
            "max_output_tokens",
        ),
        ("chat_completions", a_completion(finish="length"), "length"),
    ],
)
def test_a_text_that_was_cut_is_delivered_and_says_so(api, body, reason):
    delivery = Wire(answering(body)).call(api)

    assert (delivery.content, delivery.usage, delivery.finish_reason) == ({"text": "Bread."}, DISJOINT, reason)


@pytest.mark.parametrize("text", ["", None])
def test_an_empty_text_is_a_paid_delivery(text):
    delivery = Wire(answering(a_completion(text))).call("chat_completions")

    assert (delivery.content, delivery.usage) == ({"text": ""}, DISJOINT)


@pytest.mark.parametrize(
    ("asked", "delivered", "finish"), [(4, 4, "stop"), (4, 3, "fewer_images"), (2, 1, "fewer_images")]
)
def test_images_are_counted_as_delivered(asked, delivered, finish):
    delivery = Wire(answering(some_images(delivered))).call("images", prompt=PROMPT, n=asked)

    assert delivery.usage == Usage(images=delivered)
    assert [image["url"] for image in delivery.content["images"]] == [
        f"https://images.example/{n}.png" for n in range(delivered)
    ]
    assert (delivery.raw_usage, delivery.finish_reason) == ({"images": delivered}, finish)


def test_images_that_are_billed_by_tokens_bring_their_usage():
    usage = {
        "input_tokens": 12,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": 12},
        "output_tokens": 4224,
        "total_tokens": 4236,
    }

    delivery = Wire(answering({**some_images(4), "usage": usage})).call("images", bills_tokens=True)

    assert delivery.usage == Usage(input_tokens=12, output_tokens=4224, images=4)
    assert delivery.raw_usage["output_tokens"] == 4224


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 22, "completion_tokens": 1372}, Usage(input_tokens=22, output_tokens=1372, images=4)),
        (
            {
                "input_tokens": 322,
                "input_tokens_details": {"text_tokens": 22, "image_tokens": 300},
                "output_tokens": 1400,
                "output_tokens_details": {"text_tokens": 28, "image_tokens": 1372},
            },
            Usage(input_tokens=22, image_input_tokens=300, output_tokens=28, image_output_tokens=1372, images=4),
        ),
    ],
    ids=["by the names of chat", "by kind"],
)
def test_tokens_of_images_are_read_by_either_name_and_by_kind(usage, expected):
    delivery = Wire(answering({**some_images(4), "usage": usage})).call("images", bills_tokens=True)

    assert (delivery.usage, delivery.usage_note) == (expected, None)


def test_images_that_are_billed_by_tokens_and_bring_no_usage_are_taken_as_the_most_that_they_can_be():
    delivery = Wire(answering(some_images(2))).call("images", prompt="A red fox.", n=4, bills_tokens=True)

    # Of the 500 tokens that were held for four images.
    assert delivery.usage == Usage(input_tokens=4, output_tokens=250, images=2)
    assert delivery.usage_note == "input_counted output_assumed"


def test_embeddings_are_delivered_in_the_order_of_their_texts():
    delivery = Wire(answering(some_embeddings())).call("embeddings")

    assert delivery.content == {"embeddings": [[0.0, 0.25], [0.5, 0.25]]}
    assert delivery.usage == Usage(input_tokens=9)


def test_an_embedding_that_is_missing_makes_the_answer_unreadable():
    answer = some_embeddings()

    refusal = Wire(answering({**answer, "data": answer["data"][:1]})).refused("embeddings")

    assert refusal.failure is Failure.UNREADABLE_ANSWER


@pytest.mark.parametrize(
    "rows",
    [
        [(0, [0.5]), (0, [0.5])],
        [(7, [0.5]), (9, [0.5])],
        [(0, [0.5]), (1, [])],
        [(0, [0.5]), (1, None)],
        [(0, [0.5]), (1, [float("inf")])],
    ],
    ids=["one twice", "others", "empty", "none", "infinite"],
)
def test_a_vector_that_is_none_makes_the_answer_unreadable(rows):
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in rows]

    refusal = Wire(answering({**some_embeddings(), "data": data})).refused("embeddings")

    assert refusal.failure is Failure.UNREADABLE_ANSWER


@pytest.mark.parametrize("data", [[], None, {}, [{"revised_prompt": "dogs"}], [{"url": ""}]])
@pytest.mark.parametrize("usage", [None, {"input_tokens": 22, "output_tokens": 1372}])
def test_an_answer_without_images_is_refused_and_not_asked_for_again(data, usage):
    refusal = Wire(answering({"created": 1, "data": data, "usage": usage})).refused("images", bills_tokens=True)

    assert (refusal.failure, VERDICTS[refusal.failure]) == (Failure.EMPTY_ANSWER, Verdict.REFUND)
    assert refusal.usage == (usage and Usage(input_tokens=22, output_tokens=1372))


def test_embeddings_without_numbers_are_those_of_the_texts_in_their_order():
    data = [{"embedding": [0.5]}, {"embedding": [1]}]

    assert Wire(answering({"data": data})).call("embeddings").content == {"embeddings": [[0.5], [1]]}


def test_packed_embeddings_are_unpacked():
    data = [{"index": n, "embedding": base64.b64encode(struct.pack("<2f", n, 0.25)).decode()} for n in (0, 1)]

    delivery = Wire(answering({**some_embeddings(), "data": data})).call("embeddings")

    assert delivery.content == {"embeddings": [[0.0, 0.25], [1.0, 0.25]]}


@pytest.mark.parametrize(
    ("usage", "tokens", "note"),
    [
        ({"prompt_tokens": 9}, 9, None),
        ({"total_tokens": 9}, 9, None),
        ({"prompt_tokens": 0, "total_tokens": 0}, 6, "input_counted"),
        ({}, 6, "input_counted"),
        (None, 6, "input_counted"),
        ("nine", 6, "input_counted"),
    ],
)
def test_embeddings_cost_what_is_reported_or_what_their_texts_count(usage, tokens, note):
    wire = Wire(answering({**some_embeddings(), "usage": usage}))

    delivery = wire.call("embeddings", input=["A red fox.", "Dogs."])

    assert (delivery.usage, delivery.usage_note) == (Usage(input_tokens=tokens), note)


@pytest.mark.parametrize(
    ("api", "details", "expected"),
    [
        ("responses", {"input_tokens_details": None}, Usage(100, 0, 250, 150)),
        ("responses", {"output_tokens_details": None}, Usage(60, 40, 400, 0)),
        ("responses", {"input_tokens_details": {}}, Usage(100, 0, 250, 150)),
        ("responses", {"input_tokens_details": {"cached_tokens": None}}, Usage(100, 0, 250, 150)),
        ("chat_completions", {"prompt_tokens_details": None}, Usage(100, 0, 250, 150)),
        ("chat_completions", {"completion_tokens_details": None}, Usage(60, 40, 400, 0)),
        ("chat_completions", {"completion_tokens_details": {}}, Usage(60, 40, 400, 0)),
    ],
)
def test_details_that_a_compatible_server_leaves_out_are_zero(api, details, expected):
    body = ANSWERS[api]()
    body["usage"] |= details

    assert expected == Wire(answering(body)).call(api).usage


@pytest.mark.parametrize(("api", "body"), [("responses", a_response), ("chat_completions", a_completion)])
@pytest.mark.parametrize(
    ("text", "kept"), [("a\x00b", "a\ufffdb"), ("a\ud800b", "a?b"), ("\x00\udfff", "\ufffd?"), ("😀é", "😀é")]
)
def test_a_paid_text_is_not_lost_over_a_nul_or_a_lone_surrogate(api, body, text, kept):
    delivery = Wire(answering(body(text))).call(api)

    assert delivery.content == {"text": kept}
    assert delivery.usage == DISJOINT


def test_the_reported_usage_is_made_keepable_too():
    body = a_response()
    body["usage"]["tier"] = "fl\x00e\ud800x"

    delivery = Wire(answering(body)).call()

    assert delivery.raw_usage["tier"] == "fl\ufffde?x"
    assert delivery.usage == DISJOINT


def test_a_nul_in_an_image_is_replaced():
    body = {"created": 1, "data": [{"b64_json": "aGk=", "revised_prompt": "dogs\x00\ud800"}]}

    assert Wire(answering(body)).call("images").content == {
        "images": [{"b64_json": "aGk=", "revised_prompt": "dogs\ufffd?"}]
    }


# --- Usage that makes no sense ---

BAD_USAGES = {
    "negative input": ({"input_tokens": -1}, "from_total"),
    "negative output": ({"output_tokens": -1}, "from_total"),
    "negative cached": ({"input_tokens_details": {"cached_tokens": -1}}, "detail_ignored"),
    "more cached than input": ({"input_tokens_details": {"cached_tokens": 101}}, "cached_above_input"),
    "more reasoning than output": ({"output_tokens_details": {"reasoning_tokens": 401}}, "reasoning_above_output"),
    "a fraction": ({"input_tokens": 99.5}, "rounded"),
    "words": ({"input_tokens": "many"}, "from_total"),
    "null": ({"output_tokens": None}, "from_total"),
    "a list": ({"input_tokens": [100]}, "from_total"),
    "an object in the details": ({"input_tokens_details": {"cached_tokens": {"a": 1}}}, "detail_ignored"),
    "details that are none": ({"input_tokens_details": "many"}, None),
}


@pytest.mark.parametrize(("changed", "note"), BAD_USAGES.values(), ids=BAD_USAGES.keys())
@pytest.mark.parametrize("api", ["responses", "chat_completions"])
def test_a_text_is_delivered_whatever_its_usage_looks_like(api, changed, note):
    body = ANSWERS[api]()
    names = {"input": "prompt", "output": "completion"} if api == "chat_completions" else {}
    for name, value in changed.items():
        side = name.split("_")[0]
        body["usage"][name.replace(side, names.get(side, side), 1)] = value

    delivery = Wire(answering(body)).call(api)

    assert (delivery.content, delivery.usage.total_tokens, delivery.usage_note) == ({"text": "Bread."}, 500, note)


@pytest.mark.parametrize("api", ["responses", "chat_completions"])
@pytest.mark.parametrize("usage", [None, {}, [], "many", 7, {"input_tokens": 0, "output_tokens": 0}])
def test_a_text_without_usage_is_delivered_and_counted(api, usage):
    body = ANSWERS[api]("A loaf of bread.") | {"usage": usage}

    delivery = Wire(answering(body)).call(api, prompt="A red fox.", system="Be brief.")

    assert delivery.content == {"text": "A loaf of bread."}
    assert delivery.usage == Usage(input_tokens=7, output_tokens=5)
    assert delivery.usage_note == "input_counted output_counted"


def test_the_reported_usage_is_kept_whatever_it_is():
    assert Wire(answering(a_completion(usage=["many"]))).call("chat_completions").raw_usage == {"usage": ["many"]}
    assert Wire(answering(a_completion(usage=None))).call("chat_completions").raw_usage is None


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 1000, "prompt_cache_hit_tokens": 900, "completion_tokens": 10},
        {"prompt_tokens": 1000, "cached_tokens": 900, "completion_tokens": 10},
        {"prompt_tokens": 1000, "cache_read_input_tokens": 900, "completion_tokens": 10},
        {
            "prompt_tokens": 1000,
            "prompt_tokens_details": {"cached_tokens": 0},
            "prompt_cache_hit_tokens": 900,
            "completion_tokens": 10,
        },
    ],
    ids=["DeepSeek", "Moonshot", "LiteLLM", "both"],
)
def test_cached_input_is_read_by_the_names_of_other_servers(usage):
    delivery = Wire(answering(a_completion(usage=usage))).call("chat_completions")

    assert delivery.usage == Usage(input_tokens=100, cached_input_tokens=900, output_tokens=10)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (
            {"prompt_tokens_details": {"cache_write_tokens": 18011}},
            Usage(3, 0, 5, cache_write_tokens=18011),
        ),
        ({"cache_creation_input_tokens": 18011}, Usage(3, 0, 5, cache_write_tokens=18011)),
        (
            {"cache_creation_input_tokens": 18011, "cache_creation": {"ephemeral_1h_input_tokens": 18000}},
            Usage(3, 0, 5, cache_write_tokens=11, cache_write_1h_tokens=18000),
        ),
    ],
)
def test_what_is_written_to_the_cache_is_read(usage, expected):
    body = a_completion(usage={"prompt_tokens": 18014, "completion_tokens": 5, **usage})

    assert Wire(answering(body)).call("chat_completions").usage == expected


@pytest.mark.parametrize(
    ("tier", "kept"), [("priority", "priority"), ("FLEX", "flex"), ("default", ""), (None, ""), (7, ""), ("a b", "")]
)
@pytest.mark.parametrize("api", ["responses", "chat_completions"])
def test_the_service_tier_is_read_from_the_answer(api, tier, kept):
    assert Wire(answering(ANSWERS[api]() | {"service_tier": tier})).call(api).usage.service_tier == kept


@pytest.mark.parametrize(
    ("cost", "kept"),
    [
        (0.00014, "0.00014"),
        (0, "0"),
        (1e-7, "1E-7"),
        (-1, None),
        ("0.1", None),
        (True, None),
        (1e9, None),
        (None, None),
    ],
)
def test_a_cost_that_is_reported_is_kept(cost, kept):
    body = a_completion()
    body["usage"]["cost"] = cost

    assert Wire(answering(body)).call("chat_completions").reported_cost_usd == (kept and Decimal(kept))


# --- Content in other forms ---


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "A loaf"}, {"type": "text", "text": " of bread."}], "A loaf of bread."),
        (
            [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"type": "text", "text": "Bread."}],
            "Bread.",
        ),
        ([{"type": "thinking", "thinking": "Hm."}, {"type": "output_text", "text": "Bread."}], "Bread."),
        ({"type": "text", "text": "Bread."}, "Bread."),
        ([{"type": "text", "text": {"value": "Bread."}}], "Bread."),
        (["Bread", "."], "Bread."),
        ({"bread": 1}, '{"bread": 1}'),
        (42, "42"),
        ([None, {"type": "image_url"}, {"type": "text", "text": "Bread."}], "Bread."),
    ],
)
def test_content_in_any_form_is_delivered_as_text(content, text):
    assert Wire(answering(a_completion(content))).call("chat_completions").content == {"text": text}


def test_thinking_that_can_be_seen_is_counted_as_reasoning():
    parts = [{"type": "thinking", "thinking": "A loaf of bread."}, {"type": "text", "text": "Bread."}]
    answers = [
        a_completion(parts, usage=None),
        a_completion("Bread.", usage=None),
    ]
    answers[1]["choices"][0]["message"] |= {"reasoning_content": "A loaf of bread.", "reasoning": "A loaf of bread."}

    for body in answers:
        usage = Wire(answering(body)).call("chat_completions").usage

        assert (usage.output_tokens, usage.reasoning_tokens) == (2, 5)


def test_a_response_without_a_status_is_delivered():
    body = a_response()
    del body["status"]

    assert Wire(answering(body)).call().content == {"text": "Bread."}


def test_a_response_that_tells_its_text_beside_its_output_is_delivered():
    assert Wire(answering(a_response(output=None, output_text="Bread."))).call().content == {"text": "Bread."}


# --- Answers that cannot be read: the work was done all the same ---


@pytest.mark.parametrize("content", BROKEN_BODIES.values(), ids=BROKEN_BODIES.keys())
@pytest.mark.parametrize("api", ["responses", "chat_completions"])
def test_a_broken_body_is_unreadable(api, content):
    refusal = Wire(answering_bytes(content)).refused(api)

    assert (refusal.failure, refusal.http_status) == (Failure.UNREADABLE_ANSWER, 200)
    assert VERDICTS[refusal.failure] is Verdict.UNKNOWN


@pytest.mark.parametrize("api", ANSWERS)
def test_a_page_where_json_should_be_is_unreadable(api):
    refusal = Wire(answering_bytes(b"<html>MARKER whiskey tango</html>", "text/html")).refused(api)

    assert refusal.failure is Failure.UNREADABLE_ANSWER


def test_a_body_nested_too_deeply_is_unreadable():
    refusal = Wire(answering_bytes(b"[" * 100_000 + b"]" * 100_000)).refused()

    assert refusal.failure is Failure.UNREADABLE_ANSWER


@pytest.mark.parametrize(
    ("api", "body"),
    [
        ("responses", a_response(output=None)),
        ("responses", a_response(status="in_progress")),
        ("responses", a_response(status="queued")),
        ("chat_completions", a_completion(choices=[])),
        ("chat_completions", a_completion(choices=None)),
        ("chat_completions", a_completion(choices=[{"index": 0, "finish_reason": "stop", "message": None}])),
    ],
)
def test_an_answer_that_is_not_finished_or_has_no_content_is_unreadable(api, body):
    assert Wire(answering(body)).refused(api).failure is Failure.UNREADABLE_ANSWER
