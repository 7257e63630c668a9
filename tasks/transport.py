"""Redis as the broker of our workers: kombu's transport, except that an item which is no message ends no worker.

Anybody who can write to a queue's list can put anything there. Kombu takes the item off the list before it looks at it,
so it has to be set aside here or it is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kombu.transport import TRANSPORT_ALIASES
from kombu.transport.redis import Channel, Transport

from tasks import dead_letters
from tasks.consumer import name_of


class CarefulChannel(Channel):
    """Sets aside what is no message; everything else is kombu's."""

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Callable[..., Any], consumer_tag: str, **options: Any
    ) -> Any:
        """Consume from a queue, with a check of every item before a message is made of it."""
        consumed = super().basic_consume(queue, no_ack, callback, consumer_tag, **options)
        deliver = self.connection._callbacks[queue]

        def deliver_carefully(item: Any) -> Any:
            problem = shape_problem(item)
            return deliver(item) if problem is None else _set_aside(item, problem)

        self.connection._callbacks[queue] = deliver_carefully
        return consumed

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except ValueError as error:
            # The item was not JSON, or not even text; the decoder's error still has it.
            _set_aside(getattr(error, "doc", None) or getattr(error, "object", ""), "it is not JSON")
            return True


class CarefulTransport(Transport):
    """Kombu's Redis transport with careful channels."""

    Channel = CarefulChannel


def use_careful_transport() -> None:
    """Let `redis://` addresses of this process use the careful transport; before anything connects."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:CarefulTransport"


def shape_problem(item: Any) -> str | None:
    """Why this item of a queue is no message, or None when it is one."""
    if not isinstance(item, dict):
        return "it is not a JSON object"
    properties = item.get("properties")
    if not isinstance(properties, dict) or not isinstance(properties.get("delivery_tag"), str):
        return "it has no delivery tag"
    if not isinstance(properties.get("delivery_info"), dict):
        return "it has no delivery information"
    if not isinstance(item.get("headers"), dict | None):
        return "its headers are not an object"
    if not all(isinstance(item.get(name), str | None) for name in ("body", "content-type", "content-encoding")):
        return "its body or content type is not text"
    return None


def _set_aside(item: Any, problem: str) -> None:
    dead_letters.set_aside(
        message_id=name_of(item, None),
        task_name=None,
        code="not_a_message",
        reason=f"The queue's item is not a message: {problem}.",
        body=item,
    )
