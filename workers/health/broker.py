"""What the broker holds, for those who only look: the doctor, the metrics."""

from __future__ import annotations

import redis

from tasks.app import app


def messages_by_queue(client: redis.Redis) -> dict[str, int]:
    """How many messages wait in each queue."""
    return {queue.name: client.llen(queue.name) for queue in app.conf.task_queues}
