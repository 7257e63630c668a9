"""What a reported usage means, as a table of cases; and that no token is billed twice whatever is reported."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.catalog.usage import USAGE_MAX, Usage
from billing.jobs.mending import SENTENCES, Note, Reported, Text, is_by_count, mend, sentences
from tests.rounds import rounds

PROJECT = Path(__file__).parents[3]
TEXT = Text(input=10, output=20, reasoning=5)


def uncalled() -> Text:
    raise AssertionError("nothing is counted where everything is reported")


def usage(input=0, cached=0, output=0, reasoning=0, **others):
    return Usage(input, cached, output, reasoning, **others)


# fmt: off
CASES = [
    # input, cached, output, reasoning, total input, cached, output, reasoning notes
    ((100, 40, 400, 150, 500), (60, 40, 250, 150), "", "parts stand within"),
    ((100, 40, 400, 150, None), (60, 40, 250, 150), "", "without a total, parts stand within"),
    ((12, None, 1, 386, 399), (12, 0, 1, 386), "reasoning_outside", "reasoning beside, as the total says"),
    ((1012, 128, 149, 120, 1281), (884, 128, 149, 120), "reasoning_outside", "also where it could stand within"),
    ((12, None, 1, 386, None), (12, 0, 0, 386), "reasoning_above_output", "more reasoning than output: the larger"),
    ((12, None, 1, 386, 13), (12, 0, 0, 1), "reasoning_above_output", "the total says how much it is at most"),
    ((10, 900, 50, None, 960), (10, 900, 50, 0), "cached_outside", "cached beside, as the total says"),
    ((10, 900, 50, 30, 990), (10, 900, 50, 30), "reasoning_outside cached_outside", "both"),
    ((100, 101, 50, None, 150), (0, 100, 50, 0), "cached_above_input", "cached above input: all of it"),
    ((100, 101, 50, None, None), (0, 100, 50, 0), "cached_above_input", "the same without a total"),
    ((100, 40, 400, 150, 777), (60, 40, 250, 150), "total_differs", "a total that is no sum"),
    ((99.5, None, 400, None, None), (100, 0, 400, 0), "rounded", "a fraction"),
    ((100.0, None, 400.0, None, 500.0), (100, 0, 400, 0), "", "whole numbers in another form"),
    (("100", None, " 400 ", None, "500"), (100, 0, 400, 0), "read_from_text", "numbers as text"),
    ((100, -1, 400, {}, 500), (100, 0, 400, 0), "detail_ignored", "parts that are no counts"),
    ((None, None, 400, None, 500), (100, 0, 400, 0), "from_total", "input is what the total leaves"),
    ((100, None, None, None, 500), (100, 0, 400, 0), "from_total", "output is what the total leaves"),
    ((0, 100, 400, None, 500), (0, 100, 400, 0), "from_total", "input of 0 is none"),
    ((100, None, 0, None, 500), (100, 0, 400, 0), "from_total", "text of 0 tokens is none"),
    ((None, None, None, None, 500), (10, 0, 490, 0), "from_total input_counted", "a total alone"),
    ((None, None, 400, None, None), (10, 0, 400, 0), "input_counted", "input is missing"),
    ((-5, None, 400, None, None), (10, 0, 400, 0), "input_counted", "input is impossible"),
    ((True, None, 400, None, None), (10, 0, 400, 0), "input_counted", "a truth is no count"),
    ((100, None, "many", None, None), (100, 0, 20, 5), "output_counted", "output is words"),
    ((100, None, 1e300, None, None), (100, 0, 20, 5), "output_counted", "output beyond all counts"),
    ((100, None, None, 386, None), (100, 0, 20, 386), "output_counted", "reasoning that is reported is not seen"),
    ((0, 0, 0, 0, 0), (10, 0, 20, 5), "input_counted output_counted", "zero usage for a text"),
    ((None, None, None, None, None), (10, 0, 20, 5), "input_counted output_counted", "no usage"),
    ((None, 900, None, None, None), (0, 10, 20, 5), "cached_above_input input_counted output_counted", "a part"),
]
# fmt: on


@pytest.mark.parametrize(("reported", "expected", "notes", "rule"), CASES, ids=[case[-1] for case in CASES])
def test_a_usage_is_mended_by_its_rule(reported, expected, notes, rule):
    given_input, cached, output, reasoning, total = reported

    mended = mend(
        Reported(input=given_input, cached=cached, output=output, reasoning=reasoning, total=total), lambda: TEXT
    )

    assert mended.usage == usage(*expected), rule
    assert sorted(mended.notes) == sorted(notes.split()), rule


def test_nothing_is_counted_where_everything_is_reported():
    assert mend(Reported(input=12, output=1, total=13), uncalled).usage == usage(12, 0, 1)


def test_what_was_not_written_needs_no_count():
    mended = mend(Reported(input=12, output=0), lambda: Text(12, 0))

    assert (mended.usage, mended.notes) == (usage(12), ())


PARTS = [
    ({"input": 18014, "cache_write": 18011, "output": 5}, usage(3, output=5, cache_write_tokens=18011)),
    (
        {"input": 100, "cache_write": 80, "cache_write_1h": 30, "output": 5},
        usage(20, output=5, cache_write_tokens=50, cache_write_1h_tokens=30),
    ),
    ({"input": 100, "cached": 70, "cache_write": 80, "output": 5}, usage(0, 70, 5, cache_write_tokens=30)),
    (
        {"input": 100, "image_input": 60, "audio_input": 30, "output": 5},
        usage(10, output=5, image_input_tokens=60, audio_input_tokens=30),
    ),
    ({"input": 22, "output": 1372, "image_output": 1372}, usage(22, image_output_tokens=1372)),
    (
        {"input": 22, "output": 100, "reasoning": 60, "image_output": 90},
        usage(22, reasoning=60, image_output_tokens=40),
    ),
    ({"input": 22, "output": 100, "audio_output": 90}, usage(22, output=10, audio_output_tokens=90)),
]


@pytest.mark.parametrize(("reported", "expected"), PARTS)
def test_every_token_is_in_one_bucket(reported, expected):
    assert mend(Reported(**reported), uncalled).usage == expected


def test_images_without_usage_are_taken_as_the_most_that_was_held():
    mended = mend(Reported(), lambda: Text(22, 6240, assumed=True), images=1)

    assert mended.usage == Usage(input_tokens=22, output_tokens=6240, images=1)
    assert mended.note == "input_counted output_assumed"
    assert is_by_count(mended.note)


def test_a_note_is_told_in_sentences():
    assert sentences("rounded total_differs") == [SENTENCES[Note.ROUNDED], SENTENCES[Note.TOTAL_DIFFERS]]
    assert not is_by_count("rounded total_differs")
    assert not is_by_count(None)


def test_every_note_has_a_sentence():
    assert set(SENTENCES) == set(Note)


def test_the_documentation_has_every_rule():
    section = (PROJECT / "docs/explanation/money.md").read_text().split("## Usage as it is reported\n")[1]
    rows = [line.strip("| ").split(" | ") for line in section.split("\n## ")[0].splitlines() if line.startswith("| `")]

    assert {code.strip("`"): rule for code, rule in rows} == {str(note): rule for note, rule in SENTENCES.items()}


counts = st.none() | st.integers(0, 5_000)
values = (
    counts | st.booleans() | st.floats() | st.text(max_size=5) | st.integers() | st.lists(st.integers(), max_size=2)
)


@settings(deadline=None, max_examples=rounds(500))
@given(data=st.fixed_dictionaries(dict.fromkeys(Reported.__dataclass_fields__, values)))
def test_whatever_is_reported_is_mended(data):
    mended = mend(Reported(**data), lambda: TEXT)

    assert 0 < mended.usage.total_tokens <= 4 * USAGE_MAX


@settings(deadline=None, max_examples=rounds(500))
@given(data=st.fixed_dictionaries(dict.fromkeys(Reported.__dataclass_fields__, counts)))
def test_no_token_is_billed_twice(data):
    reported = Reported(**data)

    mended = mend(reported, lambda: TEXT)

    sides = [
        (mended.usage.total_input_tokens, reported.input, reported.cached, TEXT.input),
        (mended.usage.total_output_tokens, reported.output, reported.reasoning, TEXT.output + TEXT.reasoning),
    ]
    for billed, whole, part, counted in sides:
        allowed = {whole or 0, part or 0, counted, counted + (part or 0)}
        if reported.total is not None:
            allowed |= {(whole or 0) + (part or 0)}
        assert billed <= max(*allowed, reported.total or 0)
    if reported.total and reported.input and reported.output and Note.TOTAL_DIFFERS not in mended.notes:
        assert mended.usage.total_tokens == reported.total
