"""Tells whoever waits for a job that it has ended: after the commit, and to nobody who is not listening just then.

It is a hint: whoever waits looks by itself now and then. A mark in the broker says whether anybody is told by webhooks:
only then somebody is sent to deliver them at once.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from uuid import UUID

from redis import Redis

from tasks.messages import pending

CHANNEL = "creditmill.ended"
WEBHOOKS_MARK = "creditmill.webhooks"
WEBHOOKS_LAST_MS = 120_000
"""How long the mark holds without being set anew, in milliseconds."""
SENT_MARK = "creditmill.webhooks_sent"
SENT_LASTS_MS = 500


def tell(job_ids: Collection[UUID]) -> bool:
    """Say that these jobs may have ended; returns whether somebody should be sent to deliver webhooks."""
    if not job_ids:
        return False
    body = json.dumps([str(job_id) for job_id in job_ids])

    def ask(client: Redis) -> bool:
        with client.pipeline(transaction=False) as both:
            both.publish(CHANNEL, body)
            both.get(WEBHOOKS_MARK)
            _, there_are_webhooks = both.execute()
        if there_are_webhooks is None:
            return False
        # One that was sent a moment ago has not begun, or goes on until nothing is due.
        return bool(client.set(SENT_MARK, "", nx=True, px=SENT_LASTS_MS))

    return bool(pending.asked(ask, otherwise=False))


def expect_webhooks(there_are_any: bool) -> None:
    """Note whether anybody is told by webhooks."""
    if there_are_any:
        pending.asked(lambda client: client.set(WEBHOOKS_MARK, "", px=WEBHOOKS_LAST_MS), otherwise=None)
    else:
        pending.asked(lambda client: client.delete(WEBHOOKS_MARK), otherwise=None)
