"""This process's settings and provider adapters: set once by the composition root, read by every task."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property

from billing.jobs.calling import KINDS
from billing.jobs.policy import RetryBudget
from billing.jobs.recovery import Patience
from config.settings import ConfigurationError, Settings
from tasks.providers.base import Provider
from tasks.slots import Slots

WRITERS = 8
"""Threads of a generation worker beyond those that may all be calling providers."""


@dataclass(frozen=True)
class Runtime:
    """A process's settings and the providers that it can call, by name."""

    settings: Settings
    providers: Mapping[str, Provider]

    @property
    def publish_by(self) -> timedelta:
        """How long a job's message may take before the recovery task sends it again."""
        return timedelta(seconds=self.settings.republish_after_s)

    @property
    def deadline(self) -> timedelta:
        """How long a job may stay open."""
        return timedelta(seconds=self.settings.job_deadline_s)

    @property
    def unknown_wait(self) -> timedelta:
        """How long an outcome may stay unknown before recovery gives it up."""
        return timedelta(seconds=self.settings.unknown_wait_s)

    @property
    def patience(self) -> Patience:
        """The recovery task's waits."""
        return Patience(republish_after=self.publish_by, unknown_wait=self.unknown_wait)

    @property
    def budget(self) -> RetryBudget:
        """How often one job's call may be tried."""
        return RetryBudget(
            attempts=self.settings.call_attempts, wait_max=timedelta(seconds=self.settings.call_wait_max_s)
        )

    @cached_property
    def slots(self) -> Slots:
        """One for each call that this process may make at a time."""
        return Slots(self.settings.generation_concurrency)

    @cached_property
    def threads(self) -> ThreadPoolExecutor:
        """The threads that make the calls of batches, and some more, that write down what came of them."""
        return ThreadPoolExecutor(self.settings.generation_concurrency + WRITERS, thread_name_prefix="call")

    @cached_property
    def leases(self) -> Mapping[str, timedelta]:
        """How long a claim on a job lasts, by kind."""
        return {kind: timedelta(seconds=self.settings.lease_s(kind)) for kind in KINDS}


_runtime: Runtime | None = None


def use_runtime(runtime: Runtime) -> None:
    """Make this the runtime of the process."""
    global _runtime
    _runtime = runtime


def runtime() -> Runtime:
    """The runtime of this process; raises ConfigurationError before it was set."""
    if _runtime is None:
        raise ConfigurationError("This process was not set up: start it with a `creditmill` command.")
    return _runtime
