"""A call's time bounds the whole of it, and its answer's size is bounded: over real connections, at every place."""

from __future__ import annotations

import socket
import time
import zlib
from collections.abc import Callable
from threading import Event

import pytest

from billing.jobs.policy import Failure
from tasks.providers import client
from tests.integration.providers.callers import Caller, both, openai, runware
from tests.integration.providers.loopback import Line, answer, certificate, serving

TIMEOUT_S = 0.5
EVERY_S = 0.05
"""Between two bytes: a tenth of the time, so that no single wait is ever too long."""
FAR_BELOW_S = 20
"""Far above the time, and far below the 40 seconds that each of these answers would take."""
PIECES = 800
SMALL_BYTES = 4_096


def drips_its_headers(line: Line) -> None:
    line.request()
    line.send(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    line.drip(b"a" * PIECES, every_s=EVERY_S)


def drips_its_body(line: Line) -> None:
    line.request()
    line.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 800\r\n\r\n")
    line.drip(b" " * PIECES, every_s=EVERY_S)


def drips_chunks(line: Line) -> None:
    line.request()
    line.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
    line.drip(b"1\r\n \r\n" * PIECES, every_s=EVERY_S)


def drips_an_error(line: Line) -> None:
    line.request()
    line.send(b"HTTP/1.1 503 Busy\r\nContent-Type: application/json\r\nContent-Length: 800\r\n\r\n")
    line.drip(b" " * PIECES, every_s=EVERY_S)


def promises_without_end(line: Line) -> None:
    line.request()
    for _ in range(PIECES):
        line.send(b"HTTP/1.1 102 Processing\r\n\r\n")
        if line.pause(EVERY_S):
            return


def says_nothing(line: Line) -> None:
    line.request()
    line.pause(EVERY_S * PIECES)


def reads_slowly(line: Line) -> None:
    while line.connection.recv(SMALL_BYTES) and not line.pause(EVERY_S):
        pass


SLOW: dict[str, Callable[[Line], None]] = {
    talk.__name__.replace("_", " "): talk
    for talk in (
        drips_its_headers,
        drips_its_body,
        drips_chunks,
        drips_an_error,
        promises_without_end,
        says_nothing,
    )
}


LARGE = "Bread. " * 1_000_000
"""A prompt that takes minutes to go to a server that reads slowly."""


@pytest.fixture
def small_buffers(monkeypatch):
    """What is sent waits until the other side has read most of what was sent before, as over a long line."""
    connect = client._Network.connect_tcp

    def connect_tcp(self, host, port, timeout=None, local_address=None, socket_options=None):
        options = [*(socket_options or ()), (socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BYTES)]
        return connect(self, host, port, timeout, local_address, options)

    monkeypatch.setattr(client._Network, "connect_tcp", connect_tcp)


def timed_out(caller: Caller, url: str) -> Failure:
    """What a call comes to that is not over in its time."""
    began = time.monotonic()
    refusal = caller.refused(url, timeout_s=TIMEOUT_S)
    assert time.monotonic() - began < FAR_BELOW_S
    return refusal.failure


@both
@pytest.mark.parametrize("talk", SLOW.values(), ids=SLOW)
def test_a_server_that_is_slow_anywhere_holds_no_thread_beyond_the_time(make, talk):
    with serving(talk) as server:
        assert timed_out(make(), f"http://{server.address}/v1") is Failure.TIMED_OUT


@both
def test_a_server_that_reads_slowly_holds_no_thread_beyond_the_time(make, small_buffers):
    with serving(reads_slowly, buffer_bytes=SMALL_BYTES) as server:
        assert timed_out(make(LARGE), f"http://{server.address}/v1") is Failure.TIMED_OUT


@both
def test_a_server_that_shakes_hands_slowly_was_sent_nothing(make):
    # The head of a TLS record of 16 KB, and then its bytes one by one.
    with serving(lambda line: line.drip(b"\x16\x03\x03\x40\x00" + b"\x02" * PIECES, every_s=EVERY_S)) as server:
        assert timed_out(make(), f"https://{server.address}/v1") is Failure.UNREACHABLE


@both
@pytest.mark.parametrize("talk", [drips_its_body, drips_chunks, reads_slowly])
def test_an_encrypted_call_is_bounded_like_any_other(make, talk, tmp_path, monkeypatch, small_buffers):
    tls, trusted = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))

    with serving(talk, tls=tls, buffer_bytes=SMALL_BYTES) as server:
        assert timed_out(make(LARGE), f"https://{server.address}/v1") is Failure.TIMED_OUT


@both
def test_an_answer_that_comes_in_time_is_delivered_however_small_its_pieces(make):
    caller = make()

    def in_pieces(line: Line) -> None:
        line.request()
        line.drip(answer(200, caller.body), every_s=0)

    with serving(in_pieces) as server:
        assert caller.call(f"http://{server.address}/v1").content


def busy_until_the_time_is_over(caller: Caller, until: Callable[[], object] = lambda: None) -> None:
    """The worker reads the head of an answer, waits, and comes back to it when the time of the call is over."""

    def be_busy(_: object) -> None:
        began = time.monotonic()
        until()
        while time.monotonic() <= began + TIMEOUT_S:
            time.sleep(0.01)

    caller.provider._client().event_hooks = {"response": [be_busy]}


def test_what_has_arrived_when_the_time_is_over_is_still_read():
    caller = runware()
    head, separator, body = answer(200, caller.body).partition(b"\r\n\r\n")
    waiting, arrived = Event(), Event()

    def sends_while_the_worker_is_busy(line: Line) -> None:
        line.request()
        line.send(head + separator)
        waiting.wait(60)
        line.send(body)
        arrived.set()

    busy_until_the_time_is_over(caller, lambda: (waiting.set(), arrived.wait(60)))
    with serving(sends_while_the_worker_is_busy) as server:
        assert caller.call(f"http://{server.address}/v1", timeout_s=TIMEOUT_S).content


def test_a_server_that_is_never_silent_holds_no_thread_for_what_has_arrived(monkeypatch):
    caller = runware()
    # Longer than the pauses between its bytes, so that something has always arrived.
    monkeypatch.setattr(client, "_A_MOMENT_S", FAR_BELOW_S)

    busy_until_the_time_is_over(caller)
    with serving(drips_its_body) as server:
        assert timed_out(caller, f"http://{server.address}/v1") is Failure.TIMED_OUT


def test_one_slow_call_takes_no_time_from_the_next_one():
    caller = openai()

    def is_slow_once(line: Line) -> None:
        line.request()
        if len(server.lines) > 1:
            line.send(answer(200, caller.body))
        else:
            line.pause(EVERY_S * PIECES)

    with serving(is_slow_once) as server:
        assert timed_out(caller, f"http://{server.address}/v1") is Failure.TIMED_OUT
        assert caller.call(f"http://{server.address}/v1").content == {"text": "Rolls."}


# --- The size ---

MEGABYTE = 2**20


def sends_spaces(line: Line) -> None:
    line.send(b"\r\n")
    while not line.pause(0):
        line.send(b" " * 65_536)


def sends_packed_spaces(line: Line) -> None:
    line.send(b"Content-Encoding: gzip\r\n\r\n")
    packer = zlib.compressobj(wbits=31)
    while not line.pause(0):
        line.send(packer.compress(b" " * MEGABYTE) + packer.flush(zlib.Z_SYNC_FLUSH))


@both
@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("sends", [sends_spaces, sends_packed_spaces])
def test_an_answer_without_end_is_unreadable_and_not_read_to_its_end(make, sends, status, monkeypatch):
    monkeypatch.setattr(client, "LARGEST_ANSWER", 4 * MEGABYTE)

    def talks_without_end(line: Line) -> None:
        line.request()
        line.send(b"HTTP/1.1 %d Told\r\nContent-Type: application/json\r\n" % status)
        sends(line)

    with serving(talks_without_end) as server:
        assert make().refused(f"http://{server.address}/v1").failure is Failure.UNREADABLE_ANSWER
        # What a client has not read fills the buffers on its way, which are far smaller than this.
        assert server.lines[0].sent < 64 * MEGABYTE


@both
def test_an_answer_of_the_largest_size_is_read(make, monkeypatch):
    caller = make()
    monkeypatch.setattr(client, "LARGEST_ANSWER", len(caller.body))

    with serving(lambda line: line.request() and line.send(answer(200, caller.body))) as server:
        assert caller.call(f"http://{server.address}/v1").content
        monkeypatch.setattr(client, "LARGEST_ANSWER", len(caller.body) - 1)
        assert caller.refused(f"http://{server.address}/v1").failure is Failure.UNREADABLE_ANSWER


@both
def test_an_answer_that_cannot_be_unpacked_is_unreadable(make):
    broken = answer(200, b"no gzip", content_encoding="gzip")

    with serving(lambda line: line.request() and line.send(broken)) as server:
        assert make().refused(f"http://{server.address}/v1").failure is Failure.UNREADABLE_ANSWER
