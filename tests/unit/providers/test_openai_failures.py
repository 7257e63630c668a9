"""Answers of 200 that say themselves that they failed: each ends at once, as its meaning says."""

from __future__ import annotations

import pytest

from billing.catalog.usage import Usage
from billing.jobs.calling import Refusal
from billing.jobs.policy import VERDICTS, Failure, Verdict
from tests.unit.providers.openai_wire import ANSWERS, DISJOINT, SPOKEN, Wire, a_completion, a_response, answering

# fmt: off
ERRORS = [
    ({"code": 429},                                         "rate_limited",      "429"),
    ({"code": "429", "message": SPOKEN},                    "rate_limited",      "429"),
    ({"code": 400},                                         "bad_request",       "400"),
    ({"code": 401},                                         "bad_credentials",   "401"),
    ({"code": 402},                                         "quota_exhausted",   "402"),
    ({"code": 502, "message": SPOKEN},                      "server_error",      "502"),
    ({"code": 504},                                         "server_error",      "504"),
    ({"code": 999},                                         "server_error",      None),
    ({"code": "rate_limit_exceeded"},                       "rate_limited",      "rate_limit_exceeded"),
    ({"code": "insufficient_quota", "type": "requests"},    "quota_exhausted",   "insufficient_quota"),
    ({"code": "invalid_prompt"},                            "bad_request",       "invalid_prompt"),
    ({"code": "image_content_policy_violation"},            "content_policy",    "image_content_policy_violation"),
    ({"code": "bio_policy"},                                "content_policy",    "bio_policy"),
    ({"code": "context_length_exceeded"},                   "bad_request",       "context_length_exceeded"),
    ({"code": "image_too_large"},                           "bad_request",       "image_too_large"),
    ({"code": "vector_store_timeout"},                      "server_error",      "vector_store_timeout"),
    ({"code": "server_error"},                              "server_error",      "server_error"),
    ({"type": "overloaded_error"},                          "overloaded",        "overloaded_error"),
    ({"type": "invalid_request_error", "code": None},       "bad_request",       "invalid_request_error"),
    ({"message": SPOKEN},                                   "server_error",      None),
    ({"code": SPOKEN},                                      "server_error",      None),
    (SPOKEN,                                                "server_error",      None),
]
# fmt: on


@pytest.mark.parametrize(("error", "failure", "code"), ERRORS)
@pytest.mark.parametrize("api", ANSWERS)
def test_an_error_in_an_answer_means_what_it_says(api, error, failure, code):
    for body in ({"error": error}, ANSWERS[api]() | {"error": error}):
        refusal = Wire(answering(body)).refused(api)

        assert (refusal.failure.value, refusal.provider_code, refusal.http_status) == (failure, code, 200)
        assert VERDICTS[refusal.failure] is not Verdict.UNKNOWN


@pytest.mark.parametrize(
    "body",
    [
        {"errors": [{"code": 429}]},
        {"object": "error", "code": 429, "message": SPOKEN},
        {"type": "error", "error": {"type": "rate_limit_error"}},
        {"choices": [{"index": 0, "error": {"code": 429, "message": SPOKEN}, "finish_reason": "error"}]},
    ],
    ids=["a list of errors", "the answer itself", "Anthropic", "in the choice"],
)
def test_an_error_is_found_wherever_servers_put_it(body):
    assert Wire(answering(body)).refused("chat_completions").failure is Failure.RATE_LIMITED


@pytest.mark.parametrize("nothing", [None, "", {}, [], False, 0])
@pytest.mark.parametrize("api", ANSWERS)
def test_an_error_that_is_none_is_no_failure(api, nothing):
    assert Wire(answering(ANSWERS[api]() | {"error": nothing, "errors": nothing})).call(api)


def test_the_wait_that_an_error_asks_for_is_kept():
    wire = Wire(answering({"error": {"code": 429}}, **{"retry-after": "7"}))

    assert wire.refused("chat_completions").retry_after.total_seconds() == 7


def test_what_a_failed_answer_used_is_kept():
    refusal = Wire(answering(a_completion(error={"code": 429}))).refused("chat_completions")

    assert (refusal.usage, refusal.raw_usage["total_tokens"]) == (DISJOINT, 500)


def test_a_failed_answer_without_usage_used_nothing():
    refusal = Wire(answering({"error": {"code": 429}})).refused("chat_completions")

    assert (refusal.usage, refusal.raw_usage, refusal.usage_note) == (None, None, None)


@pytest.mark.parametrize(
    ("finish", "failure"),
    [
        ("error", Failure.SERVER_ERROR),
        ("network_error", Failure.SERVER_ERROR),
        ("insufficient_system_resource", Failure.OVERLOADED),
        ("content_filter", Failure.CONTENT_POLICY),
        ("SAFETY", Failure.CONTENT_POLICY),
        ("sensitive", Failure.CONTENT_POLICY),
    ],
)
def test_a_text_that_ended_by_a_failure_is_that_failure(finish, failure):
    assert Wire(answering(a_completion(finish=finish))).refused("chat_completions") == Refusal(
        failure,
        http_status=200,
        provider_code=finish,
        request_id="req_1",
        usage=DISJOINT,
        raw_usage=a_completion()["usage"],
    )


@pytest.mark.parametrize("usage", [None, {"prompt_tokens": None, "completion_tokens": None}])
@pytest.mark.parametrize(
    ("api", "body"),
    [
        ("responses", a_response("", status="incomplete", incomplete_details={"reason": "content_filter"})),
        ("chat_completions", a_completion(None, finish="content_filter")),
    ],
)
def test_a_filtered_answer_without_usage_is_refused_at_once(api, body, usage):
    refusal = Wire(answering(body | {"usage": usage})).refused(api)

    assert (refusal.failure, refusal.usage) == (Failure.CONTENT_POLICY, None)


def test_a_filtered_response_is_refused_with_what_it_used():
    body = a_response(status="incomplete", incomplete_details={"reason": "content_filter"})

    refusal = Wire(answering(body)).refused()

    assert (refusal.failure, refusal.usage) == (Failure.CONTENT_POLICY, DISJOINT)


def refusing(part):
    return a_response(output=[{"type": "message", "role": "assistant", "content": [part]}])


def in_the_message(text):
    body = a_completion(None)
    body["choices"][0]["message"]["refusal"] = text
    return body


REFUSALS = {
    "in the message": ("chat_completions", in_the_message("I cannot help with that.")),
    "a part of chat": ("chat_completions", a_completion([{"type": "refusal", "refusal": "I cannot help with that."}])),
    "a part": ("responses", refusing({"type": "refusal", "refusal": "I cannot help with that."})),
}


@pytest.mark.parametrize(("api", "body"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_refusal_of_the_model_is_kept_as_the_reason(api, body):
    refusal = Wire(answering(body)).refused(api)

    assert (refusal.failure, refusal.reason) == (Failure.CONTENT_POLICY, "I cannot help with that.")
    assert refusal.usage == DISJOINT


def test_a_long_refusal_is_cut():
    assert len(Wire(answering(in_the_message("no " * 1000))).refused("chat_completions").reason) == 500


def test_a_text_with_a_refusal_beside_it_is_delivered():
    body = a_completion()
    body["choices"][0]["message"]["refusal"] = "I cannot say more."

    assert Wire(answering(body)).call("chat_completions").content == {"text": "Bread."}


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        ("server_error", Failure.SERVER_ERROR),
        ("rate_limit_exceeded", Failure.RATE_LIMITED),
        ("invalid_prompt", Failure.BAD_REQUEST),
        ("misalignment_policy_violation", Failure.CONTENT_POLICY),
        ("something_new", Failure.SERVER_ERROR),
        (None, Failure.SERVER_ERROR),
    ],
)
@pytest.mark.parametrize("usage", [None, a_response()["usage"]])
def test_a_failed_response_means_what_its_code_says(code, failure, usage):
    body = a_response(status="failed", usage=usage, error={"code": code, "message": SPOKEN})

    refusal = Wire(answering(body)).refused()

    assert (refusal.failure, refusal.usage) == (failure, usage and DISJOINT)


@pytest.mark.parametrize("status", ["failed", "cancelled", "expired"])
def test_a_response_that_failed_without_an_error_is_a_server_error(status):
    assert Wire(answering(a_response(status=status, output=[]))).refused().failure is Failure.SERVER_ERROR


ZERO = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


@pytest.mark.parametrize(
    ("api", "body"),
    [
        ("chat_completions", a_completion(None, usage=ZERO)),
        ("chat_completions", a_completion("", usage=None)),
        ("chat_completions", a_completion([], usage={"prompt_tokens": 12, "completion_tokens": 0})),
        ("chat_completions", {"choices": [], "usage": ZERO}),
        ("responses", a_response(output=[], usage=None)),
        ("responses", a_response("", usage={"input_tokens": 0, "output_tokens": 0})),
    ],
)
def test_an_empty_answer_that_used_no_output_is_tried_again(api, body):
    refusal = Wire(answering(body)).refused(api)

    assert VERDICTS[refusal.failure] is Verdict.RETRY


def test_an_empty_answer_that_read_its_input_costs_that():
    body = a_completion(None, usage={"prompt_tokens": 12, "completion_tokens": 0})

    assert Wire(answering(body)).refused("chat_completions").usage == Usage(input_tokens=12)
