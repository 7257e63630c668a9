"""Redis as our broker: kombu's transport, except that neither a malformed item nor trouble with Redis ends a process.

Anybody who can write to a queue's list can put anything there. Kombu takes the item off the list before it looks at it,
so it must be set aside here or it is gone. A Redis that is out of memory, or goes away during an operation, counts as a
broken connection: kombu then connects again, where it would otherwise end the worker or fail to publish.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kombu.transport import TRANSPORT_ALIASES
from kombu.transport.redis import Channel, Transport
from redis.exceptions import ConnectionError as BrokenConnection
from redis.exceptions import OutOfMemoryError
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed

from tasks.messages import setting_aside
from tasks.messages.consumer import name_of

ROOM_TRIES = 60
ROOM_WAIT_S = 0.5


class CarefulChannel(Channel):
    """Sets malformed items aside, and waits while Redis is out of memory; everything else is kombu's."""

    _common: Any = None

    def _create_client(self, asynchronous: bool = False) -> Any:
        """One client for all that share the pool: kombu makes one for each operation, which costs more than most do."""
        if asynchronous:
            return super()._create_client(asynchronous=True)
        if self._common is None or self._common.connection_pool is not self.pool:
            self._common = super()._create_client()
        return self._common

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Callable[..., Any], consumer_tag: str, **options: Any
    ) -> Any:
        """Consume from a queue, with a check of every item before a message is made of it."""
        consumed = super().basic_consume(queue, no_ack, callback, consumer_tag, **options)
        deliver = self.connection._callbacks[queue]

        def deliver_carefully(item: Any) -> Any:
            problem = shape_problem(item)
            return self._noted(deliver, item) if problem is None else _set_aside(item, problem)

        self.connection._callbacks[queue] = deliver_carefully
        return consumed

    def _noted(self, deliver: Callable[[Any], Any], item: Any) -> Any:
        """Deliver a message that is already off its list; hold it while Redis has no memory to record who has it."""
        for attempt in Retrying(
            retry=retry_if_exception_type(OutOfMemoryError),
            wait=wait_fixed(ROOM_WAIT_S),
            stop=stop_after_attempt(ROOM_TRIES),
            reraise=True,
        ):
            with attempt:
                return deliver(item)
        raise AssertionError("tenacity either returns or raises")

    def basic_publish(self, message: Any, exchange: str, routing_key: str, **options: Any) -> Any:
        """Publish; raises Redis's ConnectionError if the channel was closed while its queue was being declared."""
        if self.closed:
            raise BrokenConnection("the channel was closed while a message was being prepared")
        return super().basic_publish(message, exchange, routing_key, **options)

    def close(self) -> None:
        """Close; what cannot be given back over a broken connection comes back after the visibility timeout."""
        try:
            super().close()
        except AttributeError:
            if self.connection is not None and self.connection.client is not None:
                raise

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
    # Celery ends the worker over any error that is not one of these.
    connection_errors = (*Transport.connection_errors, OutOfMemoryError)


def use_careful_transport() -> None:
    """Make `redis://` addresses of this process use the careful transport; call it before anything connects."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:CarefulTransport"


def keys_of(queue: str) -> list[str]:
    """The lists in Redis that a queue is kept in, one for each of kombu's steps of priority."""
    steps, sep = CarefulChannel.priority_steps, CarefulChannel.sep
    return [f"{queue}{sep}{step}" if step else queue for step in steps]


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
    setting_aside.set_aside(
        message_id=name_of(item, None),
        task_name=None,
        code="not_a_message",
        reason=f"The queue's item is not a message: {problem}.",
        body=item,
    )
