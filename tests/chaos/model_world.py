"""What the machine draws and sends: requests, what the imaginary provider does, and how that is told on the wire."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from hypothesis import strategies as st

from billing.catalog.usage import Usage
from billing.jobs.calling import Claim, Delivery, Refusal
from billing.jobs.policy import Failure
from tests.chaos.model import FOR_GOOD, TRY_AGAIN
from tests.chaos.model_books import result
from tests.chaos.model_records import KINDS, PROMPT, Body, Tariff, Used, Wanted


class Deed(NamedTuple):
    """What the provider does when it is called: deliver this share of the most in percent, or refuse."""

    failure: str | None = None
    share: int = 100
    words: int = 0
    # Whether a refusal comes after paid work.
    paid: bool = False

    def used(self, body: Body) -> Used | None:
        if self.failure is not None and not self.paid:
            return None
        images = body.amount * self.share // 100 if body.of_images else 0
        if body.sort == "images":
            return Used(images=images)
        output = body.amount * body.kind.output_tokens * self.share // 100
        return Used(input=20, cached=5, output=output - output // 4, reasoning=output // 4, images=images)


@dataclass
class Flight:
    """A wire call for this body: the truth about it, what its worker heard, and was told to do (`verdict`)."""

    claim: Claim
    body: Body
    claimed_by: UUID
    deed: Deed
    heard: bool | None = None
    verdict: str | None = None
    # Whether the provider delivered after it had said that it would not.
    lied: bool = False


texts = st.builds(Body, st.sampled_from(["plain", "ideas", "words"]), st.sampled_from([1000, 2500, 300, 16]))
images = st.builds(Body, st.sampled_from(["images", "token_images"]), st.integers(1, 4))
bodies = texts | images
shares = st.sampled_from([100, 30, 75, 0, 101, 180])
deliveries = st.builds(Deed, st.none(), shares, st.sampled_from([0, 10, 700, 3000]))
refusals = st.builds(Deed, st.sampled_from(TRY_AGAIN * 2 + FOR_GOOD), shares, st.just(0), st.booleans())
deeds = deliveries | refusals
amounts = st.sampled_from([5000, 300, 60])
few = st.sampled_from([30, 12, 60, 5000])
allowances = st.fixed_dictionaries(
    {
        "content_ideas": st.sampled_from([2, 1, 0, None]),
        "content_words": st.sampled_from([800, 2000, 200, None]),
        "images_basic": st.sampled_from([4, 2, 0, None]),
    }
)
tariffs = st.builds(
    Tariff,
    tokens_per_credit=st.sampled_from([50, 100, 333]),
    min_credits=st.sampled_from([0, 1, 7]),
    rounding=st.sampled_from(["up", "down", "nearest"]),
    usd_per_credit=st.sampled_from([Decimal("0.01"), Decimal("0.025")]),
    output_usd=st.sampled_from([Decimal(10), Decimal("12.5")]),
    image_usd=st.sampled_from([Decimal("0.04"), Decimal("0.06")]),
    image_credits=st.sampled_from([5, 11]),
    image_priced=st.sampled_from([True, True, False]),
    off=st.sampled_from([None, None, None, "clustering", "image_generation"]),
)


def request(wanted: Wanted) -> dict[str, Any]:
    kind = KINDS[wanted.body.sort]
    most = "n" if wanted.body.of_images else "max_output_tokens"
    return {
        "account_id": wanted.account,
        "operation": kind.operation,
        "model": kind.model,
        "params": {"prompt": PROMPT, most: wanted.body.amount},
        "idempotency_key": wanted.key,
        "job_id": str(wanted.id),
    }


def usage(used: Used | None) -> Usage | None:
    return None if used is None else Usage(*used)


def delivery(deed: Deed, body: Body) -> Delivery:
    reported = usage(deed.used(body))
    assert reported is not None
    return Delivery(result(deed.words, body), reported, raw_usage={}, request_id="req", finish_reason="stop")


def refusal(deed: Deed, body: Body) -> Refusal:
    return Refusal(Failure(deed.failure or ""), usage=usage(deed.used(body)))
