"""The Celery app, and the base of every task: database trouble is retried, and each log line carries the task."""

from __future__ import annotations

from typing import Any

import structlog
from celery import Celery, Task

from config.database import DATABASE_TROUBLE
from tasks import dead_letters


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
        """Put the task's name and id on every line that it logs."""
        structlog.contextvars.bind_contextvars(task=self.name, task_id=task_id)

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Keep the message of a step that failed for good: nobody would find it in a log."""
        dead_letters.set_aside(
            message_id=task_id,
            task_name=self.name,
            code="task_failed",
            reason=f"The task failed ({type(exc).__name__}).",
            body=[args, kwargs],
        )

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Take them off again: the thread goes on to other work."""
        structlog.contextvars.unbind_contextvars("task", "task_id")


app = Celery("creditmill", task_cls=Step, include=["tasks.generation", "tasks.periodic"])
app.config_from_object("celeryconfig")
