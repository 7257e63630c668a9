"""What each code of an error means, for whoever meets it."""

from __future__ import annotations

from collections.abc import Mapping

CODES: Mapping[str, tuple[int, str]] = {
    "invalid_json": (400, "The body is not valid JSON."),
    "invalid_request": (400, "A field is missing, unknown, or of the wrong kind; the sentence names it."),
    "invalid_params": (400, "A parameter of the operation does not fit; the sentence names it."),
    "invalid_text": (400, "A text holds what no text can: a NUL, half a letter, or what cannot be printed."),
    "invalid_cursor": (400, "The cursor is not one that this list gave."),
    "invalid_span": (400, "The days end before they begin, or are too many."),
    "unknown_operation": (400, "There is no such operation, or it is not offered."),
    "unknown_model": (400, "There is no such model, or it is not offered."),
    "price_not_configured": (400, "What is asked for has no price, so it is refused rather than given away."),
    "invalid_key": (401, "No key was given, or it is mistyped, unknown, expired or revoked."),
    "insufficient_credits": (
        402,
        "The account does not cover the request: `needed`, `available`, `held`, `shortfall` "
        "and `renews_at` say how far. With `cause` `held`, jobs that still run may free it.",
    ),
    "plan_limit_reached": (402, "The plan's limit does not cover the request in this period."),
    "key_cap_reached": (402, "What the key's jobs may cost in all does not cover the request."),
    "scope_missing": (403, "The key does not allow this; `scope` names what it would need."),
    "account_frozen": (403, "The account may start no new jobs until an operator has looked into it."),
    "not_found": (404, "There is nothing at this address."),
    "unknown_job": (404, "The account has no such job."),
    "method_not_allowed": (405, "The address does not take this method."),
    "body_too_slow": (408, "The body did not come in time."),
    "not_cancellable": (409, "The job has gone too far to be cancelled."),
    "no_result": (409, "The job has no result, or none yet."),
    "body_too_large": (413, "The body, or one request of it, has too many bytes."),
    "idempotency_conflict": (422, "The idempotency key was used before, for another body."),
    "too_many_open_jobs": (429, "As many jobs are unfinished as may be: try again when some have ended."),
    "rate_limited": (429, "The key asked too often: try again after the time that `Retry-After` says."),
    "internal_error": (500, "Something went wrong here, and was logged. The same request may be sent again."),
    "database_unavailable": (503, "The database cannot be reached: send the same request again."),
}
"""By code: the status, and what it means."""
