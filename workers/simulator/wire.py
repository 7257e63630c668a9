"""What the server does with connections: reading bodies of a limited size, noticing who left, resetting."""

from __future__ import annotations

import socket
import struct
from collections.abc import Awaitable, Callable

from aiohttp import web

from workers.simulator.faults import Refusal, RefusalError


async def read_limited(request: web.Request) -> bytes | None:
    """The body; None if it is larger than the application takes."""
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        return None


def client_left(request: web.Request) -> bool:
    """Whether nobody waits for the answer any more."""
    return request.transport is None or request.transport.is_closing()


def reset(request: web.Request) -> None:
    """Close the connection with a TCP reset instead of an orderly end."""
    if request.transport is None:
        return
    connection = request.transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.abort()


@web.middleware
async def errors_in_shape(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer refusals, and what there is no route for, in OpenAI's shape."""
    try:
        return await handler(request)
    except RefusalError as error:
        refusal = error.refusal
    except web.HTTPException as error:
        refusal = Refusal(error.status, None, f"{error.reason}: {request.method} {request.path}")
    return web.json_response(refusal.body(), status=refusal.status)


async def say_simulated(request: web.Request, response: web.StreamResponse) -> None:
    """Mark every answer."""
    response.headers["X-Simulator"] = "creditmill"
