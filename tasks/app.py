"""The Celery app: what it runs and how is in `celeryconfig`, what every task does around its work in `step`."""

from __future__ import annotations

from celery import Celery

# By name: a step publishes by this app.
app = Celery("creditmill", task_cls="tasks.step:Step", include=["tasks.generation", "tasks.periodic"])
app.config_from_object("celeryconfig")
