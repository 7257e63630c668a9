"""The billing worker, except that some jobs kill whoever works on them: `python -m tests.acceptance.deadly_worker`.

A job kills by its prompt: "[[deadly NAME]]", where NAME is the step of `billing.jobs` at which its worker ends: `check`
when the job was taken to be checked, `reserve`, `settle` or `refund`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from billing.jobs import job_queries, reserving, settling, taking
from billing.jobs.taking import Taken
from workers import processes


def deadly(module: ModuleType, name: str) -> Callable[..., Any]:
    """The step of this name, which ends its process over a deadly job."""
    step = getattr(module, name)

    def run(session: Session, job_ids: Sequence[UUID], **given: Any) -> Any:
        die_over(session, job_ids, name)
        return step(session, job_ids, **given)

    return run


def deadly_take(name: str) -> Callable[..., Taken]:
    """The way of taking of this name, which ends its process over a deadly job before anything is committed."""
    take = getattr(taking, name)

    def run(session: Session, *given: Any, **named: Any) -> Taken:
        taken: Taken = take(session, *given, **named)
        die_over(session, taken.job_ids, "check")
        return taken

    return run


def die_over(session: Session, job_ids: Sequence[UUID], step: str) -> None:
    """End this process if one of these jobs is deadly at this step."""
    if any(f"[[deadly {step}]]" in job.params.get("prompt", "") for job in job_queries.find(session, job_ids)):
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    for each in ("take", "take_alone"):
        setattr(taking, each, deadly_take(each))
    for module, names in ((reserving, ("reserve",)), (settling, ("settle", "refund"))):
        for each in names:
            setattr(module, each, deadly(module, each))
    processes.run_billing()
