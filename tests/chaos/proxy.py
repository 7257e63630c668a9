"""A TCP proxy before a server, which can break connections in the ways that networks do.

It knows one word of PostgreSQL's language, COMMIT, to lose it, or to lose its answer.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

Result = TypeVar("Result")

HOST = "127.0.0.1"
CHUNK_BYTES = 64 * 1024
COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"
"""A COMMIT as libpq sends it: a message by itself."""


@dataclass(frozen=True)
class Target:
    """Where a server listens: a port of loopback, or a Unix socket."""

    port: int | None = None
    path: Path | None = None

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect; raises OSError while nobody listens."""
        if self.path is not None:
            return await asyncio.open_unix_connection(str(self.path))
        return await asyncio.open_connection(HOST, self.port)


class _Link:
    """One client's connection and the one behind it."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.client = client
        self.server: asyncio.StreamWriter | None = None
        self.task = asyncio.current_task()
        # Its COMMIT was forwarded and the answer will be kept from the client.
        self.unanswered = False

    def reset(self) -> None:
        """Break it off at once: the client sees a reset, the server an end."""
        for writer in (self.client, self.server):
            if writer is not None:
                _reset(writer)

    def close(self) -> None:
        """End both sides in order, after what was written to them."""
        for writer in (self.client, self.server):
            if writer is not None:
                writer.close()


class Proxy:
    """Listens on a port of loopback and forwards to the target, in a thread of its own, until `stop`."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.port = 0
        # How often each thing was done to a connection.
        self.cuts = 0
        self.commits_cut = 0
        self._commits_to_lose = 0
        self._answers_to_lose = 0
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def start(self) -> None:
        """Begin to listen; the port stays the same until `stop`."""
        self._thread.start()
        self._run(self._listen())

    def stop(self) -> None:
        """Break off every connection and stop listening."""
        if self._thread.is_alive():
            self._run(self._close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    def cut(self) -> int:
        """Break off every connection; returns how many there were."""
        return self._run(self._cut())

    def lose_commits(self, count: int) -> None:
        """Break off the next connections that commit: the server never sees the COMMIT."""
        self._commits_to_lose = count

    def lose_answers(self, count: int) -> None:
        """Break off the next connections that commit: the server does it, and the client never learns."""
        self._answers_to_lose = count

    def freeze(self) -> None:
        """Accept connections and bytes, and forward nothing."""
        self._run(self._set_flowing(False))

    def thaw(self) -> None:
        """Forward again; whoever waited is reset first."""
        self._run(self._set_flowing(True))

    def heal(self) -> None:
        """Forward everything from now on."""
        self._commits_to_lose = self._answers_to_lose = 0
        if not self._flowing.is_set():
            self.thaw()

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10)

    async def _listen(self) -> None:
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server = await asyncio.start_server(self._serve, HOST, 0, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._server.close()
        tasks = [link.task for link in self._links if link.task is not None]
        await self._cut()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _cut(self) -> int:
        links = list(self._links)
        for link in links:
            link.reset()
        self.cuts += len(links)
        return len(links)

    async def _set_flowing(self, flowing: bool) -> None:
        if not flowing:
            self._flowing.clear()
        elif not self._flowing.is_set():
            await self._cut()
            # The pumps see their ends first, so that nothing of what was held is delivered.
            await asyncio.sleep(0)
            self._flowing.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(writer)
        self._links.add(link)
        try:
            await self._flowing.wait()
            if not writer.is_closing():
                await self._forward(link, reader)
        except (OSError, asyncio.CancelledError):
            # Nobody listens behind us, the connection broke, or we stop: the client learns it by the reset.
            link.reset()
        finally:
            self._links.discard(link)
            link.close()

    async def _forward(self, link: _Link, reader: asyncio.StreamReader) -> None:
        answers, link.server = await self.target.open()
        both = [
            asyncio.ensure_future(self._upstream(link, reader, link.server)),
            asyncio.ensure_future(self._downstream(link, answers)),
        ]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in both:
                pump.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def _upstream(self, link: _Link, reader: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            await self._flowing.wait()
            if link.client.is_closing():
                return
            if chunk == COMMIT and self._commits_to_lose > 0:
                self._commits_to_lose -= 1
                self.commits_cut += 1
                link.reset()
                return
            if chunk == COMMIT and self._answers_to_lose > 0:
                self._answers_to_lose -= 1
                link.unanswered = True
            server.write(chunk)
            await server.drain()

    async def _downstream(self, link: _Link, answers: asyncio.StreamReader) -> None:
        while chunk := await answers.read(CHUNK_BYTES):
            await self._flowing.wait()
            if link.client.is_closing():
                return
            if link.unanswered:
                # The server has answered, so it has committed.
                self.commits_cut += 1
                link.reset()
                return
            link.client.write(chunk)
            await link.client.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.family != socket.AF_UNIX:
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
