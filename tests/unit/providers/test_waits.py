"""How long a provider asks us to wait: every form of it, which one counts, and what is no wish at all."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from billing.jobs.policy import VERDICTS, Failure, Verdict
from tasks.providers.waits import LONGEST_WAIT, retry_after
from tests.unit.test_architecture import ROOT

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
EPOCH_S = int(NOON.timestamp())
NOON_TOLD = "Fri, 20 Nov 2026 12:00:00 GMT"
DAY = 86_400


def wait_s(failure: Failure = Failure.RATE_LIMITED, **headers: str) -> float | None:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    wait = retry_after(named, failure, now=NOON)
    return None if wait is None else wait.total_seconds()


@pytest.mark.parametrize(
    ("value", "seconds", "rule"),
    [
        ("3",                               3,      "whole seconds"),
        ("1.5",                             1.5,    "a fraction"),
        (".5",                              0.5,    "a fraction"),
        (" 3 ",                             3,      "spaces around it"),
        ("0",                               0,      "at once"),
        ("100000",                          DAY,    "a day at most"),
        ("1" + "0" * 8,                     DAY,    "a day at most"),
        ("9" * 400,                         DAY,    "a day at most"),
        ("Fri, 20 Nov 2026 12:00:07 GMT",   7,      "a date"),
        ("Friday, 20-Nov-26 12:00:07 GMT",  7,      "a date of RFC 850"),
        ("Fri Nov 20 12:00:07 2026",        7,      "a date as C's asctime writes it"),
        ("Sun Dec  6 12:00:00 2026",        DAY,    "the same, with a day of one digit"),
        ("Sunday, 06-Nov-94 08:49:37 GMT",  0,      "two digits of a year are at most 50 years ahead"),
        ("Fri, 20 Nov 2026 11:00:00 GMT",   0,      "the past: at once"),
        ("Fri, 20 Nov 2026 12:00:60 GMT",   59,     "a leap second"),
        ("Mon, 20 Nov 2028 12:00:00 GMT",   DAY,    "a day at most"),
        ("Fri, 31 Feb 2026 12:00:00 GMT",   None,   "no day"),
        ("Fri, 20 Nov 2026 25:00:00 GMT",   None,   "no hour"),
        ("Fri, 20 Nov 2026 12:00:07 CET",   None,   "a date is in GMT"),
        ("Fri, 20 Nov 0000 12:00:00 GMT",   None,   "no year"),
        ("2026-11-20T12:00:07Z",            None,   "not a date of HTTP"),
        ("soon",                            None,   "words"),
        ("",                                None,   "nothing"),
        ("-5",                              None,   "no time"),
        ("1e3",                             None,   "no plain number"),
        (".",                               None,   "no number"),
        ("1.2.3",                           None,   "no number"),
        ("٣",                               None,   "no ASCII digit"),
        ("nan",                             None,   "no number"),
        ("inf",                             None,   "no number"),
        ("3, 3",                            None,   "said twice"),
    ],
)  # fmt: skip
def test_the_providers_wish_is_read(value, seconds, rule):
    assert wait_s(retry_after=value) == seconds, rule


@pytest.mark.parametrize(
    ("headers", "seconds", "rule"),
    [
        ({},                                                            None,   "no wish"),
        ({"retry_after_ms": "250"},                                     0.25,   "milliseconds"),
        ({"retry_after_ms": "250.5"},                                   0.2505, "fractions of them"),
        ({"retry_after_ms": "9" * 12},                                  DAY,    "a day at most"),
        ({"retry_after_ms": "250", "retry_after": "3"},                 0.25,   "the finer one counts"),
        ({"retry_after_ms": "soon", "retry_after": "3"},                3,      "the other, if it cannot be read"),
        ({"retry_after": "3", "x_ratelimit_reset_requests": "9s"},      3,      "the wish counts, not the window"),
        ({"retry_after": "soon", "x_ratelimit_reset_requests": "9s"},   9,      "the window, if it cannot be read"),
        ({"date": "Fri, 20 Nov 2026 11:59:00 GMT", "retry_after": NOON_TOLD},
                                                                        60,     "by the answer's own date"),
        ({"date": "today", "retry_after": "Fri, 20 Nov 2026 12:00:07 GMT"},
                                                                        7,      "by our clock, if that cannot be read"),
    ],
)  # fmt: skip
def test_the_first_wish_that_can_be_read_counts(headers, seconds, rule):
    assert wait_s(**headers) == seconds, rule


@pytest.mark.parametrize(
    ("value", "seconds", "rule"),
    [
        ("1s",                          1,      "a duration of OpenAI's"),
        ("6m0s",                        360,    "minutes"),
        ("20ms",                        0.02,   "milliseconds are no minutes"),
        ("1h2m3.5s",                    3723.5, "hours"),
        ("1d2h",                        DAY,    "a day at most"),
        ("150µs",                       0.00015, "less than a millisecond"),
        ("7",                           7,      "seconds"),
        ("11.382",                      11.382, "seconds"),
        (str(EPOCH_S + 7),              7,      "an instant in seconds since 1970"),
        (str((EPOCH_S + 7) * 1_000),    7,      "an instant in milliseconds since 1970"),
        (str(EPOCH_S - 7),              0,      "the past: at once"),
        ("2026-11-20T12:00:07Z",        7,      "a date of RFC 3339"),
        ("2026-11-20T13:00:07+01:00",   7,      "a date of RFC 3339, elsewhere"),
        ("2026-11-20T12:00:07",         None,   "a date of nobody's zone"),
        ("9999-12-31T23:59:59-23:59",   DAY,    "the end of time"),
        ("1s of 2",                     None,   "words"),
        ("m",                           None,   "no number"),
        ("-1s",                         None,   "no time"),
        ("",                            None,   "nothing"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "header", ["x_ratelimit_reset", "x_ratelimit_reset_requests", "anthropic_ratelimit_tokens_reset"]
)
def test_a_window_of_a_rate_limit_is_read(header, value, seconds, rule):
    assert wait_s(**{header: value}) == (None if seconds is None else pytest.approx(seconds, abs=1e-6)), rule


@pytest.mark.parametrize(
    ("requests", "tokens", "seconds", "rule"),
    [
        ("0",  "900", 5,   "the one that is used up"),
        ("9",  "0",   360, "the one that is used up"),
        ("0",  "0",   360, "both: the longer one"),
        ("9",  "900", 360, "none, so the request asked for more than is left of one: the longer one"),
        ("no", "no",  360, "nobody knows: the longer one"),
    ],
)  # fmt: skip
def test_of_several_windows_the_one_that_is_used_up_counts(requests, tokens, seconds, rule):
    openai = {
        "x_ratelimit_remaining_requests": requests,
        "x_ratelimit_remaining_tokens": tokens,
        "x_ratelimit_reset_requests": "5s",
        "x_ratelimit_reset_tokens": "6m0s",
    }
    anthropic = {
        "anthropic_ratelimit_requests_remaining": requests,
        "anthropic_ratelimit_tokens_remaining": tokens,
        "anthropic_ratelimit_requests_reset": "2026-11-20T12:00:05Z",
        "anthropic_ratelimit_tokens_reset": "2026-11-20T12:06:00Z",
    }

    assert wait_s(**openai) == wait_s(**anthropic) == seconds, rule


@pytest.mark.parametrize("failure", Failure)
def test_only_a_failure_that_is_tried_again_has_a_wait(failure):
    again = VERDICTS[failure] is Verdict.RETRY

    assert wait_s(failure, retry_after="3") == (3 if again else None)


def test_the_windows_ask_for_nothing_where_the_rate_is_not_limited():
    assert wait_s(Failure.SERVER_ERROR, x_ratelimit_reset_tokens="6m0s") is None
    assert wait_s(Failure.OVERLOADED, x_ratelimit_reset_tokens="6m0s") is None


def test_every_header_that_the_docs_name_is_read():
    section = (ROOT / "docs/reference/states.md").read_text().split("## How long a call waits")[1].split("\n\n")[2]
    cells = [row.split("|")[1] for row in section.splitlines()[2:]]
    named = [name.replace("...", "tokens") for cell in cells for name in re.findall("`([^`]+)`", cell)]

    assert len(named) == 5
    for name in named:
        value = "2026-11-20T12:00:07Z" if name.startswith("anthropic") else "7"
        assert wait_s(**{name: value}) == (0.007 if name.endswith("-ms") else 7)


NAMES = (
    *("date", "retry-after", "retry-after-ms", "x-ratelimit-reset", "x-ratelimit-reset-tokens"),
    *("x-ratelimit-remaining-tokens", "anthropic-ratelimit-tokens-reset", "anthropic-ratelimit-tokens-remaining"),
)
PIECES = st.sampled_from(
    [
        "0",
        "7",
        "99",
        "2026",
        "9" * 30,
        ".",
        "-",
        ":",
        "T",
        "Z",
        "+",
        " ",
        ", ",
        "GMT",
        "Fri",
        "Friday",
        "Nov",
        "ms",
        "s",
    ]
)
VALUES = (
    st.text(max_size=40)
    | st.lists(PIECES, max_size=12).map("".join)
    | st.datetimes().map(lambda at: at.strftime("%a, %d %b %Y %H:%M:%S GMT"))
    | st.datetimes(timezones=st.timezones()).map(datetime.isoformat)
    | st.floats().map(str)
    | st.integers().map(str)
)


@settings(deadline=None)
@given(
    headers=st.dictionaries(st.sampled_from(NAMES), VALUES),
    failure=st.sampled_from(Failure),
    now=st.datetimes(timezones=st.just(UTC)),
)
@example(headers={"x-ratelimit-reset": "0001-01-01T00:00:00+23:59"}, failure=Failure.RATE_LIMITED, now=NOON)
@example(headers={"retry-after": "Friday, 31-Dec-99 23:59:59 GMT"}, failure=Failure.OVERLOADED, now=NOON)
def test_whatever_a_header_says_the_wait_is_none_or_within_bounds(headers, failure, now):
    wait = retry_after(headers, failure, now=now)

    assert wait is None or timedelta(0) <= wait <= LONGEST_WAIT
