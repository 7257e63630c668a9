"""Requests as apps send them: what is understood, and that bad ones get one sentence that never quotes the prompt."""

from __future__ import annotations

import json
import math
import time
import traceback
from datetime import UTC, datetime
from decimal import Decimal
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from billing.errors import BillingError, InvalidRequest
from billing.jobs import requests
from billing.jobs.requests import BODY_MAX_BYTES, ImageParams, Submission, TextParams
from tests.rounds import rounds

MARKER = "MARKER-whiskey-tango"
JOB_ID = "6f1c1c0e-8f5c-4a53-9f2b-2a4f4d0f8f11"
GOOD: dict[str, Any] = {"account_id": 7, "operation": "clustering", "params": {"prompt": MARKER}}
MANY = settings(deadline=None, max_examples=rounds(300), suppress_health_check=[HealthCheck.too_slow])


def refused(data: object) -> InvalidRequest:
    """Why `parse` refuses this: one sentence, without a word of the prompt."""
    with pytest.raises(InvalidRequest) as caught:
        requests.parse(data)
    assert_one_sentence(caught.value)
    return caught.value


def refused_params(shape: type[TextParams] | type[ImageParams], params: dict[str, Any]) -> InvalidRequest:
    """Why these params are refused: one sentence, without a word of the prompt."""
    with pytest.raises(InvalidRequest) as caught:
        requests.validated(shape, params, "invalid_params")
    assert_one_sentence(caught.value)
    return caught.value


def assert_short_sentence(error: BillingError) -> None:
    assert str(error) == error.message
    assert 10 < len(error.message) < 300
    assert error.message.endswith(".")


def assert_one_sentence(error: BillingError) -> None:
    assert_short_sentence(error)
    assert "\n" not in error.message
    told = error.message + repr(error) + repr(error.facts()) + "".join(traceback.format_exception(error))
    assert MARKER not in told


def nested(levels: int, *, lists: bool = False) -> Any:
    value: Any = "bottom"
    for _ in range(levels):
        value = [value] if lists else {"a": value}
    return value


# --- What is understood ---


def test_a_whole_request_is_understood():
    given = {**GOOD, "model": "gpt-test", "user_id": 3, "idempotency_key": "k", "job_id": JOB_ID}

    assert requests.parse(given) == Submission(
        account_id=7,
        operation="clustering",
        params={"prompt": MARKER},
        model="gpt-test",
        user_id=3,
        idempotency_key="k",
        job_id=UUID(JOB_ID),
    )


def test_what_may_be_left_out_may_be_left_out_or_null():
    short = requests.parse(GOOD)

    assert (short.model, short.user_id, short.idempotency_key, short.job_id) == (None, None, None, None)
    assert short == requests.parse({**GOOD, "model": None, "user_id": None, "idempotency_key": None, "job_id": None})


def test_reading_a_request_leaves_the_given_data_as_it_was():
    given = {**GOOD, "job_id": JOB_ID}

    requests.parse(given)

    assert given == {**GOOD, "job_id": JOB_ID}


@pytest.mark.parametrize("account_id", [1, 2**31, 2**63 - 1])
def test_ids_may_be_as_large_as_the_column_holds(account_id):
    assert account_id == requests.parse({**GOOD, "account_id": account_id}).account_id


def test_an_id_may_be_a_uuid_or_its_text():
    given = UUID(JOB_ID)

    assert requests.parse({**GOOD, "job_id": given, "idempotency_key": given}) == requests.parse(
        {**GOOD, "job_id": JOB_ID, "idempotency_key": JOB_ID}
    )


class Operation(StrEnum):
    CLUSTERING = "clustering"


class Payer(IntEnum):
    BAKERY = 7


def test_what_python_writes_as_json_is_what_the_json_says():
    given = {"account_id": Payer.BAKERY, "operation": Operation.CLUSTERING, "params": {"messages": ({"role": "user"},)}}

    parsed = requests.parse(given)

    assert (type(parsed.account_id), type(parsed.operation)) == (int, str)
    assert parsed.params == {"messages": [{"role": "user"}]}


@pytest.mark.parametrize("text", ["7", "7.0", "7e0", "70e-1", "0.7E+1"])
def test_equal_numbers_are_the_same_number(text):
    parsed = requests.parse(json.loads(f'{{"account_id": {text}, "operation": "x", "params": {{"n": [{text}]}}}}'))

    assert (parsed.account_id, repr(parsed.params)) == (7, "{'n': [7]}")
    assert repr(requests.from_json(text)) == "7"


@pytest.mark.parametrize(
    ("text", "read"), [("0.7", "0.7"), ("-0.0", "0"), ("9007199254740992.0", "9007199254740992"), ("1e16", "1e+16")]
)
def test_a_number_is_whole_only_where_it_surely_is(text, read):
    # Beyond 2**53 a float may stand for several whole numbers.
    assert repr(requests.from_json(text)) == read


# --- What is not ---


@pytest.mark.parametrize("data", [None, [], [GOOD], "text", b"{}", 5, 5.0, True, (("account_id", 7),), {1, 2}])
def test_a_request_that_is_not_an_object_is_refused(data):
    error = refused(data)

    assert (error.code, error.message) == ("invalid_request", "A request must be a JSON object.")


@pytest.mark.parametrize("missing", ["account_id", "operation", "params"])
def test_a_missing_field_is_named(missing):
    error = refused({name: value for name, value in GOOD.items() if name != missing})

    assert (error.code, error.message) == ("invalid_request", f"{missing}: Field required.")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[
            (field, value)
            for field in ("account_id", "user_id")
            for value in (0, -1, 2**63, 2**70, -(2**70), "5", "", True, False, 5.5, 1e300, [5], {"id": 5})
        ],
        ("account_id", None),
        *[("operation", value) for value in ("", "x" * 51, 5, True, None, ["clustering"], {})],
        *[("model", value) for value in ("", "x" * 101, 5, False, [], {})],
        *[("idempotency_key", value) for value in ("", "x" * 201, 5, True, [], {}, [JOB_ID])],
        *[("job_id", value) for value in ("", "7", "x" * 36, JOB_ID + "0", JOB_ID[:-1], 5, True, 1.5, [], {})],
        *[("params", value) for value in (None, [], "text", 5, True, [[MARKER, 1]], MARKER)],
        *[(field, 1) for field in ("credits", "state", "created_at", "Account_id", "account_id ", "", "__class__")],
    ],
)
def test_a_bad_value_or_an_unknown_field_is_refused_by_name(field, value):
    error = refused({**GOOD, field: value})

    assert error.code == "invalid_request"
    assert error.message.startswith(field)


def test_a_job_id_of_another_form_is_refused_in_these_words():
    assert refused({**GOOD, "job_id": MARKER}).message == "job_id must be a UUID."


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [lambda x: {"account_id": x}, lambda x: {"params": {"prompt": MARKER, "t": [x]}}])
def test_nan_and_infinity_are_refused_wherever_they_stand(number, place):
    error = refused({**GOOD, **place(number)})

    assert (error.code, error.message) == (
        "invalid_request",
        "A request must be plain JSON, without NaN or infinity.",
    )


@pytest.mark.parametrize(
    "value", [b"bytes", {1, 2}, UUID(JOB_ID), 1j, Decimal("0.7"), datetime(2026, 1, 1, tzinfo=UTC), Path(MARKER)]
)
def test_what_json_cannot_write_is_refused_by_its_type(value):
    error = refused({**GOOD, "params": {"prompt": MARKER, "x": [value]}})

    name = type(value).__name__
    assert (error.code, error.message) == (
        "invalid_request",
        f"A request must be plain JSON: it holds a value of Python's type {name}.",
    )


@pytest.mark.parametrize("value", [[10**5000], {("a", "b"): 1}])
def test_what_json_has_no_words_for_is_refused(value):
    assert refused({**GOOD, "params": {"prompt": MARKER, "x": value}}).code == "invalid_request"


def test_data_that_holds_itself_is_refused():
    params: dict[str, Any] = {"prompt": MARKER}
    params["self"] = params

    assert refused({**GOOD, "params": params}).code == "invalid_request"


@pytest.mark.parametrize("key", [1, None, True, 2.5])
def test_a_field_that_is_not_named_by_text_is_refused(key):
    assert refused({**GOOD, key: 1}).code == "invalid_request"


@pytest.mark.parametrize(
    "params",
    [
        {"prompt": f"{MARKER}\x00"},
        {"prompt": f"\x00{MARKER}"},
        {"prompt": f"{MARKER}\\\x00"},
        {"prompt": f"{MARKER}\\\\\x00"},
        {"prompt": MARKER, "deep": [{"er": [{"key\x00": 1}]}]},
        {"prompt": MARKER, "deep": [{"er": ["\x00"]}]},
        {"prompt": f"{MARKER}\ud800"},
        {"prompt": f"\udfff{MARKER}"},
        {"prompt": f"{MARKER}\ude00\ud83d"},
        {"prompt": MARKER, "deep": [{"er": [{"key\udc00": 1}]}]},
    ],
)
def test_a_nul_or_a_lone_surrogate_is_refused_wherever_it_stands(params):
    assert refused({**GOOD, "params": params}).code == "invalid_text"


@pytest.mark.parametrize("field", ["operation", "model", "idempotency_key", "job_id"])
def test_a_nul_is_refused_in_every_field(field):
    assert refused({**GOOD, field: "a\x00"}).code == "invalid_text"


@pytest.mark.parametrize(
    "prompt",
    [
        r"a literal \u0000 in text",
        r"\u0000",
        r"\\u0000",
        r"two \\u0000 and three \\\u0000",
        r"a literal \ud800 in text",
        "\\" * 7 + "u0000",
        "\ue000 private use",
        "\U0001f600 \U0010ffff",
        "\x01\x1f\x7f\t\r\n",
        "e\u0301 \u202e \ufeff \ufffd \uffff",
    ],
)
def test_any_other_text_is_kept_to_the_letter(prompt):
    assert {"prompt": prompt} == requests.parse({**GOOD, "params": {"prompt": prompt}}).params


@pytest.mark.parametrize(("letter", "weight"), [("x", 1), ("é", 2), ("€", 3), ("😀", 4), ('"', 2), ("\n", 2)])
def test_a_request_may_have_a_million_bytes_and_not_one_more(letter, weight):
    empty = len(json.dumps({**GOOD, "params": {"prompt": ""}}).encode())
    whole, rest = divmod(BODY_MAX_BYTES - empty, weight)
    fits = letter * whole + "x" * rest

    assert fits == requests.parse({**GOOD, "params": {"prompt": fits}}).params["prompt"]
    error = refused({**GOOD, "params": {"prompt": fits + "x"}})
    assert (error.code, error.message) == ("body_too_large", "A request may have 1,000,000 bytes at most.")


def test_a_large_request_is_refused_whatever_makes_it_large():
    assert refused({**GOOD, "x" * 1_000_001: 1}).code == "body_too_large"
    assert refused({**GOOD, "params": {"prompt": MARKER, "many": [0] * 500_000}}).code == "body_too_large"


def test_a_million_backslashes_are_read_quickly():
    started = time.monotonic()

    requests.parse({**GOOD, "params": {"prompt": "\\" * 490_000}})
    refused({**GOOD, "params": {"prompt": "\\" * 3_000_000}})

    assert time.monotonic() - started < 5


@pytest.mark.parametrize("lists", [False, True])
@pytest.mark.parametrize("levels", [100, 500, 900, 950, 990, 1_000, 1_100, 5_000, 100_000])
def test_deep_nesting_never_crashes(levels, lists):
    data = {**GOOD, "params": {"prompt": MARKER, "deep": nested(levels, lists=lists)}}

    # How deep is too deep depends on the Python that runs; that a person's depth is not too deep does not.
    try:
        parsed = requests.parse(data)
    except InvalidRequest as error:
        assert levels > 500
        assert_one_sentence(error)
    else:
        assert parsed.params["prompt"] == MARKER


def test_the_name_of_an_unknown_field_is_cut_short():
    error = refused({**GOOD, "x" * 5_000: 1})

    assert error.message == "x" * 80 + ": there is no such field."


def test_the_name_of_an_unknown_field_cannot_break_the_line():
    refused({**GOOD, "x\nERROR all credits lost": 1})


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None, exclude_categories=()))
    | st.sampled_from([2**70, -(2**70), "\x00", "\ud800", MARKER, JOB_ID, "", " "]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
near_requests = st.fixed_dictionaries(
    {},
    optional={
        "account_id": st.integers() | st.just(7) | json_values,
        "operation": st.just("clustering") | json_values,
        "params": st.just({"prompt": MARKER}) | st.dictionaries(st.text(max_size=12), json_values, max_size=4),
        "model": json_values,
        "user_id": json_values,
        "idempotency_key": json_values,
        "job_id": st.uuids().map(str) | json_values,
        "extra": json_values,
    },
)


@MANY
@given(data=json_values | near_requests)
@example(data=GOOD)
def test_anything_is_either_understood_or_refused_in_one_sentence(data):
    try:
        parsed = requests.parse(data)
    except BillingError as error:
        assert_short_sentence(error)
    else:
        assert isinstance(parsed, Submission)
        assert parsed.params == data["params"]
        assert 1 <= parsed.account_id < 2**63
        json.dumps(parsed.params, ensure_ascii=False, allow_nan=False).encode()


# --- The params of text operations ---


@pytest.mark.parametrize(
    ("params", "texts"),
    [
        ({"prompt": "a"}, ["a"]),
        ({"prompt": "a", "system": "s"}, ["s", "a"]),
        ({"messages": [{"role": "user", "content": "a"}]}, ["a"]),
        (
            {"system": "s", "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            ["s", "a", "b"],
        ),
        ({"prompt": "a", "max_output_tokens": 16, "temperature": 0, "json_mode": True}, ["a"]),
        ({"prompt": "a", "temperature": 2, "related_object_type": "post", "related_object_id": 0}, ["a"]),
    ],
)
def test_every_text_that_the_model_reads_is_counted(params, texts):
    assert texts == requests.validated(TextParams, params, "invalid_params").texts()


BAD_TEXT = [
    ("prompt", {}),
    ("prompt", {"prompt": MARKER, "messages": [{"role": "user", "content": MARKER}]}),
    ("prompt", {"prompt": ""}),
    *[("prompt", {"prompt": value}) for value in (5, True, [MARKER], {"text": MARKER})],
    *[("system", {"prompt": MARKER, "system": value}) for value in ("", 5, [MARKER])],
    *[
        ("max_output_tokens", {"prompt": MARKER, "max_output_tokens": value})
        for value in (0, -1, 15, -(2**70), "100", True, 100.0, 1e300, [100])
    ],
    *[
        ("temperature", {"prompt": MARKER, "temperature": value})
        for value in (-0.1, 2.1, 2**70, math.nan, math.inf, "1", True, [1])
    ],
    *[("json_mode", {"prompt": MARKER, "json_mode": value}) for value in (0, 1, "true", None, [])],
    *[("messages", {"messages": value}) for value in ([], MARKER, {"role": "user", "content": MARKER}, 5)],
    ("messages", {"messages": [{"role": "user", "content": MARKER}] * 201}),
    ("messages.0", {"messages": [MARKER]}),
    ("messages.1", {"messages": [{"role": "user", "content": "a"}, None]}),
    ("messages.0.role", {"messages": [{"role": "tool", "content": MARKER}]}),
    ("messages.0.role", {"messages": [{"role": MARKER, "content": MARKER}]}),
    ("messages.0.role", {"messages": [{"content": MARKER}]}),
    ("messages.0.content", {"messages": [{"role": "user"}]}),
    ("messages.0.content", {"messages": [{"role": "user", "content": ""}]}),
    ("messages.0.content", {"messages": [{"role": "user", "content": [{"type": "text", "text": MARKER}]}]}),
    ("messages.0.name", {"messages": [{"role": "user", "content": MARKER, "name": MARKER}]}),
    *[
        ("related_object_id", {"prompt": MARKER, "related_object_id": value})
        for value in (-1, 2**63, 2**70, "5", True, 5.0)
    ],
    *[("related_object_type", {"prompt": MARKER, "related_object_type": value}) for value in ("", "x" * 51, 5, True)],
    ("stream", {"prompt": MARKER, "stream": True}),
    ("n", {"prompt": MARKER, "n": 1}),
]


@pytest.mark.parametrize(("place", "params"), BAD_TEXT)
def test_bad_text_params_are_refused_by_name(place, params):
    error = refused_params(TextParams, params)

    assert error.code == "invalid_params"
    assert place in error.message


# --- The params of image operations ---


def test_an_image_needs_no_more_than_a_prompt():
    params = requests.validated(ImageParams, {"prompt": "dogs"}, "invalid_params")

    assert (params.n, params.size, params.quality, params.style) == (1, None, None, None)


BAD_IMAGE = [
    ("prompt", {}),
    *[("prompt", {"prompt": value}) for value in ("", None, 5, [MARKER])],
    *[("n", {"prompt": MARKER, "n": value}) for value in (0, -1, -(2**70), "1", True, 1.0, 1.5, None, [1])],
    *[
        ("size", {"prompt": MARKER, "size": value})
        for value in ("", "1024", "1024X1024", "1x1", "123456x100", "1024x1024\n", " 1024x1024", MARKER, 1024)
    ],
    *[("quality", {"prompt": MARKER, "quality": value}) for value in ("", "HD", "h d", "x" * 21, MARKER, 5)],
    *[("style", {"prompt": MARKER, "style": value}) for value in ("", "Noir", MARKER, 5, True)],
    ("max_output_tokens", {"prompt": MARKER, "max_output_tokens": 100}),
    ("messages", {"prompt": MARKER, "messages": [{"role": "user", "content": MARKER}]}),
]


@pytest.mark.parametrize(("place", "params"), BAD_IMAGE)
def test_bad_image_params_are_refused_by_name(place, params):
    error = refused_params(ImageParams, params)

    assert error.code == "invalid_params"
    assert place in error.message


params_like = st.dictionaries(
    st.sampled_from([*TextParams.model_fields, *ImageParams.model_fields, "other"]), json_values, max_size=5
)


@MANY
@given(params=params_like, shape=st.sampled_from([TextParams, ImageParams]))
def test_any_params_are_either_understood_or_refused_in_one_sentence(params, shape):
    try:
        understood = requests.validated(shape, {"prompt": MARKER, **params}, "invalid_params")
    except InvalidRequest as error:
        assert_one_sentence(error)
    else:
        assert isinstance(understood, shape)
