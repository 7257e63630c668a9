"""What OpenAI, and servers compatible with it, answer: an HTTP answer of 200 read as a delivery, or as a failure.

Content and usage are read apart: what can be read is delivered, whatever its usage looks like. An answer that tells a
failure itself raises ProviderError; one that cannot be read raises ValueError, and its outcome is unknown.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import httpx2

from billing.catalog.tokens import count_text
from billing.catalog.usage import Usage
from billing.jobs.calling import Claim, Delivery, Refusal
from billing.jobs.mending import Mended, Text
from billing.jobs.policy import Failure
from billing.jobs.requests import EmbeddingParams, TextParams, WholeImageParams, read_params
from config.database import utc_now
from tasks.providers.base import ProviderError, clean_json, clean_text, safe_code
from tasks.providers.openai_failures import failure_inside, failure_of_finish
from tasks.providers.openai_texts import Spoken, of_chat, of_response
from tasks.providers.openai_usages import raw_usage, reported_cost, tells_usage, usage_of, uses_nothing
from tasks.providers.waits import retry_after

DIGITS_MAX = 100
REASON_MAX = 500
"""Characters of a model's refusal that are kept as the reason of a job."""


@dataclass(frozen=True)
class _Answer:
    """An answer, and the claim of the call that it answers."""

    body: Mapping[str, Any]
    headers: Mapping[str, str]
    claim: Claim

    @property
    def request_id(self) -> str | None:
        return safe_code(self.headers.get("x-request-id"))

    def failed(self, failure: Failure, code: str | None, *, reason: str | None = None) -> ProviderError:
        """The failure that this answer tells, with the cost of what was used all the same."""
        mended = self.usage(lambda: Text(0, 0)) if tells_usage(self.body) else None
        return ProviderError(
            Refusal(
                failure,
                http_status=200,
                provider_code=code,
                request_id=self.request_id,
                retry_after=retry_after(self.headers, failure, now=utc_now()),
                usage=None if mended is None else mended.usage,
                raw_usage=raw_usage(self.body),
                usage_note=None if mended is None else mended.note,
                reported_cost_usd=reported_cost(self.body),
                reason=clean_text(reason.strip())[:REASON_MAX] if reason else None,
            )
        )

    def usage(self, count: Callable[[], Text], *, images: int = 0) -> Mended:
        """The usage of this answer, mended where it has to be."""
        return usage_of(self.body, count, images=images)

    def delivered(self, content: dict[str, Any], mended: Mended, finish_reason: str | None) -> Delivery:
        """What this answer delivers."""
        return Delivery(
            content=content,
            usage=mended.usage,
            raw_usage=raw_usage(self.body),
            request_id=self.request_id,
            finish_reason=finish_reason,
            usage_note=mended.note,
            reported_cost_usd=reported_cost(self.body),
        )


def read(answer: httpx2.Response, claim: Claim) -> Delivery:
    """Read the answer to a call; raises ProviderError for a failure that it tells, ValueError when it is unreadable."""
    body = json.loads(answer.content, parse_int=_whole)
    if not isinstance(body, dict):
        raise ValueError("the answer is no object")
    told = _Answer(body, answer.headers, claim)
    inside = failure_inside(body)
    if inside is not None:
        raise told.failed(*inside)
    return _READERS[claim.api](told)


def _response(answer: _Answer) -> Delivery:
    status = answer.body.get("status")
    if status in ("failed", "cancelled", "expired"):
        raise answer.failed(Failure.SERVER_ERROR, safe_code(status))
    spoken = of_response(answer.body)
    if status in ("queued", "in_progress") or spoken is None:
        raise ValueError("the answer is not finished, or has no output")
    return _text(answer, spoken)


def _chat(answer: _Answer) -> Delivery:
    spoken = of_chat(answer.body)
    if spoken is not None:
        return _text(answer, spoken)
    if answer.body.get("choices") == [] and tells_usage(answer.body) is False and "usage" in answer.body:
        raise answer.failed(Failure.SERVER_ERROR, "no_choices")
    raise ValueError("the answer has no choice with a message")


def _text(answer: _Answer, spoken: Spoken) -> Delivery:
    failure = failure_of_finish(spoken.finish_reason)
    if failure is not None:
        raise answer.failed(failure, safe_code(spoken.finish_reason), reason=spoken.refusal)
    if not spoken.text and spoken.refusal:
        raise answer.failed(Failure.CONTENT_POLICY, "refusal", reason=spoken.refusal)
    if not spoken.text and not spoken.thinking and uses_nothing(answer.body):
        raise answer.failed(Failure.SERVER_ERROR, "empty_answer")
    claim = answer.claim

    def count() -> Text:
        params = read_params(claim.kind, claim.params)
        assert isinstance(params, TextParams)
        return Text(
            input=count_text(params.texts(), claim.tokenizer),
            output=count_text([spoken.text], claim.tokenizer),
            reasoning=count_text([spoken.thinking], claim.tokenizer),
        )

    finish = spoken.finish_reason if isinstance(spoken.finish_reason, str) else None
    return answer.delivered({"text": spoken.text}, answer.usage(count), safe_code(finish))


def _images(answer: _Answer) -> Delivery:
    claim = answer.claim
    params = read_params(claim.kind, claim.params)
    assert isinstance(params, WholeImageParams)
    images = [_image(item) for item in _objects(answer.body.get("data")) if _is_image(item)]
    if not images:
        # Nothing was delivered, so nothing is charged; to ask again might be paid for again.
        raise answer.failed(Failure.EMPTY_ANSWER, "no_images")

    def count() -> Text:
        most = claim.max_output_tokens * len(images) // claim.images
        return Text(input=count_text([params.told], claim.tokenizer), output=most, assumed=True)

    mended = answer.usage(count, images=len(images)) if claim.bills_tokens else Mended(Usage(images=len(images)))
    delivery = answer.delivered(
        {"images": clean_json(images)}, mended, "stop" if len(images) >= claim.images else "fewer_images"
    )
    return delivery if delivery.raw_usage is not None else _with_count(delivery, len(images))


def _embeddings(answer: _Answer) -> Delivery:
    params = read_params(answer.claim.kind, answer.claim.params)
    assert isinstance(params, EmbeddingParams)
    rows = _objects(answer.body.get("data"))
    places = [row.get("index") for row in rows]
    if all(place is None for place in places):
        # Some servers number nothing, and answer in the order in which they were asked.
        places = list(range(len(rows)))
    vectors = {place: _vector(row.get("embedding")) for place, row in zip(places, rows, strict=True)}
    if len(rows) != len(params.input) or set(vectors) != set(range(len(params.input))):
        raise ValueError("the answer has not one vector for each input")
    mended = usage_of(_all_input(answer.body), lambda: Text(count_text(params.input, answer.claim.tokenizer), 0))
    return answer.delivered({"embeddings": [vectors[place] for place in range(len(rows))]}, mended, "stop")


_READERS: Mapping[str, Callable[[_Answer], Delivery]] = {
    "responses": _response,
    "chat_completions": _chat,
    "images": _images,
    "embeddings": _embeddings,
}


def _all_input(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The body with a usage that has no output, which an embedding has not: some servers tell a total only."""
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return body
    told = next((usage[name] for name in ("prompt_tokens", "input_tokens", "total_tokens") if usage.get(name)), None)
    return {"usage": {**usage, "input_tokens": told, "output_tokens": 0, "completion_tokens": 0, "total_tokens": None}}


def _vector(value: Any) -> list[float]:
    """A vector as numbers, or packed in base64 as 32-bit floats, little end first."""
    if isinstance(value, str):
        try:
            packed = base64.b64decode(value, validate=True)
            value = list(struct.unpack(f"<{len(packed) // 4}f", packed))
        except (binascii.Error, struct.error):
            raise ValueError("a vector is not packed as 32-bit floats") from None
    if not isinstance(value, list) or not value or not all(_is_number(number) for number in value):
        raise ValueError("a vector is empty, or not of numbers")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(digits: str) -> int | float:
    """A whole number; one of more digits than any count has is as good as infinite, and no reason to stop."""
    return int(digits) if len(digits) <= DIGITS_MAX else math.inf


def _is_image(item: Mapping[str, Any]) -> bool:
    return any(isinstance(item.get(name), str) and item[name] for name in ("url", "b64_json"))


def _image(item: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if value is not None}


def _with_count(delivery: Delivery, images: int) -> Delivery:
    return replace(delivery, raw_usage={"images": images})


def _objects(items: Any) -> list[Mapping[str, Any]]:
    # Of one thing, some servers answer with no list.
    items = [items] if isinstance(items, dict) else items
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
