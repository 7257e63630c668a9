"""Requests that come as messages from other apps. Anybody may send anything: what is not understood is set aside.

These messages are the only ones that carry a prompt, so it is kept out of everything that shows messages.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from celery.worker.request import Request

from billing.errors import BillingError, InvalidRequest
from billing.jobs import requests
from billing.jobs.requests import Submission
from config.database import DatabaseAway
from tasks import pipeline
from tasks.messages import setting_aside

SUBMIT = "generation.submit"
HIDDEN = "'(not shown)'"


class PrivateRequest(Request):
    """A received message whose arguments are shown to nobody: not to Flower, not to the log."""

    @property
    def argsrepr(self) -> str:
        """Nothing of the positional arguments."""
        return HIDDEN

    @property
    def kwargsrepr(self) -> str:
        """Nothing of the keyword arguments."""
        return HIDDEN

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._argsrepr = self._kwargsrepr = HIDDEN


def take_in(args: tuple[Any, ...], kwargs: dict[str, Any], *, message_id: str | None) -> list[UUID]:
    """Turn one message into a queued job and start it; returns its id, or nothing when it was set aside."""
    try:
        if args:
            raise InvalidRequest("generation.submit takes keyword arguments only.")
        submission = with_key(requests.parse(kwargs), message_id)
        return [job.job_id for job in pipeline.submit_many([submission])]
    except BillingError as error:
        kept = setting_aside.set_aside(
            message_id=message_id,
            task_name=SUBMIT,
            code=error.code,
            reason=error.message,
            body=[args, kwargs],
            job_id=job_id_of(kwargs),
        )
        if not kept:
            raise DatabaseAway from None
        return []


def with_key(submission: Submission, message_id: str | None) -> Submission:
    """The request with an idempotency key: its own, or its message's id."""
    # The broker may deliver one message twice: without a key of the app's, the message's own id is the key.
    if submission.idempotency_key is None and submission.job_id is None and message_id is not None:
        return submission.model_copy(update={"idempotency_key": f"message:{message_id}"})
    return submission


def is_in_time(message: Any, *, now: datetime) -> bool:
    """Whether a message may be worked on: it is no request, or is taken before it expires.

    A request that was taken in time does not expire any more: a worker has it, and it becomes a job.
    """
    if message.headers.get("task") != SUBMIT or message.headers.get("expires") is None:
        return True
    return instant(message.headers.pop("expires")) > now


def instant(given: object) -> datetime:
    """An instant as messages have it, in UTC unless it says otherwise; raises ValueError for anything else."""
    at = datetime.fromisoformat(str(given))
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def job_id_of(kwargs: dict[str, Any]) -> UUID | None:
    """The id that an app chose for its job, if it is one."""
    try:
        return UUID(str(kwargs.get("job_id")))
    except ValueError:
        return None
