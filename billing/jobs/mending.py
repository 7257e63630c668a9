"""What a reported usage means: a provider's counts as a Usage, and by which rules those were mended that make no sense.

Content and usage are judged apart: what can be read is delivered, whatever its usage looks like. Every rule that was
used is noted on the call. No rule bills a token twice, and a count that is missing is made up by counting the text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from typing import Any

from billing.catalog.usage import USAGE_MAX, Usage


class Note(StrEnum):
    """A rule by which a usage was mended."""

    READ_FROM_TEXT = "read_from_text"
    ROUNDED = "rounded"
    DETAIL_IGNORED = "detail_ignored"
    REASONING_OUTSIDE = "reasoning_outside"
    REASONING_ABOVE_OUTPUT = "reasoning_above_output"
    CACHED_OUTSIDE = "cached_outside"
    CACHED_ABOVE_INPUT = "cached_above_input"
    TOTAL_DIFFERS = "total_differs"
    FROM_TOTAL = "from_total"
    INPUT_COUNTED = "input_counted"
    OUTPUT_COUNTED = "output_counted"
    OUTPUT_ASSUMED = "output_assumed"


SENTENCES: dict[Note, str] = {
    Note.READ_FROM_TEXT: "a count was reported as text and read as a number",
    Note.ROUNDED: "a count was no whole number and was rounded",
    Note.DETAIL_IGNORED: "a part was reported as no count and was left out",
    Note.REASONING_OUTSIDE: "reasoning is reported beside the output, as the total says, and was added",
    Note.REASONING_ABOVE_OUTPUT: "more reasoning than output is reported: the output is the total's, or the larger",
    Note.CACHED_OUTSIDE: "cached input is reported beside the input, as the total says, and was added",
    Note.CACHED_ABOVE_INPUT: "more cached input than input is reported: all of the input counts as cached",
    Note.TOTAL_DIFFERS: "the reported total is no sum of the reported counts and was left out",
    Note.FROM_TOTAL: "a missing count is what the total leaves",
    Note.INPUT_COUNTED: "by count: the input tokens are those of the text, counted here",
    Note.OUTPUT_COUNTED: "by count: the output tokens are those of the text, counted here",
    Note.OUTPUT_ASSUMED: "no usage was reported: the output is taken as the most that was held",
}

BY_COUNT = frozenset({Note.INPUT_COUNTED, Note.OUTPUT_COUNTED, Note.OUTPUT_ASSUMED})
"""The notes of a usage that the provider did not report."""


@dataclass(frozen=True)
class Reported:
    """A usage as an answer has it: each count is any JSON value, None where the answer says nothing of it.

    `input` and `output` are the sums; the others are parts of them, or stand beside them: that is what has to be found
    out. `cache_write` includes what is written for an hour.
    """

    input: Any = None
    cached: Any = None
    cache_write: Any = None
    cache_write_1h: Any = None
    image_input: Any = None
    audio_input: Any = None
    output: Any = None
    reasoning: Any = None
    image_output: Any = None
    audio_output: Any = None
    total: Any = None


@dataclass(frozen=True)
class Text:
    """The tokens of what was sent and of what came back, counted with the model's tokenizer.

    `assumed` is whether the output cannot be counted, as that of images, and is the most that was held instead.
    """

    input: int
    output: int
    reasoning: int = 0
    assumed: bool = False


@dataclass(frozen=True)
class Mended:
    """A usage, and the rules by which it was mended, none where it was taken as reported."""

    usage: Usage
    notes: tuple[Note, ...] = ()

    @property
    def note(self) -> str | None:
        """The notes as they are kept: their codes, a space between two."""
        return " ".join(self.notes) or None


def mend(reported: Reported, count: Callable[[], Text], *, images: int = 0, service_tier: str = "") -> Mended:
    """The usage that is meant. `count` is called only where a count is missing or impossible."""
    return _Mending(reported, count).mended(images, service_tier)


def sentences(note: str) -> list[str]:
    """What the codes of a kept note say."""
    return [SENTENCES[Note(code)] for code in note.split()]


def is_by_count(note: str | None) -> bool:
    """Whether a call with this note is charged by a count of ours."""
    return any(Note(code) in BY_COUNT for code in (note or "").split())


_NUMBER = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?")


class _Mending:
    """One usage while it is mended."""

    def __init__(self, reported: Reported, count: Callable[[], Text]) -> None:
        self._notes: list[Note] = []
        self._count = count
        self._text: Text | None = None
        self._given = {name: self._whole(value) for name, value in vars(reported).items()}
        self._said = {name for name, value in vars(reported).items() if value is not None}

    def mended(self, images: int, service_tier: str) -> Mended:
        """The usage by all rules."""
        total = self._given["total"]
        sums = self._sums(total)
        cached, reasoning = self._part("cached"), self._part("reasoning")
        whole_input, whole_output = self._summed(*sums, cached, reasoning, total)
        if cached > whole_input:
            self._notes.append(Note.CACHED_ABOVE_INPUT)
        cached, reasoning = min(cached, whole_input), min(reasoning, whole_output)
        usage = self._in_buckets(whole_input, cached, whole_output, reasoning, images, service_tier)
        return Mended(usage, tuple(note for note in Note if note in self._notes))

    def _sums(self, total: int | None) -> tuple[int, int]:
        """Input and output as reported, each made up where it is missing: from the total, or by counting."""
        # Every request has input, and no text comes of no tokens.
        given_input, given_output = self._given["input"] or None, self._given["output"]
        if given_output == 0 and self._written():
            given_output = None
        if given_input is None and given_output is None and total:
            self._notes += [Note.INPUT_COUNTED, Note.FROM_TOTAL]
            given_input = min(self._text_of().input, total)
            return given_input, total - given_input
        if total is not None and (given_input is None) != (given_output is None):
            known = given_output if given_input is None else given_input
            if known is not None and total > known:
                self._notes.append(Note.FROM_TOTAL)
                return (total - known, known) if given_input is None else (known, total - known)
        if given_input is None:
            self._notes.append(Note.INPUT_COUNTED)
            given_input = self._text_of().input
        return given_input, self._counted_output() if given_output is None else given_output

    def _summed(self, input: int, output: int, cached: int, reasoning: int, total: int | None) -> tuple[int, int]:
        """Input with its cached part, and output with its reasoning: within, or beside, as the total says."""
        for beside_input, beside_output in product((0, cached), (0, reasoning)):
            # By the order of `product`, what may stand within stands within: no token is billed twice.
            if total == input + beside_input + output + beside_output:
                break
        else:
            if total is not None and not BY_COUNT & set(self._notes):
                self._notes.append(Note.TOTAL_DIFFERS)
            total, beside_input, beside_output = None, 0, 0
        if beside_input:
            self._notes.append(Note.CACHED_OUTSIDE)
        if beside_output:
            self._notes.append(Note.REASONING_OUTSIDE)
        input, output = input + beside_input, output + beside_output
        if reasoning > output:
            self._notes.append(Note.REASONING_ABOVE_OUTPUT)
            output = reasoning if total is None else output
        return input, output

    def _in_buckets(
        self, whole_input: int, cached: int, whole_output: int, reasoning: int, images: int, service_tier: str
    ) -> Usage:
        """Every token in one bucket: a part never takes more than is left of its sum."""
        left_input, left_output = whole_input - cached, whole_output - reasoning
        written = min(self._part("cache_write"), left_input)
        for_an_hour = min(self._part("cache_write_1h"), written)
        left_input -= written
        image_input = min(self._part("image_input"), left_input)
        audio_input = min(self._part("audio_input"), left_input - image_input)
        image_output = min(self._part("image_output"), left_output)
        audio_output = min(self._part("audio_output"), left_output - image_output)
        return Usage(
            input_tokens=left_input - image_input - audio_input,
            cached_input_tokens=cached,
            output_tokens=left_output - image_output - audio_output,
            reasoning_tokens=reasoning,
            images=images,
            cache_write_tokens=written - for_an_hour,
            cache_write_1h_tokens=for_an_hour,
            image_input_tokens=image_input,
            image_output_tokens=image_output,
            audio_input_tokens=audio_input,
            audio_output_tokens=audio_output,
            service_tier=service_tier,
        )

    def _counted_output(self) -> int:
        counted = self._text_of()
        if counted.assumed:
            self._notes.append(Note.OUTPUT_ASSUMED)
        elif counted.output + counted.reasoning:
            self._notes.append(Note.OUTPUT_COUNTED)
        # Reasoning that is reported need not be in the text that can be seen.
        reasoning = self._given["reasoning"] = max(counted.reasoning, self._given["reasoning"] or 0)
        return counted.output + reasoning

    def _written(self) -> bool:
        """Whether anything came back that takes tokens."""
        counted = self._text_of()
        return bool(counted.output + counted.reasoning)

    def _text_of(self) -> Text:
        if self._text is None:
            self._text = self._count()
        return self._text

    def _part(self, name: str) -> int:
        value = self._given[name]
        if value is None and name in self._said:
            self._notes.append(Note.DETAIL_IGNORED)
        return value or 0

    def _whole(self, value: Any) -> int | None:
        """A count as a whole number, rounded to the nearest; None for what is no count."""
        if isinstance(value, str):
            typed = value.strip()
            value = float(typed) if _NUMBER.fullmatch(typed) else None
            if value is not None:
                self._notes.append(Note.READ_FROM_TEXT)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return None
        if not 0 <= value <= USAGE_MAX:
            return None
        whole = math.floor(value + 0.5)
        if whole != value:
            self._notes.append(Note.ROUNDED)
        return whole
