"""Units of a plan's allowance: the most that a request can use, and what it did use."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.catalog.usage import Usage, Work
from billing.plans.units import LimitUnit, estimate_units, used_units


@pytest.mark.parametrize(
    ("unit", "max_output", "images", "expected", "rule"),
    [
        ("requests", 1000, 0, 1, "a request is one"),
        ("requests", 0, 4, 1, "whatever it asks for"),
        ("images", 0, 4, 4, "the images asked for"),
        ("images", 1000, 0, 0, "text holds no images"),
        ("words", 100, 0, 75, "75 words for 100 tokens"),
        ("words", 1000, 0, 750, "and so on"),
        ("words", 1, 0, 1, "rounded up"),
        ("words", 101, 0, 76, "rounded up: 75.75"),
        ("words", 0, 4, 0, "images hold no words"),
    ],
)
def test_a_request_holds_the_most_that_it_can_use(unit, max_output, images, expected, rule):
    work = Work(input_tokens=500, max_output_tokens=max_output, images=images)

    assert expected == estimate_units(LimitUnit(unit), work, words_per_100_tokens=75), rule


@pytest.mark.parametrize(
    ("unit", "images", "words", "held", "expected", "rule"),
    [
        ("requests", 0, 2, 1, 1, "a request was used"),
        ("requests", 0, 2, 0, 0, "none was held: the job began before the limit"),
        ("images", 3, 0, 4, 3, "three of four"),
        ("images", 4, 0, 4, 4, "all of them"),
        ("images", 6, 0, 4, 4, "never more than were held"),
        ("images", 0, 0, 4, 0, "none was delivered"),
        ("words", 0, 2, 750, 2, "the words of the answer"),
        ("words", 0, 3, 2, 2, "never more than were held"),
        ("words", 0, 0, 750, 0, "an empty answer, or none"),
    ],
)
def test_a_job_uses_what_was_delivered_and_never_more_than_it_held(unit, images, words, held, expected, rule):
    assert expected == used_units(LimitUnit(unit), Usage(images=images), words, held=held), rule


@settings(deadline=None)
@given(
    unit=st.sampled_from(LimitUnit),
    images=st.integers(min_value=0, max_value=100),
    words=st.integers(min_value=0, max_value=100),
    held=st.integers(min_value=0, max_value=100),
)
def test_units_used_lie_between_none_and_those_held(unit, images, words, held):
    assert 0 <= used_units(unit, Usage(images=images), words, held=held) <= held
