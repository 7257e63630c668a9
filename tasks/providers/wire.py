"""What the adapters share of HTTP: what a status or a broken connection proves.

Every failure is sorted by one question: could the provider have done the work? `base` does without HTTP, so
that a module which only names a provider does not import a client. How long to wait is in `waits`.
"""

from __future__ import annotations

from collections.abc import Mapping

import httpx2

from billing.jobs.calling import Refusal
from billing.jobs.policy import VERDICTS, Failure, Verdict
from tasks.providers.base import ProviderError

CONNECT_S = 5.0

STATUSES: Mapping[int, Failure] = {
    # Surely not done: refused at the door, or the provider was not reached.
    425: Failure.OVERLOADED,
    429: Failure.RATE_LIMITED,
    # Whatever its body: a gateway that loses the server behind it says 502 or 504, never 500.
    500: Failure.SERVER_ERROR,
    503: Failure.OVERLOADED,
    529: Failure.OVERLOADED,
    # Cloudflare's, which had no connection to the provider: it is down, not found, or its certificate is not accepted.
    # https://developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-5xx-errors/
    521: Failure.UNREACHABLE,
    523: Failure.UNREACHABLE,
    525: Failure.UNREACHABLE,
    526: Failure.UNREACHABLE,
    530: Failure.UNREACHABLE,
    # Refused for good: the same request would be refused again.
    **dict.fromkeys((400, 404, 405, 406, 410, 411, 413, 414, 415, 416, 417), Failure.BAD_REQUEST),
    **dict.fromkeys((422, 426, 428, 431, 501, 505), Failure.BAD_REQUEST),
    401: Failure.BAD_CREDENTIALS,
    402: Failure.QUOTA_EXHAUSTED,
    403: Failure.BAD_CREDENTIALS,
    407: Failure.BAD_CREDENTIALS,
    451: Failure.CONTENT_POLICY,
    # A redirect is not followed: the address that is set is not the provider's.
    **dict.fromkeys(range(300, 400), Failure.NOT_CONFIGURED),
    # May have been done. Gateways say 408 when the model took too long; the server behind may have gone on.
    408: Failure.TIMED_OUT,
    504: Failure.TIMED_OUT,
    522: Failure.TIMED_OUT,
    524: Failure.TIMED_OUT,
    # A request under the same key is being worked on, or was: an earlier copy of this one.
    409: Failure.CONFLICT,
    # The connection to the server behind the gateway was given up (499) or broke in the middle. In the provider's own
    # form too: who sells other providers' models says 502 when one of theirs has answered with nonsense.
    499: Failure.GATEWAY_ERROR,
    502: Failure.GATEWAY_ERROR,
    520: Failure.GATEWAY_ERROR,
}
"""What each status proves, by the verdict on its failure (`billing.jobs.policy`); the documentation has the same table.

Every other status is UNREADABLE_ANSWER: what nobody defined proves nothing.
"""
# A proxy that refuses to connect us has passed nothing on.
NOTHING_WAS_SENT = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.ProxyError,
    httpx2.UnsupportedProtocol,
)
# The address is not a valid URL, or the key has characters that no header can carry.
NO_CONNECTION = (httpx2.InvalidURL, UnicodeEncodeError)


def failure_of_status(status: int) -> Failure:
    """What a status that is no success proves; one that is not in the table proves nothing."""
    return STATUSES.get(status, Failure.UNREADABLE_ANSWER)


def failure_of_error(status: int, coded: Failure | None) -> Failure:
    """What an error answer proves, by its status and by its code; `coded` is None where the code says nothing to us.

    The code says more than the status, but for one thing: it does not prove that nothing was done where the status
    leaves that open, for then the code may be a gateway's.
    """
    by_status = failure_of_status(status)
    if coded is None:
        return by_status
    left_open = VERDICTS[by_status] is Verdict.UNKNOWN and VERDICTS[coded] is not Verdict.UNKNOWN
    return by_status if left_open else coded


def failure_told(status: int) -> Failure:
    """What a status proves that stands inside an answer of 200, as `{"error": {"code": 502}}`.

    There the provider itself says that it failed, whatever happened behind it: nothing was delivered, and nothing will
    be. So what would leave the outcome open as an HTTP status is the provider's error, and is tried again.
    """
    failure = failure_of_status(status)
    return Failure.SERVER_ERROR if VERDICTS[failure] is Verdict.UNKNOWN else failure


def failure_of_break(error: BaseException | None) -> Failure:
    """What a broken connection proves: whether anything was sent before it broke, and whether an answer came."""
    if isinstance(error, NOTHING_WAS_SENT):
        return Failure.UNREACHABLE
    if isinstance(error, httpx2.DecodingError):
        return Failure.UNREADABLE_ANSWER
    return Failure.TIMED_OUT if isinstance(error, httpx2.TimeoutException) else Failure.CONNECTION_LOST


def timeout(timeout_s: float) -> httpx2.Timeout:
    """At most `timeout_s` seconds for the whole call (see `client`), of which a few for the connection."""
    return httpx2.Timeout(timeout_s, connect=CONNECT_S)


def not_configured(code: str) -> ProviderError:
    """The call cannot be made as things are set up here; nothing was sent."""
    return ProviderError(Refusal(Failure.NOT_CONFIGURED, provider_code=code))
