"""Calls by a proxy of the environment: as bounded as any other, and sorted by whether the proxy passed anything on."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress

import pytest

from billing.jobs.policy import Failure
from tests.integration.providers.callers import both
from tests.integration.providers.loopback import Line, answer, certificate, serving

TIMEOUT_S = 0.5
FAR_BELOW_S = 20


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return monkeypatch


def passes_on(line: Line) -> None:
    """A proxy that connects its client to whom it asks for."""
    target = line.request().split(b" ")[1].decode()
    host, _, port = target.partition(":")
    with socket.create_connection((host, int(port)), 60) as behind:
        line.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        back = threading.Thread(target=_copy, args=(behind, line.connection))
        back.start()
        _copy(line.connection, behind)
        back.join()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(65_536):
            sink.sendall(piece)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@both
def test_a_call_goes_by_the_proxy_of_the_environment(make, no_proxies):
    caller = make()
    requests: list[bytes] = []

    with serving(lambda line: requests.append(line.request()) or line.send(answer(200, caller.body))) as proxy:
        no_proxies.setenv("HTTP_PROXY", f"http://{proxy.address}")
        assert caller.call("http://provider.example/v1").content

    assert requests[0].startswith(b"POST http://provider.example/v1")


@both
def test_a_call_to_where_no_proxy_is_wanted_goes_there_directly(make, no_proxies):
    caller = make()
    no_proxies.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    no_proxies.setenv("NO_PROXY", "127.0.0.1")

    with serving(lambda line: line.request() and line.send(answer(200, caller.body))) as server:
        assert caller.call(f"http://{server.address}/v1").content


@both
@pytest.mark.parametrize("encrypted_proxy", [False, True])
def test_an_encrypted_call_goes_through_a_proxy(make, encrypted_proxy, no_proxies, tmp_path):
    caller = make()
    tls, trusted = certificate(tmp_path)
    no_proxies.setenv("SSL_CERT_FILE", str(trusted))

    with (
        serving(lambda line: line.request() and line.send(answer(200, caller.body)), tls=tls) as server,
        serving(passes_on, tls=tls if encrypted_proxy else None) as proxy,
    ):
        no_proxies.setenv("HTTPS_PROXY", f"http{'s' if encrypted_proxy else ''}://{proxy.address}")
        assert caller.call(f"https://{server.address}/v1").content
        assert len(proxy.lines) == 1


@both
@pytest.mark.parametrize("encrypted_proxy", [False, True])
def test_a_slow_provider_behind_a_proxy_holds_no_thread_beyond_the_time(make, encrypted_proxy, no_proxies, tmp_path):
    tls, trusted = certificate(tmp_path)
    no_proxies.setenv("SSL_CERT_FILE", str(trusted))

    def drips(line: Line) -> None:
        line.request()
        line.send(b"HTTP/1.1 200 OK\r\nContent-Length: 800\r\n\r\n")
        line.drip(b" " * 800, every_s=0.05)

    with serving(drips, tls=tls) as server, serving(passes_on, tls=tls if encrypted_proxy else None) as proxy:
        no_proxies.setenv("HTTPS_PROXY", f"http{'s' if encrypted_proxy else ''}://{proxy.address}")
        began = time.monotonic()
        refusal = make().refused(f"https://{server.address}/v1", timeout_s=TIMEOUT_S)

    assert refusal.failure is Failure.TIMED_OUT
    assert time.monotonic() - began < FAR_BELOW_S


@both
def test_a_proxy_that_answers_slowly_holds_no_thread_beyond_the_time(make, no_proxies):
    def drips(line: Line) -> None:
        line.request()
        line.drip(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"a" * 800, every_s=0.05)

    with serving(drips) as proxy:
        no_proxies.setenv("HTTPS_PROXY", f"http://{proxy.address}")
        began = time.monotonic()
        refusal = make().refused("https://provider.example/v1", timeout_s=TIMEOUT_S)

    assert refusal.failure is Failure.TIMED_OUT
    assert time.monotonic() - began < FAR_BELOW_S


@both
@pytest.mark.parametrize("status", [403, 407, 502, 503])
def test_a_proxy_that_refuses_to_connect_has_passed_nothing_on(make, status, no_proxies):
    with serving(lambda line: line.request() and line.send(answer(status, b""))) as proxy:
        no_proxies.setenv("HTTPS_PROXY", f"http://{proxy.address}")
        assert make().refused("https://provider.example/v1").failure is Failure.UNREACHABLE
