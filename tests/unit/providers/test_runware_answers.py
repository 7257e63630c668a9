"""What the Runware adapter reads from an answer: images as delivered, and what proves nothing is an unknown outcome."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from billing.catalog.usage import Usage
from billing.jobs.calling import Delivery
from billing.jobs.policy import VERDICTS, Failure, Verdict
from tests.unit.providers.runware_wire import (
    OTHER,
    PROMPT,
    TASK,
    UNREADABLE,
    Wire,
    an_error,
    an_image,
    answering,
    answering_bytes,
    some_images,
)


@pytest.mark.parametrize(("delivered", "finish"), [(4, "stop"), (3, "fewer_images"), (1, "fewer_images")])
def test_images_are_counted_as_delivered(delivered, finish):
    delivery = Wire(answering(some_images(delivered))).call()

    assert delivery == Delivery(
        content={"images": [{"url": f"https://im.runware.example/{n}.jpg"} for n in range(delivered)]},
        usage=Usage(images=delivered),
        raw_usage={"images": delivered, "costs_usd": ["0.0013"] * delivered},
        request_id=TASK,
        finish_reason=finish,
        reported_cost_usd=Decimal("0.0013") * delivered,
    )


def test_what_was_delivered_beside_an_error_is_delivered():
    body = {**some_images(3), **an_error("inferenceError")}

    assert Wire(answering(body, 400)).call().usage == Usage(images=3)


def test_what_belongs_to_another_task_is_not_delivered():
    body = {"data": [an_image(0, taskUUID=OTHER), an_image(1)]}

    assert Wire(answering(body)).call().content == {"images": [{"url": "https://im.runware.example/1.jpg"}]}


@pytest.mark.parametrize(
    ("cost", "kept"),
    [
        ("0.10000000000000000001", "0.10000000000000000001"),
        ("3e-05", "3e-05"),
        ("0", "0"),
        ("2", "2"),
        ('"0.0013"', "0.0013"),
        ("-1", None),
        ("true", None),
        ("null", None),
        ("NaN", None),
        ("1e9999", None),
        (f'"{PROMPT}"', None),
        ("[1]", None),
    ],
)
def test_a_cost_is_kept_as_it_was_written_if_it_is_an_amount(cost, kept):
    content = json.dumps(some_images(1)).replace("0.0013", cost).encode()

    assert Wire(answering_bytes(content)).call().raw_usage == {"images": 1, "costs_usd": [kept]}


def test_a_paid_image_is_not_lost_over_a_nul_or_a_lone_surrogate():
    body = {"data": [an_image(imageURL="https://x/\x00\ud800")]}

    assert Wire(answering(body)).call().content == {"images": [{"url": "https://x/\ufffd?"}]}


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_an_answer_that_proves_nothing_is_an_unknown_outcome(content):
    refusal = Wire(answering_bytes(content)).refused()

    assert (refusal.failure, refusal.http_status) == (Failure.UNREADABLE_ANSWER, 200)
    assert VERDICTS[refusal.failure] is Verdict.UNKNOWN
