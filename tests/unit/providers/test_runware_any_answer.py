"""Whatever Runware answers, a call delivers or says why not, and a look-up never claims more than was proven."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from billing.jobs.calling import Delivery
from billing.jobs.policy import VERDICTS, Verdict
from tasks.providers.base import ProviderError
from tests.rounds import rounds
from tests.unit.providers.runware_wire import (
    TASK,
    Wire,
    an_error,
    an_image,
    answering,
    answering_bytes,
    assert_no_words,
    details,
)


@cache
def fuzzed() -> Wire:
    return Wire(answering({}))


texts = st.text(st.characters(codec=None, exclude_categories=()))
leaves = st.none() | st.booleans() | st.integers() | st.floats() | texts | st.sampled_from([TASK, "processing", "cost"])
names = st.sampled_from(["data", "errors", "taskUUID", "taskType", "response", "imageURL", "code", "cost", "status"])
anything = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=6), max_leaves=12
)
results = st.builds(
    an_image, imageURL=leaves | st.just("https://x"), cost=leaves, status=leaves, taskUUID=st.sampled_from([TASK, 1])
)
errors = st.builds(lambda code: an_error(code)["errors"][0], leaves | st.sampled_from(["inferenceError", "timeout"]))
envelopes = st.fixed_dictionaries(
    {}, optional={"data": anything | st.lists(results, max_size=3), "errors": anything | st.lists(errors, max_size=2)}
)
bodies = anything | envelopes | st.builds(details, envelopes | anything)
contents = st.binary() | bodies.map(lambda body: json.dumps(body).encode())
statuses = st.sampled_from([200, 201, 204, 301, 400, 401, 409, 429, 500, 503, 524])


def outcome(ask: Callable[[], Delivery | None]) -> Delivery | ProviderError | None:
    try:
        return ask()
    except ProviderError as error:
        assert_no_words(error)
        return error


@settings(deadline=None, max_examples=rounds(400))
@given(content=contents, status=statuses)
def test_whatever_is_answered_a_call_delivers_or_says_why_not(content, status):
    wire = fuzzed()
    wire.handler = answering_bytes(content, status)

    told = outcome(wire.call)
    assert told is not None
    if isinstance(told, Delivery):
        assert told.usage.images == len(told.content["images"]) > 0
        json.dumps([told.content, told.raw_usage], ensure_ascii=False, allow_nan=False).encode()


@settings(deadline=None, max_examples=rounds(400))
@given(content=contents, status=statuses)
def test_whatever_is_answered_a_look_up_delivers_or_knows_nothing_unless_the_task_failed(content, status):
    wire = fuzzed()
    wire.handler = answering_bytes(content, status)

    told = outcome(wire.found_out)
    if isinstance(told, Delivery):
        assert told.usage.images == len(told.content["images"]) > 0
    elif told is not None:
        assert VERDICTS[told.refusal.failure] is not Verdict.UNKNOWN
        kept = json.loads(content)["data"][0]["response"]
        results = kept.get("data") if isinstance(kept.get("data"), list) else []
        assert kept["errors"]
        assert not [item for item in results if isinstance(item, dict) and item.get("taskUUID") == TASK]
