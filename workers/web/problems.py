"""What the API says about an error: problem details (RFC 9457), each with a stable code that the docs explain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from billing.errors import BillingError
from config.database import DatabaseAway
from config.logging import get_logger
from config.settings import ConfigurationError

MEDIA_TYPE = "application/problem+json"
STATUSES: Mapping[str, int] = {
    "invalid_key": 401,
    "insufficient_credits": 402,
    "plan_limit_reached": 402,
    "key_cap_reached": 402,
    "scope_missing": 403,
    "account_frozen": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "not_cancellable": 409,
    "no_result": 409,
    "precondition_failed": 412,
    "body_too_large": 413,
    "body_too_slow": 408,
    "idempotency_conflict": 422,
    "precondition_required": 428,
    "too_many_open_jobs": 429,
    "rate_limited": 429,
    "internal_error": 500,
    "database_unavailable": 503,
    "try_again": 503,
}
"""The status of each code; of what is unknown it is 404 if the address names it and 400 if the body does; else 400."""
TITLES: Mapping[int, str] = {
    400: "The request is not understood",
    401: "The key is missing or refused",
    402: "It cannot be paid",
    403: "It is not allowed",
    404: "There is no such thing",
    405: "The method is not one of this address",
    408: "The request came too slowly",
    409: "It is too late",
    412: "It has changed meanwhile",
    413: "The request is too large",
    422: "The idempotency key belongs to another request",
    428: "The change does not say what it was made from",
    429: "Too much at once",
    500: "Something went wrong here",
    503: "Something that is needed is away",
}
OF_ALL = (400, 401, 403, 429, 500, 503)
OF_BODIES = (408, 413)
RETRY_AFTER_S = {"rate_limited": 1, "too_many_open_jobs": 5, "database_unavailable": 2, "try_again": 1}

log = get_logger(__name__)


class Problem(BaseModel):
    """Problem details: a code for programs, one sentence for people, and for some codes the figures behind it."""

    model_config = ConfigDict(extra="allow")
    type: str = Field(description="Where the code is explained.")
    title: str
    status: int
    detail: str = Field(description="One sentence that may be shown to people.")
    code: str


def told(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Problems that an address answers with, for its description; with none, those that every address may."""
    return {
        status: {
            "description": TITLES[status],
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses or OF_ALL
    }


class NoResult(BillingError):
    """The job has no result (yet)."""

    code = "no_result"


def problem(
    code: str,
    detail: str,
    *,
    status: int | None = None,
    facts: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """An answer with problem details."""
    status = status if status is not None else STATUSES.get(code, 400)
    body = {"type": f"/errors#{code}", "title": TITLES.get(status, "Error"), "status": status, "detail": detail}
    given = dict(headers or {})
    if status == 401:
        given["WWW-Authenticate"] = "Bearer"
    if code in RETRY_AFTER_S:
        given.setdefault("Retry-After", str(RETRY_AFTER_S[code]))
    return JSONResponse(body | {"code": code} | dict(facts or {}), status, given, MEDIA_TYPE)


async def refused(request: Request, error: Exception) -> JSONResponse:
    """What is said about an error of the business."""
    assert isinstance(error, BillingError)
    kind = error.code.removeprefix("unknown_") if error.code.startswith("unknown_") else ""
    status = 404 if {kind, f"{kind}_id"} & set(request.path_params) else None
    return problem(error.code, error.message, status=status, facts=error.facts())


async def malformed(_: Request, error: Exception) -> JSONResponse:
    """What is said about a request of the wrong shape, in one sentence and without its input."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:])[:80] or str(first["loc"][0])
    shown = "".join(letter if letter.isprintable() else "?" for letter in place)
    if first["type"] == "json_invalid":
        return problem("invalid_json", "The body is not valid JSON.")
    what = "there is no such field" if first["type"] == "extra_forbidden" else str(first["msg"])
    return problem("invalid_request", f"{shown}: {what}.")


async def away(_: Request, error: Exception) -> JSONResponse:
    """What is said while the database cannot be reached, or is too busy."""
    log.warning("database_unavailable", error=type(error).__name__)
    if isinstance(error, DatabaseAway):
        return problem(error.code, str(error))
    return problem("database_unavailable", "The database cannot be reached at the moment: try again.")


async def by_framework(_: Request, error: Exception) -> JSONResponse:
    """What is said about an address or a method that there is not."""
    assert isinstance(error, HTTPException)
    codes = {400: "invalid_json", 404: "not_found", 405: "method_not_allowed"}
    detail = {
        400: "The body is not valid JSON.",
        404: "There is nothing at this address.",
        405: "This address does not take this method.",
    }
    told = detail.get(error.status_code, "The request is not understood.")
    code = codes.get(error.status_code, "invalid_request")
    return problem(code, told, status=error.status_code, headers=error.headers)


async def unexpected(_: Request, error: Exception) -> JSONResponse:
    """What is said about an error that nobody expected; the log has it whole, without secrets."""
    log.error("request_failed", error=type(error).__name__, exc_info=error)
    return problem("internal_error", "Something went wrong here: it was logged.")


HANDLERS: Mapping[type[Exception], Any] = {
    BillingError: refused,
    RequestValidationError: malformed,
    DatabaseAway: away,
    OperationalError: away,
    PoolTimeout: away,
    HTTPException: by_framework,
    ConfigurationError: unexpected,
    Exception: unexpected,
}
