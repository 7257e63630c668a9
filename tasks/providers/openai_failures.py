"""Answers that say themselves that they failed, though their HTTP status says that all is well.

Some servers answer 200 before the model has finished, so that a failure can only stand in the body. Such an answer ends
at once, as it says: it is tried again, refused for good, or falls under the content policy. Nobody pays for it but us.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from billing.jobs.policy import Failure
from tasks.providers.base import safe_code
from tasks.providers.wire import failure_told

CODES: Mapping[str, Failure] = {
    "content_policy_violation": Failure.CONTENT_POLICY,
    "moderation_blocked": Failure.CONTENT_POLICY,
    "content_filter": Failure.CONTENT_POLICY,
    "insufficient_quota": Failure.QUOTA_EXHAUSTED,
    "billing_hard_limit_reached": Failure.QUOTA_EXHAUSTED,
}
"""Codes that say more than the status that they come with."""

_FAMILIES: tuple[tuple[re.Pattern[str], Failure], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), failure)
    for pattern, failure in (
        (r".*(policy|moderation|content_filter|safety|prohibited|flagged|blocked).*", Failure.CONTENT_POLICY),
        (r".*(quota|billing|insufficient_credits|insufficient_balance|payment).*", Failure.QUOTA_EXHAUSTED),
        (r".*rate_?limit.*|too_many_requests|requests|tokens", Failure.RATE_LIMITED),
        (r".*(overloaded|unavailable|capacity|insufficient_system_resource).*", Failure.OVERLOADED),
        (r".*(api_key|authentication|permission|unauthorized|forbidden).*", Failure.BAD_CREDENTIALS),
        (r"invalid_request_error|.*(invalid|unsupported|too_large|too_small|too_long|mismatch).*", Failure.BAD_REQUEST),
        (r".*(not_found|parse_error|length_exceeded|empty_|failed_to_download|bad_?request).*", Failure.BAD_REQUEST),
    )
)
"""Families of codes, in the order in which they are tried: those of OpenAI's ResponseError, and of gateways."""

_RESULTS = ("choices", "output", "output_text", "data", "status", "usage")
"""What an answer with a result, or on its way to one, has at least one of."""
_WORDS = ("detail", "message", "msg", "error_message", "error_msg")

FINISHES: Mapping[str, Failure] = {
    "error": Failure.SERVER_ERROR,
    "network_error": Failure.SERVER_ERROR,
    "insufficient_system_resource": Failure.OVERLOADED,
    "content_filter": Failure.CONTENT_POLICY,
    "safety": Failure.CONTENT_POLICY,
    "sensitive": Failure.CONTENT_POLICY,
    "prohibited_content": Failure.CONTENT_POLICY,
    "blocklist": Failure.CONTENT_POLICY,
    "recitation": Failure.CONTENT_POLICY,
    "spii": Failure.CONTENT_POLICY,
}
"""Reasons for which a text ended that are failures: OpenAI's, OpenRouter's, DeepSeek's, Zhipu's and Google's."""


def failure_inside(answer: Mapping[str, Any]) -> tuple[Failure, str | None] | None:
    """The failure that an answer tells, and its code; None for an answer that tells none."""
    for error in _errors(answer):
        return _failure_of_error(error)
    return None


def failure_of_code(code: str | None) -> Failure | None:
    """What an error's code means; None for a code that says nothing."""
    if code is None:
        return None
    return CODES.get(code) or next((failure for pattern, failure in _FAMILIES if pattern.fullmatch(code)), None)


def failure_of_finish(reason: object) -> Failure | None:
    """What the reason for which a text ended means where it is a failure; None where it is none."""
    return FINISHES.get(reason.lower()) if isinstance(reason, str) else None


def _errors(answer: Mapping[str, Any]) -> list[Any]:
    """What stands where errors stand: in the answer, its list of errors, its first choice, or the answer itself."""
    choices = answer.get("choices")
    first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    listed = answer.get("errors")
    places = [answer.get("error"), first.get("error"), *(listed if isinstance(listed, list) else [])]
    found = [error for error in places if isinstance(error, str | dict) and error]
    if not found and (answer.get("object") == "error" or answer.get("type") == "error" or _only_says(answer)):
        found = [dict(answer)]
    return found


def _only_says(answer: Mapping[str, Any]) -> bool:
    """Whether an answer has words for us in the place of any result, or says that it had no success."""
    if answer.get("success") is False:
        return True
    return not any(name in answer for name in _RESULTS) and any(isinstance(answer.get(name), str) for name in _WORDS)


def _failure_of_error(error: Any) -> tuple[Failure, str | None]:
    told = error if isinstance(error, dict) else {}
    codes = [told.get("code"), told.get("type"), told.get("status")]
    statuses = [status for status in map(_status, codes) if status is not None]
    status = statuses[0] if statuses else None
    named = [code for code in map(safe_code, codes) if code is not None and _status(code) is None]
    failure = next((found for code in named if (found := failure_of_code(code)) is not None), None)
    if failure is None:
        failure = Failure.SERVER_ERROR if status is None else failure_told(status)
    return failure, named[0] if named else None if status is None else str(status)


def _status(code: object) -> int | None:
    """A code that is an HTTP status, as a number or in digits."""
    if isinstance(code, str) and code.isascii() and code.isdecimal() and len(code) == 3:
        code = int(code)
    return code if isinstance(code, int) and not isinstance(code, bool) and 100 <= code <= 599 else None
