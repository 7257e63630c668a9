"""What the OpenAI adapter reads from an answer over the real SDK: only the wire is scripted.

What was paid for is delivered, and what cannot be read is an unknown outcome: the work was done all the same.
"""

from __future__ import annotations

import pytest

from billing.catalog.pricing import Usage
from billing.jobs.calling import Refusal
from billing.jobs.policy import VERDICTS, Failure, Verdict
from tests.unit.providers.openai_wire import (
    ANSWERS,
    BROKEN_BODIES,
    DISJOINT,
    PROMPT,
    SPOKEN,
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
    ("asked", "delivered", "finish"), [(4, 4, "stop"), (4, 3, "fewer_images"), (4, 0, "fewer_images")]
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


def test_images_that_are_billed_by_tokens_and_bring_no_usage_are_an_unknown_outcome():
    assert Wire(answering(some_images(4))).refused("images", bills_tokens=True).failure is Failure.UNREADABLE_ANSWER


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


def test_an_answer_without_a_list_of_images_delivers_none():
    assert Wire(answering({"created": 1})).call("images").usage == Usage(images=0)


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


# --- Answers that cannot be read: the work was done all the same ---

BAD_USAGES = {
    "negative input": {"input_tokens": -1, "input_tokens_details": None},
    "negative output": {"output_tokens": -1, "output_tokens_details": None},
    "negative cached": {"input_tokens_details": {"cached_tokens": -1}},
    "more cached than input": {"input_tokens_details": {"cached_tokens": 101}},
    "more reasoning than output": {"output_tokens_details": {"reasoning_tokens": 401}},
    "a fraction": {"input_tokens": 99.5},
    "words": {"input_tokens": "many"},
    "words without details": {"input_tokens": "many", "input_tokens_details": None},
    "a fraction without details": {"output_tokens": 0.5, "output_tokens_details": None},
    "null": {"output_tokens": None},
    "a list": {"input_tokens": [100]},
    "an object in the details": {"input_tokens_details": {"cached_tokens": {"a": 1}}},
}


@pytest.mark.parametrize("changed", BAD_USAGES.values(), ids=BAD_USAGES.keys())
@pytest.mark.parametrize("api", ["responses", "chat_completions"])
def test_a_usage_that_is_no_count_makes_the_answer_unreadable(api, changed):
    body = ANSWERS[api]()
    names = {"input": "prompt", "output": "completion"} if api == "chat_completions" else {}
    for name, value in changed.items():
        side = name.split("_")[0]
        body["usage"][name.replace(side, names.get(side, side), 1)] = value

    refusal = Wire(answering(body)).refused(api)

    assert (refusal.failure, refusal.http_status) == (Failure.UNREADABLE_ANSWER, 200)


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
        ("responses", a_response(usage=None)),
        ("responses", a_response(output=None)),
        ("chat_completions", a_completion(usage=None)),
        ("chat_completions", a_completion(choices=[])),
        ("chat_completions", a_completion(choices=None)),
        ("chat_completions", a_completion(choices=[{"index": 0, "finish_reason": "stop", "message": None}])),
    ],
)
def test_an_answer_without_what_it_is_charged_by_is_unreadable(api, body):
    assert Wire(answering(body)).refused(api).failure is Failure.UNREADABLE_ANSWER


# --- Answers that refuse ---


@pytest.mark.parametrize(
    ("api", "body"),
    [
        ("responses", a_response(status="incomplete", incomplete_details={"reason": "content_filter"})),
        ("chat_completions", a_completion(finish="content_filter")),
    ],
)
def test_an_answer_that_was_filtered_is_refused_with_what_it_used(api, body):
    assert Wire(answering(body)).refused(api) == Refusal(
        Failure.CONTENT_POLICY, http_status=200, provider_code="content_filter", request_id="req_1", usage=DISJOINT
    )


def test_a_failed_response_is_a_server_error():
    body = a_response(status="failed", error={"code": "server_error", "message": SPOKEN})

    refusal = Wire(answering(body)).refused()

    assert (refusal.failure, refusal.provider_code) == (Failure.SERVER_ERROR, "server_error")


def test_a_failed_response_without_usage_is_a_server_error():
    body = a_response(status="failed", usage=None, error={"code": "server_error", "message": SPOKEN})

    assert Wire(answering(body)).refused().failure is Failure.SERVER_ERROR
