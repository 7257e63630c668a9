"""What became of a call that Runware's adapter lost: it is looked up, and nothing is sent again.

The question behind every look-up is whether the answer proves anything at all.
"""

from __future__ import annotations

import json

import httpx2
import pytest

from billing.catalog.usage import Usage
from billing.jobs.calling import Refusal
from billing.jobs.policy import Failure, Means
from config.providers import Connection
from tasks.providers.base import ProviderError
from tasks.providers.runware import RunwareProvider
from tests.unit.providers.runware_wire import (
    KEY,
    OTHER,
    PROMPT,
    SPOKEN,
    TASK,
    UNREADABLE,
    URL,
    WORDS,
    Wire,
    an_error,
    an_image,
    answering,
    answering_bytes,
    assert_no_words,
    breaking,
    details,
    some_images,
)


def test_an_unknown_call_is_looked_up_over_any_connection():
    assert RunwareProvider().means(Connection("runware", KEY, None)) is Means.LOOK_UP
    assert RunwareProvider().means(Connection("runware", KEY, URL, honours_keys=True)) is Means.LOOK_UP


def test_a_look_up_asks_for_the_task_of_the_attempt_and_does_nothing():
    wire = Wire(answering(details(some_images())))

    wire.found_out()

    (request,) = wire.requests
    assert (request.method, str(request.url)) == ("POST", URL)
    assert json.loads(request.content) == [{"taskType": "getTaskDetails", "taskUUID": TASK}]
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert "idempotency-key" not in request.headers


@pytest.mark.parametrize("count", [4, 3])
def test_what_was_done_is_delivered_as_the_call_would_have_delivered_it(count):
    called = Wire(answering(some_images(count))).call()

    assert Wire(answering(details(some_images(count)))).found_out() == called


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        ("contentPolicyViolation", Failure.CONTENT_POLICY),
        ("invalidWidth", Failure.BAD_REQUEST),
        ("inferenceError", Failure.SERVER_ERROR),
        ("insufficientCredits", Failure.QUOTA_EXHAUSTED),
    ],
)
def test_a_task_that_failed_is_known_not_to_have_been_done(code, failure):
    with pytest.raises(ProviderError) as caught:
        Wire(answering(details(an_error(code)))).found_out()

    assert caught.value.refusal == Refusal(failure, provider_code=code, request_id=TASK)
    assert_no_words(caught.value)


@pytest.mark.parametrize(
    "code",
    ["timeoutProvider", "conflictTaskUUID", "uploadFailed", "somethingNew", SPOKEN, WORDS, None, 7, {"a": PROMPT}],
)
def test_a_task_that_failed_so_that_it_may_have_been_done_is_not_known(code):
    assert Wire(answering(details(an_error(code)))).found_out() is None


@pytest.mark.parametrize("code", ["timeoutProvider", "somethingNew"])
def test_one_error_that_proves_nothing_is_enough_not_to_know(code):
    errors = [*an_error("inferenceError")["errors"], *an_error(code)["errors"]]

    assert Wire(answering(details({"errors": errors}))).found_out() is None


def test_images_beside_an_error_are_delivered():
    told = Wire(answering(details({**some_images(2), **an_error("inferenceError")}))).found_out()

    assert told is not None
    assert told.usage == Usage(images=2)


@pytest.mark.parametrize("code", ["taskNotFound", "invalidApiKey", "contentPolicyViolation", "internalServerError"])
@pytest.mark.parametrize("status", [200, 400, 401, 404, 500])
def test_a_look_up_that_is_refused_says_nothing_of_the_task(code, status):
    assert Wire(answering(an_error(code), status)).found_out() is None


PROVES_NOTHING = {
    "no such task": {"data": []},
    "another task": details(some_images(), taskUUID=OTHER),
    "another kind of task": details(some_images(), taskType="getResponse"),
    "two of it": {"data": details(some_images())["data"] * 2},
    "the images themselves": some_images(),
    "no answer yet": details(None),
    "an empty answer": details({}),
    "an answer of no form": details([an_image()]),
    "no result": details({"data": []}),
    "in progress": details({"data": [an_image(imageURL=None, status="processing")]}),
    "in progress, partly": details({"data": [an_image(0), an_image(1, imageURL=None, status="processing")]}),
    "without an image": details({"data": [an_image(imageURL=None)]}),
    "without an image, beside an error": details({"data": [an_image(imageURL=None)], **an_error("inferenceError")}),
    "images of another task": details({"data": [an_image(taskUUID=OTHER)]}),
    "errors of another task": details(an_error("inferenceError", taskUUID=OTHER)),
}


@pytest.mark.parametrize("body", PROVES_NOTHING.values(), ids=PROVES_NOTHING.keys())
def test_an_answer_to_a_look_up_that_proves_nothing_is_none(body):
    assert Wire(answering(body)).found_out() is None


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE.keys())
@pytest.mark.parametrize("status", [200, 404, 502])
def test_an_answer_to_a_look_up_that_cannot_be_read_is_none(content, status):
    assert Wire(answering_bytes(content, status)).found_out() is None


@pytest.mark.parametrize("status", [201, 302, 400, 500])
def test_an_answer_to_a_look_up_counts_only_when_it_is_one(status):
    assert Wire(answering(details(some_images()), status)).found_out() is None


@pytest.mark.parametrize(
    "error",
    [
        httpx2.ConnectError,
        httpx2.ConnectTimeout,
        httpx2.ReadTimeout,
        httpx2.ReadError,
        httpx2.RemoteProtocolError,
        httpx2.DecodingError,
        httpx2.UnsupportedProtocol,
    ],
)
def test_a_network_that_fails_during_a_look_up_is_none(error):
    assert Wire(breaking(error(SPOKEN))).found_out() is None
