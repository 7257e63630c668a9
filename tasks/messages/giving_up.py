"""Giving up messages that kill their worker: delivered again and again, one would end worker after worker.

A message that was delivered before is counted before its work begins; when the work ends, in success or failure, the
count is forgotten. So a message that a stopping worker handed back costs nothing, and one that never ends is given up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from celery import Task
from celery.exceptions import Ignore, Reject

from billing.jobs import recovery
from billing.upkeep import worker_losses
from config.database import DATABASE_TROUBLE, database_now, transaction
from config.logging import get_logger
from tasks import pipeline
from tasks.messages import setting_aside

LOSSES_MAX = 3
"""How many workers a message may cost, after the first, before it is given up."""

log = get_logger(__name__)


def begin(task: Task, args: Sequence[Any]) -> None:
    """Count that a message's work begins once more; raises Ignore when the message was given up, or split.

    One job of a batch may be to blame: the batch is split into messages of one job each, so that the others go on.
    """
    jobs = _job_ids(args)
    if len(jobs) > 1:
        pipeline.resume(jobs)
        log.warning("batch_split", jobs=len(jobs), hint="its message was delivered again")
        raise Ignore
    subject = _subject(task)
    try:
        with transaction() as session:
            lost = worker_losses.count(session, subject, now=database_now(session))
        if lost <= LOSSES_MAX:
            return
        _give_up(task, args, jobs)
        end(task)
    except DATABASE_TROUBLE as error:
        log.warning("loss_not_counted", error=type(error).__name__)
        return
    raise Ignore


def end(task: Task) -> None:
    """Forget the count: the work has ended."""
    try:
        with transaction() as session:
            worker_losses.forget(session, [_subject(task)])
    except DATABASE_TROUBLE as error:
        log.warning("loss_not_forgotten", error=type(error).__name__)


def was_delivered_before(task: Task) -> bool:
    """Whether this message came to a worker before, which did not acknowledge it."""
    return bool((task.request.delivery_info or {}).get("redelivered"))


def forget_old() -> None:
    """Forget the losses over messages that were not delivered for a day."""
    with transaction() as session:
        worker_losses.forget_old(session, now=database_now(session))


def _give_up(task: Task, args: Sequence[Any], jobs: Sequence[UUID]) -> None:
    with transaction() as session:
        given_up = recovery.give_up(session, jobs, now=database_now(session))
    if jobs and not given_up:
        # Another message works on the job, or it has ended: only this message is given up.
        log.warning("message_dropped", task_name=task.name, jobs=[str(job_id) for job_id in jobs])
        return
    kept = setting_aside.set_aside(
        message_id=task.request.id,
        task_name=task.name,
        code="worker_lost",
        reason=f"Its worker was lost {LOSSES_MAX + 1} times; its job was given up.",
        body=[list(args), task.request.kwargs or {}],
        job_id=jobs[0] if jobs else None,
    )
    if not kept and not jobs:
        # Only this message holds the request.
        raise Reject(requeue=True)
    log.error("work_given_up", task_name=task.name, jobs=[str(job_id) for job_id in given_up])


def _subject(task: Task) -> str:
    # A message keeps its id when it is delivered again; another message about the same job may run beside it.
    return f"{task.name} {task.request.id}"


def _job_ids(args: Sequence[Any]) -> list[UUID]:
    given = args[0] if args and isinstance(args[0], list) else []
    try:
        return [UUID(str(job_id)) for job_id in given]
    except ValueError:
        return []
