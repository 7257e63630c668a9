"""Messages as they look from outside Creditmill: what another app sends, and what lies in Valkey."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import redis

PREFIX = ""
QUEUES = ("requests", "billing", "text", "image", "embedding", "periodic", "webhooks")
CLIENT = Path(__file__).with_name("bare_client.py")


@dataclass(frozen=True)
class Envelope:
    """A message as kombu keeps it in a Redis list."""

    headers: dict[str, Any]
    body: str

    @classmethod
    def read(cls, raw: str | bytes) -> Envelope:
        """Read one item of a queue."""
        item = json.loads(raw)
        return cls(headers=item["headers"], body=base64.b64decode(item["body"]).decode())

    @property
    def task(self) -> str:
        return self.headers["task"]

    @property
    def parts(self) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
        """Celery's args, kwargs and embedded rest (the chain, the callbacks)."""
        args, kwargs, rest = json.loads(self.body)
        return args, kwargs, rest


def send(environment: Mapping[str, str], *messages: Mapping[str, Any]) -> list[str]:
    """Send messages as another app would, from a process that imports nothing of Creditmill; returns their ids."""
    lines = "".join(json.dumps(message) + "\n" for message in messages)
    run = subprocess.run(
        [sys.executable, "-I", str(CLIENT)],
        input=lines,
        text=True,
        capture_output=True,
        cwd="/",
        env={"PATH": environment.get("PATH", ""), "BROKER": environment["BROKER_URL"]},
        check=False,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


def put(broker_url: str, queue: str, raw: str | bytes) -> None:
    """Put one item into a queue, whatever it is."""
    with redis.Redis.from_url(broker_url) as client:
        client.lpush(PREFIX + queue, raw)


def waiting(broker_url: str, queue: str) -> list[bytes]:
    """The items of a queue."""
    with redis.Redis.from_url(broker_url) as client:
        return client.lrange(PREFIX + queue, 0, -1)


def unacknowledged(broker_url: str) -> int:
    """How many messages were taken and not acknowledged."""
    with redis.Redis.from_url(broker_url) as client:
        return client.hlen(PREFIX + "unacked")


def item(
    body: bytes | str,
    *,
    task: object = "generation.submit",
    message_id: object = None,
    content_type: str = "application/json",
    queue: str = "requests",
    headers: Mapping[str, Any] | None = None,
) -> str:
    """One item of a queue as a Celery client would put it there, with any body and further headers.

    `headers` of None means Celery's own; a header given as None is left out.
    """
    raw = body if isinstance(body, bytes) else body.encode()
    known = {"task": task, "id": message_id or str(uuid4()), "lang": "py", "retries": 0, "root_id": None}
    known = {name: value for name, value in {**known, **(headers or {})}.items() if value is not None}
    return json.dumps(
        {
            "body": base64.b64encode(raw).decode(),
            "content-encoding": "utf-8",
            "content-type": content_type,
            "headers": known,
            "properties": {
                "correlation_id": str(uuid4()),
                "delivery_mode": 2,
                "delivery_info": {"exchange": queue, "routing_key": queue},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": str(uuid4()),
            },
        }
    )


def request(kwargs: Mapping[str, Any], args: Sequence[Any] = ()) -> str:
    """The body of a Celery task message."""
    return json.dumps([list(args), dict(kwargs), {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
