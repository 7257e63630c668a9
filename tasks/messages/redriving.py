"""Redriving: a message that was set aside is worked on after all, once its reason is gone and an operator asks."""

from __future__ import annotations

import json
from uuid import UUID

from billing.errors import InvalidRequest
from billing.jobs import recovery, requests
from billing.upkeep import dead_letters
from billing.upkeep.dead_letters import Kept
from config.database import database_now, transaction
from tasks import pipeline
from tasks.messages import intake


def redrive(dead_id: int) -> list[UUID]:
    """Have a message that was set aside worked on; returns its jobs.

    A request is submitted under its own id, so that it becomes one job however often it is sent; of a failed step, the
    jobs are looked at again. Raises UnknownThing, or a BillingError when it still cannot be done: it stays set aside.
    """
    with transaction() as session:
        message = dead_letters.open_letter(session, dead_id)
    args, kwargs = _parts(message)
    jobs = _submit(message, kwargs) if message.task_name == intake.SUBMIT else _look_again(message, args)
    with transaction() as session:
        dead_letters.mark_redriven(session, dead_id, now=database_now(session))
    return jobs


def _parts(message: Kept) -> tuple[list[object], dict[str, object]]:
    body: object = None
    if message.body is not None:
        try:
            body = json.loads(message.body)
        except (ValueError, RecursionError):
            body = None
    if isinstance(body, list) and len(body) >= 2 and isinstance(body[0], list) and isinstance(body[1], dict):
        return body[0], body[1]
    raise InvalidRequest(
        f"Message {message.id} was not understood, or is too long to be kept: only its sender can send it again.",
        code="not_redrivable",
    )


def _submit(message: Kept, kwargs: dict[str, object]) -> list[UUID]:
    submission = intake.with_key(requests.parse(kwargs), message.message_id)
    return [job.job_id for job in pipeline.submit_many([submission])]


def _look_again(message: Kept, args: list[object]) -> list[UUID]:
    given = args[0] if args and isinstance(args[0], list) else []
    try:
        job_ids = [UUID(str(job_id)) for job_id in given]
    except ValueError:
        job_ids = []
    with transaction() as session:
        waiting = recovery.look_again(session, job_ids, now=database_now(session))
    if not waiting:
        raise InvalidRequest(f"Message {message.id} names no job that is still open.", code="not_redrivable")
    return waiting
