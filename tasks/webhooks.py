"""Delivery of webhooks, as a Celery task: whatever is due is sent, and a task that comes twice sends nothing twice."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from billing.webhooks import deliveries
from billing.webhooks.deliveries import Outgoing
from config.database import database_now, transaction
from config.logging import get_logger
from tasks import pipeline, sending
from tasks.app import app
from tasks.runtime import runtime

AT_ONCE = 16
"""How many messages one task sends at a time."""
HELD_FOR = timedelta(seconds=4 * sending.WITHIN_S)
WORKS_FOR_S = 30.0
"""How long one task goes on while there is something to do, in seconds; then it sends another one."""

log = get_logger(__name__)


@app.task(name="webhooks.deliver")
def deliver() -> int:
    """Send what is due; returns how many messages were delivered."""
    began, delivered, taken = time.monotonic(), 0, AT_ONCE
    with ThreadPoolExecutor(AT_ONCE) as threads:
        while taken and time.monotonic() - began < WORKS_FOR_S:
            with transaction() as session:
                batch = deliveries.take(session, now=database_now(session), within=HELD_FOR, limit=AT_ONCE)
            taken = len(batch)
            delivered += sum(threads.map(_deliver, batch))
    if taken:
        pipeline.deliver_webhooks()
    return delivered


def _deliver(outgoing: Outgoing) -> bool:
    answer = sending.send(outgoing, to_private=runtime().settings.webhooks_to_private)
    with transaction() as session:
        chance = random.random()  # noqa: S311 - of how long a pause is, not of a secret
        outcome = deliveries.record(session, outgoing, answer, now=database_now(session), chance=chance)
    if outcome != "delivered":
        told = {"status": answer.status, "error": answer.error, "outcome": outcome}
        log.info("webhook_not_delivered", message=outgoing.due.id, attempt=outgoing.due.attempts, **told)
    return outcome == "delivered"
