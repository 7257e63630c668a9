"""How long one worker waits between two tries of a call, and when it stops waiting and gives the job back.

Tenacity owns every retry; the SDKs' own are switched off. Whether a failure may be tried again at all is decided by
`billing.jobs.policy`, whose budget bounds the attempts; the time is bounded by what is set here.
"""

from __future__ import annotations

from datetime import timedelta

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential
from tenacity.stop import stop_after_delay

FIRST_WAIT_S = 0.5


class TryAgain(Exception):
    """The call failed, nothing was executed, and the budget allows another; `retry_after` is the wait asked for."""

    def __init__(self, retry_after: timedelta | None) -> None:
        super().__init__("try again")
        self.retry_after = retry_after


def retrying(*, total_s: float, wait_max_s: float) -> Retrying:
    """Tries again after TryAgain, waiting as the provider asks or with growing, random waits; RetryError at the end.

    It stops after `total_s` seconds, or at once when the provider asks for a longer wait than `wait_max_s`: that wait
    belongs in the database, not in a worker.
    """
    random_wait = wait_random_exponential(multiplier=FIRST_WAIT_S, max=wait_max_s)

    def wait(state: RetryCallState) -> float:
        return max(_asked_s(state), random_wait(state))

    def asked_too_much(state: RetryCallState) -> bool:
        return _asked_s(state) > wait_max_s

    return Retrying(
        retry=retry_if_exception_type(TryAgain),
        wait=wait,
        stop=lambda state: stop_after_delay(total_s)(state) or asked_too_much(state),
    )


def _asked_s(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    if isinstance(error, TryAgain) and error.retry_after is not None:
        return error.retry_after.total_seconds()
    return 0.0
