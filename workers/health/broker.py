"""What the broker holds, for those who only look: the doctor, the metrics, the watchdog."""

from __future__ import annotations

from collections.abc import Sequence

import redis

from tasks.app import app
from tasks.messages.transport import keys_of


def queue_names() -> list[str]:
    """Every queue that a message may wait in."""
    return [queue.name for queue in app.conf.task_queues]


def messages_by_queue(client: redis.Redis, queues: Sequence[str]) -> dict[str, int]:
    """How many messages wait in each of these queues, of whatever priority; asked in one round trip."""
    keys = [(name, key) for name in queues for key in keys_of(name)]
    asked = client.pipeline(transaction=False)
    for _, key in keys:
        asked.llen(key)
    waiting = dict.fromkeys(queues, 0)
    for (name, _), length in zip(keys, asked.execute(), strict=True):
        waiting[name] += length
    return waiting
