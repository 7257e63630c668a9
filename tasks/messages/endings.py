"""Tells whoever waits for a job that it has ended: after the commit, and to nobody who is not listening just then.

It is a hint: whoever waits looks by itself now and then.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from uuid import UUID

from tasks.messages import pending

CHANNEL = "creditmill.ended"


def tell(job_ids: Collection[UUID]) -> None:
    """Say that these jobs may have ended."""
    if job_ids:
        body = json.dumps([str(job_id) for job_id in job_ids])
        pending.asked(lambda client: client.publish(CHANNEL, body), otherwise=None)
