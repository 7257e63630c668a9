"""What a request's body may be at most: in bytes, and in time."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workers.web.problems import problem

BYTES_MAX = 8_000_000
WITHIN_S = 30.0
"""How long a body may take to come, in seconds."""


class _TooLarge(Exception):
    pass


class BoundedBodies:
    """Reads the whole body before anybody works on it, and refuses one that is too large or comes too slowly."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request whose body is there."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(WITHIN_S):
                body = await _read(receive)
        except _TooLarge:
            await problem("body_too_large", f"A body has {BYTES_MAX:,} bytes at most.")(scope, receive, send)
            return
        except TimeoutError:
            await problem("body_too_slow", f"A body comes within {WITHIN_S:g} s.")(scope, receive, send)
            return
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return waiting.pop() if waiting else await receive()

        await self._app(scope, again, send)


async def _read(receive: Receive) -> bytes:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b""
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > BYTES_MAX:
            raise _TooLarge
        if not message.get("more_body"):
            return b"".join(parts)
