"""Whatever an OpenAI server answers, the adapter delivers or says why not, in no words of the provider."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import httpx2
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.providers.base import ProviderError
from tests.rounds import rounds
from tests.unit.providers.any_json import json_values
from tests.unit.providers.openai_wire import ANSWERS, Wire, answering, assert_no_words


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
