"""What follows a failure, as a table: who tries again, who is refunded, and what stays unknown."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.jobs.policy import SENTENCES, VERDICTS, Failure, RetryBudget, Verdict, republish_delay, verdict

FOUR_TRIES = RetryBudget(attempts=4, wait_max=timedelta(seconds=20))


LEDGER = [
    ("rate_limited", "retry", "refused at the door"),
    ("overloaded", "retry", "refused at the door"),
    ("server_error", "retry", "refused at the door"),
    ("unreachable", "retry", "never sent"),
    ("content_policy", "refund", "refused for good"),
    ("bad_request", "refund", "refused for good"),
    ("bad_credentials", "refund", "refused for good"),
    ("quota_exhausted", "refund", "refused for good"),
    ("not_configured", "refund", "never sent, and no other try would be"),
    ("empty_answer", "refund", "done, and another try would be paid for again"),
    ("timed_out", "unknown", "sent, and it may have been done"),
    ("connection_lost", "unknown", "sent, and it may have been done"),
    ("gateway_error", "unknown", "sent, and perhaps passed on"),
    ("conflict", "unknown", "sent before, and it may have been done"),
    ("unreadable_answer", "unknown", "answered, so it was done"),
    ("worker_lost", "unknown", "perhaps sent, and it may have been done"),
]


@pytest.mark.parametrize(("failure", "expected", "rule"), LEDGER)
def test_a_failure_leads_to_its_verdict(failure, expected, rule):
    assert Verdict(expected) is verdict(Failure(failure), attempts=1, budget=FOUR_TRIES), rule


def test_the_ledger_above_leaves_out_no_failure():
    assert [failure for failure, _, _ in LEDGER] == [str(failure) for failure in Failure]


@pytest.mark.parametrize("failure", Failure)
def test_every_failure_has_a_verdict_and_one_sentence(failure):
    sentence = SENTENCES[failure]

    assert failure in VERDICTS
    assert sentence[0].isupper()
    assert sentence.endswith(".")
    assert sentence.count(".") == 1
    assert "\n" not in sentence


def test_no_two_failures_have_the_same_sentence():
    assert len(Failure) == len(set(SENTENCES.values())) == len(SENTENCES) == len(VERDICTS)


@pytest.mark.parametrize(
    ("attempts", "expected"), [(1, Verdict.RETRY), (3, Verdict.RETRY), (4, Verdict.REFUND), (5, Verdict.REFUND)]
)
def test_a_retry_becomes_a_refund_exactly_when_the_attempts_are_spent(attempts, expected):
    assert expected is verdict(Failure.RATE_LIMITED, attempts=attempts, budget=FOUR_TRIES)


@settings(deadline=None)
@given(
    failure=st.sampled_from(Failure),
    attempts=st.integers(min_value=1, max_value=100),
    allowed=st.integers(min_value=1, max_value=20),
)
def test_only_what_was_proven_not_executed_is_ever_tried_again(failure, attempts, allowed):
    decided = verdict(failure, attempts=attempts, budget=RetryBudget(allowed, timedelta(seconds=1)))

    if decided is Verdict.RETRY:
        assert failure in {"rate_limited", "overloaded", "server_error", "unreachable"}
        assert attempts < allowed
    if failure in {"timed_out", "connection_lost", "gateway_error", "conflict", "unreadable_answer", "worker_lost"}:
        assert decided is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("times", "first_s", "delay_s", "rule"),
    [
        (0, 60, 60, "the first wait"),
        (1, 60, 120, "doubled"),
        (2, 60, 240, "doubled again"),
        (3, 60, 480, "and again"),
        (4, 60, 900, "15 minutes at most"),
        (5, 60, 900, "and for ever"),
        (10**9, 60, 900, "however often"),
        (0, 3600, 900, "even the first"),
        (4, 1, 16, "a short first wait doubles four times"),
        (9, 1, 16, "and no more"),
    ],
)
def test_a_message_is_published_again_after_doubling_waits(times, first_s, delay_s, rule):
    assert timedelta(seconds=delay_s) == republish_delay(times, timedelta(seconds=first_s)), rule
