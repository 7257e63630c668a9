"""What a provider call's outcome means: who pays, whether to try again, and what is proven.

The rule behind the table: only a call that was proven not to have been executed may be tried again, because a
second call for work that the provider already did would be paid for twice (see "Who pays" in the documentation).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum


class Failure(StrEnum):
    """Why a provider call brought no result."""

    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    SERVER_ERROR = "server_error"
    UNREACHABLE = "unreachable"
    CONTENT_POLICY = "content_policy"
    BAD_REQUEST = "bad_request"
    BAD_CREDENTIALS = "bad_credentials"
    QUOTA_EXHAUSTED = "quota_exhausted"
    NOT_CONFIGURED = "not_configured"
    EMPTY_ANSWER = "empty_answer"
    TIMED_OUT = "timed_out"
    CONNECTION_LOST = "connection_lost"
    GATEWAY_ERROR = "gateway_error"
    CONFLICT = "conflict"
    UNREADABLE_ANSWER = "unreadable_answer"
    WORKER_LOST = "worker_lost"


class Verdict(StrEnum):
    """What to do after a failure."""

    RETRY = "retry"
    REFUND = "refund"
    # As REFUND, of a job that is done in parts of which some were delivered: these are charged.
    CONCLUDE = "conclude"
    UNKNOWN = "unknown"


class Means(StrEnum):
    """How a call whose outcome is unknown can be resolved."""

    # The provider keeps what it did under an id of ours: it is asked, and does no work.
    LOOK_UP = "look_up"
    # The provider does the work of one idempotency key once: the request is sent again, under the same key.
    RESEND = "resend"
    # Neither: recovery waits, and then gives the call up.
    WAIT = "wait"


class Outcome(StrEnum):
    """How a call whose outcome was unknown is resolved."""

    # The work was done and its result is at hand: the customer pays for it.
    DELIVERED = "delivered"
    # The work was done and its result cannot be had: the cost is ours.
    EXECUTED = "executed"
    # The provider did nothing: nobody pays.
    NOT_EXECUTED = "not_executed"


VERDICTS: dict[Failure, Verdict] = {
    # Refused before any work: nothing was executed, so another try cannot be paid for twice.
    Failure.RATE_LIMITED: Verdict.RETRY,
    Failure.OVERLOADED: Verdict.RETRY,
    Failure.SERVER_ERROR: Verdict.RETRY,
    Failure.UNREACHABLE: Verdict.RETRY,
    # Refused for good: another try would be refused as well.
    Failure.CONTENT_POLICY: Verdict.REFUND,
    Failure.BAD_REQUEST: Verdict.REFUND,
    Failure.BAD_CREDENTIALS: Verdict.REFUND,
    Failure.QUOTA_EXHAUSTED: Verdict.REFUND,
    Failure.NOT_CONFIGURED: Verdict.REFUND,
    # The work was done and brought nothing: another try would be paid for again.
    Failure.EMPTY_ANSWER: Verdict.REFUND,
    # Sent, and no readable answer came back: the provider may have done the work.
    Failure.TIMED_OUT: Verdict.UNKNOWN,
    Failure.CONNECTION_LOST: Verdict.UNKNOWN,
    Failure.GATEWAY_ERROR: Verdict.UNKNOWN,
    Failure.CONFLICT: Verdict.UNKNOWN,
    Failure.UNREADABLE_ANSWER: Verdict.UNKNOWN,
    Failure.WORKER_LOST: Verdict.UNKNOWN,
}

SENTENCES: dict[Failure, str] = {
    Failure.RATE_LIMITED: "The provider limits the rate of requests.",
    Failure.OVERLOADED: "The provider is overloaded.",
    Failure.SERVER_ERROR: "The provider had an internal error.",
    Failure.UNREACHABLE: "The provider could not be reached.",
    Failure.CONTENT_POLICY: "The provider refused the request under its content policy.",
    Failure.BAD_REQUEST: "The provider refused the request as invalid.",
    Failure.BAD_CREDENTIALS: "The provider refused our API key.",
    Failure.QUOTA_EXHAUSTED: "Our account with the provider has run out of quota.",
    Failure.NOT_CONFIGURED: "The provider is not set up here, or has no API key.",
    Failure.EMPTY_ANSWER: "The provider's answer holds no result.",
    Failure.TIMED_OUT: "The provider did not answer in time; whether it did the work is not known.",
    Failure.CONNECTION_LOST: "The connection broke after the request was sent; whether the work was done is not known.",
    Failure.GATEWAY_ERROR: "A gateway answered instead of the provider; whether the work was done is not known.",
    Failure.CONFLICT: "The provider has this request already; whether the work was done is not known.",
    Failure.UNREADABLE_ANSWER: "The provider's answer could not be read; whether the work was done is not known.",
    Failure.WORKER_LOST: "The worker was lost during the call; whether the provider did the work is not known.",
}


@dataclass(frozen=True)
class RetryBudget:
    """How often and how long one job's call may be tried: attempts in all, and the time between two of them."""

    attempts: int
    wait_max: timedelta


def verdict(failure: Failure, *, attempts: int, budget: RetryBudget) -> Verdict:
    """What to do after this failure of a job that has made `attempts` calls so far."""
    decided = VERDICTS[failure]
    if decided is Verdict.RETRY and attempts >= budget.attempts:
        return Verdict.REFUND
    return decided


def republish_delay(times: int, first: timedelta) -> timedelta:
    """How long to wait before a job's message is published again, for the `times`-th time.

    The wait doubles up to four times, which sheds load in an outage and ends soon after it; it is 15 minutes at most.
    """
    return min(first * 2 ** min(times, 4), timedelta(minutes=15))
