"""Waiting for jobs without holding a connection or a thread: woken by Redis, and looking by itself now and then."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from uuid import UUID

from redis.exceptions import RedisError

from config.broker import listening_client
from config.logging import get_logger
from tasks.messages.endings import CHANNEL

LOOK_EVERY_S = 2.0
"""How often whoever waits looks by itself, in seconds: a message may be lost."""
RECONNECT_S = 1.0
STOP_AGAIN_S = 0.2

log = get_logger(__name__)


class Endings:
    """Who waits in this process for which job."""

    def __init__(self) -> None:
        self._waiting: dict[UUID, set[asyncio.Event]] = defaultdict(set)

    @contextmanager
    def of(self, job_id: UUID) -> Iterator[asyncio.Event]:
        """An event that is set when the job may have ended."""
        event = asyncio.Event()
        self._waiting[job_id].add(event)
        try:
            yield event
        finally:
            self._waiting[job_id].discard(event)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    async def pause(self, event: asyncio.Event, at_most_s: float) -> float:
        """Wait for this event, or for so long; returns for how long it was, in seconds."""
        began = asyncio.get_running_loop().time()
        with suppress(TimeoutError):
            async with asyncio.timeout(at_most_s):
                await event.wait()
        event.clear()
        return asyncio.get_running_loop().time() - began

    def wake(self, job_ids: list[str]) -> None:
        """Wake whoever waits for one of these jobs."""
        for job_id in map(UUID, job_ids):
            for event in self._waiting.get(job_id, ()):
                event.set()

    @asynccontextmanager
    async def listening(self, broker_url: str) -> AsyncIterator[None]:
        """Hear of jobs that ended, as long as this lasts."""
        task = asyncio.create_task(self._listen(broker_url))
        try:
            yield
        finally:
            # The client may take a cancellation for a connection that was lost, and the listener then goes on.
            while not task.done():
                task.cancel()
                await asyncio.wait([task], timeout=STOP_AGAIN_S)

    async def _listen(self, broker_url: str) -> None:
        while True:
            try:
                await self._hear(broker_url)
            except (RedisError, OSError) as error:
                log.warning("endings_not_heard", error=type(error).__name__, hint="whoever waits looks by itself")
                await asyncio.sleep(RECONNECT_S)

    async def _hear(self, broker_url: str) -> None:
        async with listening_client(broker_url) as client, client.pubsub() as channel:
            await channel.subscribe(CHANNEL)
            async for message in channel.listen():
                if message["type"] == "message":
                    self.wake(json.loads(message["data"]))
