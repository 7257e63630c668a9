"""An app in another code base: it has Celery, and knows of Creditmill the wire format and nothing else.

Reads JSON lines from stdin, each with `kwargs` and optionally `args`, `task`, `queue`, `task_id`; prints their ids.
"""

import json
import os
import sys

from celery import Celery

app = Celery("another-app", broker=os.environ["BROKER"])

for line in sys.stdin:
    message = {"args": [], "task": "generation.submit", "queue": "requests", "task_id": None, **json.loads(line)}
    sent = app.send_task(
        message["task"], message["args"], message["kwargs"], queue=message["queue"], task_id=message["task_id"]
    )
    print(sent.id)  # noqa: T201
