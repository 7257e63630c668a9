"""Providers on loopback, byte by byte: what a test wants to be answered over a real connection, and how slowly."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Talk = Callable[["Line"], None]


class Line:
    """One connection, as the server's side sees it."""

    def __init__(self, connection: socket.socket, leaving: threading.Event) -> None:
        self.connection = connection
        self.leaving = leaving
        self.sent = 0

    def request(self) -> bytes:
        """The next request, whole; nothing when the client has left."""
        received = b""
        while b"\r\n\r\n" not in received:
            piece = self.connection.recv(65_536)
            if not piece:
                return b""
            received += piece
        head, _, body = received.partition(b"\r\n\r\n")
        length = next(
            (int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length" in line), 0
        )
        while len(body) < length:
            body += self.connection.recv(65_536)
        return head + b"\r\n\r\n" + body

    def send(self, content: bytes) -> None:
        self.connection.sendall(content)
        self.sent += len(content)

    def drip(self, content: bytes, *, every_s: float) -> None:
        """A byte at a time."""
        for byte in content:
            self.send(bytes([byte]))
            if self.pause(every_s):
                return

    def pause(self, seconds: float) -> bool:
        """Wait; True when the test is over before."""
        return self.leaving.wait(seconds) if seconds else self.leaving.is_set()


class Server(NamedTuple):
    """Where a server is, and the connections that it was given."""

    port: int
    lines: list[Line]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@contextmanager
def serving(talk: Talk, *, tls: ssl.SSLContext | None = None, buffer_bytes: int | None = None) -> Iterator[Server]:
    """A server that has this talk with each of its clients, until the block ends; with small buffers if told so."""
    leaving = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        if buffer_bytes is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        server = Server(listener.getsockname()[1], [])
        acceptor = threading.Thread(target=_accept, args=(listener, talk, tls, server.lines, leaving))
        acceptor.start()
        try:
            yield server
        finally:
            leaving.set()
            # Wakes who waits to accept.
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", server.port), 5).close()
            acceptor.join()


def _accept(
    listener: socket.socket, talk: Talk, tls: ssl.SSLContext | None, lines: list[Line], leaving: threading.Event
) -> None:
    threads: list[threading.Thread] = []
    while not leaving.is_set():
        connection, _ = listener.accept()
        connection.settimeout(60)
        threads.append(threading.Thread(target=_talk, args=(connection, talk, tls, lines, leaving)))
        threads[-1].start()
    for thread in threads:
        thread.join()


def _talk(
    connection: socket.socket, talk: Talk, tls: ssl.SSLContext | None, lines: list[Line], leaving: threading.Event
) -> None:
    # Whoever gives up on a slow server closes the connection: that is what these tests are about.
    with connection, suppress(OSError):
        if leaving.is_set():
            return
        encrypted = tls.wrap_socket(connection, server_side=True) if tls is not None else connection
        with encrypted:
            lines.append(Line(encrypted, leaving))
            talk(lines[-1])


def answer(status: int, body: bytes, **headers: str) -> bytes:
    """An answer as it goes over the wire, the last one on its connection."""
    told = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close", **headers}
    lines = [f"HTTP/1.1 {status} Told", *(f"{name.replace('_', '-')}: {value}" for name, value in told.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's side of TLS for 127.0.0.1, and the file of its certificate, which whoever trusts it must know."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    trusted, private = folder / "trusted.pem", folder / "private.pem"
    trusted.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(trusted, private)
    return context, trusted
