"""The Celery app: its settings are in `celeryconfig`, and what every task does around its work is in `step`."""

from __future__ import annotations

from typing import Any

import click
from celery import Celery
from kombu.exceptions import OperationalError

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

    def send_task(self, *args: Any, **options: Any) -> Any:
        """Publish a message; raises OperationalError for whatever goes wrong, or UnreadableBroker.

        What the message is about is committed by then. On a connection that has just died, kombu raises other errors
        than its own, such as AttributeError, and they would be taken for failures of that work.
        """
        try:
            return super().send_task(*args, **options)
        except (OperationalError, UnreadableBroker):
            raise
        except Exception as error:
            raise OperationalError(type(error).__name__) from error


def _checked(url: str | None) -> str | None:
    if url is not None:
        try:
            read_address("BROKER_URL", url, BROKER)
        except AddressError as error:
            raise UnreadableBroker(str(error)) from None
    return url


# The task class is given by name, because `step` itself publishes through this app.
app = Mill("creditmill", task_cls="tasks.step:Step", include=["tasks.generation", "tasks.periodic", "tasks.webhooks"])
app.config_from_object("celeryconfig")
