"""The billing worker, except that some jobs kill whoever works on them: `python -m tests.acceptance.deadly_worker`.

A job kills by its prompt: "[[deadly NAME]]", where NAME is the step of `billing.jobs.reserving` or of
`billing.jobs.settling` at which its worker ends.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from billing.jobs import job_queries, reserving, settling
from workers import processes


def deadly(module: ModuleType, name: str) -> Callable[..., Any]:
    """The step of this name, which ends its process over a deadly job."""
    step = getattr(module, name)

    def run(session: Session, job_ids: Sequence[UUID], **given: Any) -> Any:
        if any(f"[[deadly {name}]]" in job.params.get("prompt", "") for job in job_queries.find(session, job_ids)):
            os.kill(os.getpid(), signal.SIGKILL)
        return step(session, job_ids, **given)

    return run


if __name__ == "__main__":
    for module, names in ((reserving, ("check", "reserve")), (settling, ("settle", "refund"))):
        for each in names:
            setattr(module, each, deadly(module, each))
    processes.run_billing()
