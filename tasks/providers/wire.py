"""What the adapters share of HTTP: what a status or a broken connection proves, and how long a provider asks to wait.

Every failure is sorted by one question: could the provider have done the work? `base` does without HTTP, so
that a module which only names a provider does not import a client.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import httpx2

from billing.jobs.calling import Refusal
from billing.jobs.policy import VERDICTS, Failure, Verdict
from tasks.providers.base import ProviderError

CONNECT_S = 5.0
LONGEST_WAIT = timedelta(days=1)
"""The longest wait that a provider is granted when it asks for one."""

STATUSES: Mapping[int, Failure] = {
    400: Failure.BAD_REQUEST,
    401: Failure.BAD_CREDENTIALS,
    402: Failure.QUOTA_EXHAUSTED,
    403: Failure.BAD_CREDENTIALS,
    404: Failure.BAD_REQUEST,
    409: Failure.OVERLOADED,
    413: Failure.BAD_REQUEST,
    422: Failure.BAD_REQUEST,
    429: Failure.RATE_LIMITED,
    500: Failure.SERVER_ERROR,
    502: Failure.SERVER_ERROR,
    503: Failure.OVERLOADED,
    # A gateway gave up waiting for the server behind it, which may have gone on.
    504: Failure.TIMED_OUT,
    524: Failure.TIMED_OUT,
}
NOTHING_WAS_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol)
# The address is not a valid URL, or the key has characters that no header can carry.
NO_CONNECTION = (httpx2.InvalidURL, UnicodeEncodeError)


def failure_of_status(status: int) -> Failure:
    """What an error status proves; a status that is not in the table is sorted by its class."""
    return STATUSES.get(status) or (Failure.SERVER_ERROR if status >= 500 else Failure.BAD_REQUEST)


def failure_told(status: int) -> Failure:
    """What a status means that stands inside an answer of 200: the provider itself says that the work failed."""
    failure = failure_of_status(status)
    return Failure.SERVER_ERROR if VERDICTS[failure] is Verdict.UNKNOWN else failure


def failure_of_break(error: BaseException | None) -> Failure:
    """What a broken connection proves: whether anything was sent before it broke."""
    if isinstance(error, NOTHING_WAS_SENT):
        return Failure.UNREACHABLE
    return Failure.TIMED_OUT if isinstance(error, httpx2.TimeoutException) else Failure.CONNECTION_LOST


def timeout(timeout_s: float) -> httpx2.Timeout:
    """At most `timeout_s` seconds for the answer, and a few for the connection."""
    return httpx2.Timeout(timeout_s, connect=CONNECT_S)


def retry_after(headers: Mapping[str, str]) -> timedelta | None:
    """How long the provider asks us to wait: a day at most, None when it does not say so in digits."""
    for name, unit in (("retry-after-ms", "milliseconds"), ("retry-after", "seconds")):
        value = headers.get(name)
        if value is not None and value.replace(".", "", 1).isdecimal():
            return min(timedelta(**{unit: min(float(value), 1e9)}), LONGEST_WAIT)
    return None


def not_configured(code: str) -> ProviderError:
    """The call cannot be made as things are set up here; nothing was sent."""
    return ProviderError(Refusal(Failure.NOT_CONFIGURED, provider_code=code))
