"""The Celery app: its settings are in `celeryconfig`, and what every task does around its work is in `step`."""

from __future__ import annotations

from typing import Any

import click
from celery import Celery

from config.addresses import BROKER, AddressError, read_address


class UnreadableBroker(click.ClickException):
    """Celery's own command line was given a broker that cannot be read; it says so, and exits with 2."""

    exit_code = 2


class Mill(Celery):
    """Celery, which connects to no broker whose address it cannot read: its own errors quote passwords.

    Our processes have checked theirs by then. But `celery -A tasks.app` takes `BROKER_URL` by itself.
    """

    def connection_for_read(self, url: str | None = None, **options: Any) -> Any:
        """A connection to consume from; raises UnreadableBroker."""
        return super().connection_for_read(_checked(url or self.conf.broker_read_url), **options)

    def connection_for_write(self, url: str | None = None, **options: Any) -> Any:
        """A connection to publish to; raises UnreadableBroker."""
        return super().connection_for_write(_checked(url or self.conf.broker_write_url), **options)


def _checked(url: str | None) -> str | None:
    if url is not None:
        try:
            read_address("BROKER_URL", url, BROKER)
        except AddressError as error:
            raise UnreadableBroker(str(error)) from None
    return url


# The task class is given by name, because `step` itself publishes through this app.
app = Mill("creditmill", task_cls="tasks.step:Step", include=["tasks.generation", "tasks.periodic"])
app.config_from_object("celeryconfig")
