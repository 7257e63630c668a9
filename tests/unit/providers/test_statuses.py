"""What each HTTP status proves: the table of the code, held against the one of the documentation, and its rules."""

from __future__ import annotations

from collections import Counter

import pytest

from billing.jobs.policy import VERDICTS, Failure, Verdict
from tasks.providers.wire import STATUSES, failure_of_error, failure_of_status, failure_told
from tests.unit.test_architecture import ROOT

EVERY = range(100, 1_000)
WORK = {
    ("was not done", "tried again"): Verdict.RETRY,
    ("was refused", "refunded"): Verdict.REFUND,
    ("may have been done", "unknown"): Verdict.UNKNOWN,
}


def table() -> list[list[str]]:
    """The rows of the documentation's table, below its head."""
    section = (ROOT / "docs/reference/states.md").read_text().split("## What a provider's status proves\n")[1]
    lines = [line for line in section.split("\n## ")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def statuses(cell: str) -> list[int]:
    first, to, last = cell.partition(" to ")
    return list(range(int(first), int(last) + 1)) if to else [int(status) for status in cell.split(", ")]


def told() -> dict[int, str]:
    """The failure of every status, as the documentation has it."""
    *named, (other, rest, _, _) = table()
    assert other == "any other"
    pairs = [(status, failure.strip("`")) for cell, failure, _, _ in named for status in statuses(cell)]
    assert [status for status, times in Counter(status for status, _ in pairs).items() if times > 1] == []
    return {status: rest.strip("`") for status in EVERY} | dict(pairs)


def test_the_table_of_the_docs_is_the_table_of_the_code():
    assert told() == {status: str(failure_of_status(status)) for status in EVERY}


@pytest.mark.parametrize(("failure", "work", "follows"), [row[1:] for row in table()])
def test_the_docs_say_of_each_failure_what_follows_from_it(failure, work, follows):
    assert WORK[work, follows] is VERDICTS[Failure(failure.strip("`"))]


def test_a_status_that_nobody_defined_proves_nothing():
    undefined = [*(set(EVERY) - set(STATUSES)), 0, -1, 99, 1_000, 10**9]

    assert {VERDICTS[failure_of_status(status)] for status in undefined} == {Verdict.UNKNOWN}


@pytest.mark.parametrize(
    ("status", "failure", "rule"),
    [
        (400, "bad_request",     "as the table has it"),
        (402, "quota_exhausted", "as the table has it"),
        (429, "rate_limited",    "as the table has it"),
        (503, "overloaded",      "as the table has it"),
        (408, "server_error",    "the provider itself gave up"),
        (409, "server_error",    "the provider itself says that it has nothing for us"),
        (502, "server_error",    "what is behind the provider failed"),
        (504, "server_error",    "what is behind the provider failed"),
        (418, "server_error",    "whatever it means, it says that it failed"),
        (0,   "server_error",    "whatever it means, it says that it failed"),
    ],
)  # fmt: skip
def test_a_status_inside_an_answer_of_200_is_the_providers_own_word(status, failure, rule):
    assert failure_told(status) == failure, rule


def test_a_status_inside_an_answer_of_200_leaves_nothing_open():
    assert Verdict.UNKNOWN not in {VERDICTS[failure_told(status)] for status in (*EVERY, 0, -1, 10**9)}


@pytest.mark.parametrize("coded", [None, *Failure])
def test_a_code_never_proves_that_nothing_was_done_where_the_status_leaves_that_open(coded):
    for status in EVERY:
        failure = failure_of_error(status, coded)

        if VERDICTS[failure_of_status(status)] is Verdict.UNKNOWN:
            assert VERDICTS[failure] is Verdict.UNKNOWN
        else:
            assert failure is (coded or failure_of_status(status))
