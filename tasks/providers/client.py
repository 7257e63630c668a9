"""The HTTP client that the adapters make their calls with: a whole call is bounded in time, its answer in size.

httpx2's own time limits hold for each read alone, so that a server which sends a byte every few seconds would hold a
thread for ever. Here every wait for the network ends when the time of the call is over, whatever it waits for.
"""

from __future__ import annotations

import math
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import httpcore2
import httpx2

LARGEST_ANSWER = 256 * 2**20
"""The most bytes of an unpacked answer that are read: no more fit into one JSON value of PostgreSQL's.

The largest that is asked for, 2,048 vectors of 3,072 numbers, is about half of that.
"""
LIMITS = httpx2.Limits(max_connections=1_000, max_keepalive_connections=100)
"""How many connections are open to one address: as OpenAI's SDK has it."""
ARRIVED_S = 1.0
"""How long what has arrived already is still read after the time is over: a busy worker must not lose a paid answer."""
_A_MOMENT_S = 0.001
_PIECE_BYTES = 16_384


class _Clock(threading.local):
    """The time that the call of this thread has left. A call runs whole in one thread, and each makes one at a time."""

    ends_at = math.inf
    reads_until = math.inf

    def start(self, timeout_s: float | None) -> None:
        self.ends_at = math.inf if timeout_s is None else time.monotonic() + timeout_s
        self.reads_until = math.inf

    def left(self, asked: float | None, error: type[Exception]) -> float:
        """Seconds to wait, `asked` at most; raises the error when the time is over."""
        left = self.ends_at - time.monotonic()
        if left <= 0:
            raise error("The time of the call is over.")
        return left if asked is None else min(left, asked)

    def left_to_read(self, asked: float | None) -> float:
        """The same for a read: when the time is over, what has arrived is read for a little while."""
        now = time.monotonic()
        left = self.ends_at - now
        if left > 0:
            return left if asked is None else min(left, asked)
        self.reads_until = min(self.reads_until, now + ARRIVED_S)
        if now >= self.reads_until:
            raise httpcore2.ReadTimeout("The time of the call is over.")
        return _A_MOMENT_S


_CLOCK = _Clock()


class _Stream(httpcore2.NetworkStream):
    """A connection, plain or encrypted, that waits no longer than the call has left."""

    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _CLOCK.left_to_read(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        # In pieces: for one piece the other side is waited for once or twice, for a large request any number of times.
        for start in range(0, len(buffer), _PIECE_BYTES):
            piece = buffer[start : start + _PIECE_BYTES]
            self._stream.write(piece, _CLOCK.left(timeout, httpcore2.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        left = _CLOCK.left(timeout, httpcore2.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Network(httpcore2.SyncBackend):
    """The network, as seen by calls whose time is bounded. Looking a name up is the system's, with its own limits."""

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        left = _CLOCK.left(timeout, httpcore2.ConnectTimeout)
        return _Stream(super().connect_tcp(host, port, left, local_address, socket_options))


class _Answer(httpx2.Response):
    """An answer of bounded size."""

    def iter_bytes(self, chunk_size: int | None = None) -> Iterator[bytes]:
        size = 0
        for chunk in super().iter_bytes(chunk_size):
            size += len(chunk)
            if size > LARGEST_ANSWER:
                raise httpx2.DecodingError(f"The answer is larger than {LARGEST_ANSWER:,} bytes.")
            yield chunk


class _Transport(httpx2.HTTPTransport):
    """Sends each request, directly or by a proxy, within the time that it was given for its answer."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        # The pool takes it as an argument, which httpx2 does not pass on.
        self._pool._network_backend = _Network()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        _CLOCK.start(request.extensions.get("timeout", {}).get("read"))
        answer = super().handle_request(request)
        return _Answer(answer.status_code, headers=answer.headers, stream=answer.stream, extensions=answer.extensions)


class Client(httpx2.Client):
    """An HTTP client, shared by threads, whose calls end within their time; proxies come from the environment.

    The time of a call is its time-out for reading. A redirect is not followed: the key and the request are for the
    address that they were set for, and nobody says where another one leads.
    """

    def __init__(self) -> None:
        super().__init__(follow_redirects=False, limits=LIMITS)

    # Not by `transport=` and `mounts=`: httpx2 then leaves the environment's proxies out.
    def _init_transport(self, *_: Any, transport: Any = None, **settings: Any) -> httpx2.BaseTransport:
        return _Transport(**settings)

    def _init_proxy_transport(self, proxy: httpx2.Proxy, *_: Any, **settings: Any) -> httpx2.BaseTransport:
        return _Transport(proxy=proxy, **settings)
