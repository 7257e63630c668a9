"""The Celery app: its settings are in `celeryconfig`, and what every task does around its work is in `step`."""

from __future__ import annotations

from celery import Celery

# The task class is given by name, because `step` itself publishes through this app.
app = Celery("creditmill", task_cls="tasks.step:Step", include=["tasks.generation", "tasks.periodic"])
app.config_from_object("celeryconfig")
