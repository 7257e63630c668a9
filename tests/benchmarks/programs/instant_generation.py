"""The generation worker with a provider that answers at once: what is left is Creditmill's own work.

Run by its path, with the Python of whichever version is measured.
"""

from __future__ import annotations

from billing.catalog.usage import Usage
from billing.jobs.calling import Claim, Delivery
from billing.jobs.policy import Means
from config.providers import Connection
from workers import bootstrap, processes


class InstantProvider:
    """Delivers the same short text for every call."""

    def call(self, claim: Claim, connection: Connection, *, timeout_s: float) -> Delivery:
        """Deliver."""
        return Delivery(
            content={"text": "Bread."},
            usage=Usage(input_tokens=8, output_tokens=40),
            raw_usage={"input_tokens": 8, "output_tokens": 40},
            request_id="req_bench",
            finish_reason="stop",
        )

    def means(self, connection: Connection) -> Means:
        """No call is ever unknown."""
        return Means.WAIT

    def ask(self, claim: Claim, connection: Connection, *, timeout_s: float) -> Delivery | None:
        """No call is ever unknown."""
        return None


if __name__ == "__main__":
    bootstrap.all_providers = lambda: {"openai": InstantProvider()}
    processes.run_generation()
