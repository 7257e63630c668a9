"""The base of every task: it retries while the database is away, and counts work that ended its worker before.

The message of a task that fails for good is set aside, and every log line carries the task.
"""

from __future__ import annotations

from typing import Any

import structlog
from celery import Task
from kombu.exceptions import OperationalError as BrokerTrouble

from config.database import DATABASE_TROUBLE
from config.logging import get_logger
from tasks.messages import giving_up, setting_aside

log = get_logger(__name__)


class Step(Task):
    """A task that waits with back-off while the database is away; everything else that goes wrong is recovered."""

    abstract = True
    autoretry_for = DATABASE_TROUBLE
    # The recovery task takes over after that: by then the messages would only pile up.
    max_retries = 8
    retry_backoff = 1
    retry_backoff_max = 60
    retry_jitter = True

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Put the task's name and id on every line that it logs; count work that was begun before."""
        structlog.contextvars.bind_contextvars(task=self.name, task_id=task_id)
        if giving_up.was_delivered_before(self):
            giving_up.begin(self, args)

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Set aside the message of a step that failed for good: nobody would find it in a log."""
        if isinstance(exc, BrokerTrouble):
            # The step is done; only the next one's message could not be sent, and recovery sends it.
            log.warning("next_step_not_published", step=self.name, error=type(exc).__name__)
            return
        setting_aside.set_aside(
            message_id=task_id,
            task_name=self.name,
            code="task_failed",
            reason=f"The task failed ({type(exc).__name__}).",
            body=[args, kwargs],
        )

    def on_retry(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Forget the count of this work: it is tried again later, so it did not kill its worker."""
        if giving_up.was_delivered_before(self):
            giving_up.end(self)

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Forget the count of this work, and take the task off the log lines: the thread goes on to other work."""
        if giving_up.was_delivered_before(self):
            giving_up.end(self)
        structlog.contextvars.unbind_contextvars("task", "task_id")
