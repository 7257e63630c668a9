"""A job in parts: how its work is divided among its calls, and what they used together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.catalog.usage import USAGE_MAX, Usage, Work
from billing.jobs import parts

# The work of a job: input, output, images, images a call. Its parts: input, output and images of each.
DIVIDED = [
    (Work(100, 400),               [(100, 400, 0)],                                 "a text is one part"),
    (Work(images=4),               [(0, 0, 4)],                                     "one call makes all"),
    (Work(images=1, images_per_call=1), [(0, 0, 1)],                                "one image is one part"),
    (Work(images=3, images_per_call=1), [(0, 0, 1)] * 3,                            "a call for each"),
    (Work(images=5, images_per_call=2), [(0, 0, 2), (0, 0, 2), (0, 0, 1)],          "the rest by the last"),
    (Work(images=2, images_per_call=4), [(0, 0, 2)],                                "fewer than one call makes"),
    (Work(90, 5000, 5, 2),         [(30, 2000, 2), (30, 2000, 2), (30, 1000, 1)],   "the prompt is sent with each"),
]  # fmt: skip


@pytest.mark.parametrize(("work", "shares", "rule"), DIVIDED)
def test_work_is_divided_among_calls(work, shares, rule):
    divided = [parts.share(work, number) for number in range(1, parts.count(work) + 1)]

    assert [(each.input_tokens, each.max_output_tokens, each.images) for each in divided] == shares, rule


@given(images=st.integers(1, 1_000), each=st.integers(0, 1_000), tokens=st.integers(0, 10_000))
def test_the_parts_are_the_whole_and_none_is_without_an_image(images, each, tokens):
    calls = parts.count(Work(images=images, images_per_call=each))
    work = Work(tokens * calls, tokens * images, images, each)
    shares = [parts.share(work, number) for number in range(1, calls + 1)]

    assert sum(share.images for share in shares) == images
    assert sum(share.input_tokens for share in shares) == work.input_tokens
    assert sum(share.max_output_tokens for share in shares) == work.max_output_tokens
    assert min(share.images for share in shares) >= 1


def test_a_number_above_the_last_part_is_the_last():
    assert parts.share(Work(images=5, images_per_call=2), 9) == Work(images=1)


def test_what_several_calls_used_is_the_sum_of_each_bucket():
    used = [Usage(input_tokens=10, image_output_tokens=1056, images=1), Usage(cached_input_tokens=10, images=2)]

    together = Usage(input_tokens=10, cached_input_tokens=10, image_output_tokens=1056, images=3)
    assert Usage.total(used) == together


@pytest.mark.parametrize(
    ("tiers", "told"), [(["flex", "flex"], "flex"), (["flex", ""], ""), (["flex", "priority"], "")]
)
def test_the_tier_is_told_where_all_calls_had_it(tiers, told):
    assert Usage.total([Usage(service_tier=tier) for tier in tiers]).service_tier == told


def test_what_no_column_holds_is_the_most_that_it_holds():
    assert Usage.total([Usage(input_tokens=USAGE_MAX)] * 2).input_tokens == USAGE_MAX
