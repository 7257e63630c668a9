"""A provider on loopback that answers what a test tells it, over real HTTP, and keeps what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeProvider:
    """What the server answers next, each answer once and the last one for ever; and the bodies that it was sent.

    A body with one of the parameters that it refuses is answered with 400, as servers do that do not know it.
    """

    def __init__(self) -> None:
        self.answers: list[tuple[int, Any, dict[str, str]]] = []
        self.asked: list[Any] = []
        self.refuses: set[str] = set()
        self.url = ""

    def answers_with(self, *bodies: Any, status: int = 200, **headers: str) -> None:
        """Answer with these bodies, one after another; header names have underscores for hyphens."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers = [(status, body, sent) for body in bodies]

    def next_answer(self, asked: Any) -> tuple[int, Any, dict[str, str]]:
        """Keep what was asked, and take the next answer."""
        self.asked.append(asked)
        if unknown := sorted(self.refuses & asked.keys()):
            said = f"Unsupported parameter: {unknown[0]}."
            return 400, {"error": {"message": said, "type": "invalid_request_error", "param": unknown[0]}}, {}
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@contextmanager
def fake_provider() -> Iterator[FakeProvider]:
    """Run a provider on loopback."""
    provider = FakeProvider()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status, body, headers = provider.next_answer(asked)
            sent = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"content-type": "application/json", "x-request-id": "req_1", **headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, format: str, *args: Any) -> None:
            """Write no log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    provider.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
