"""What the tests of the catalogue share: models to add, changes that are committed, all rows as text, settled jobs."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import text

from billing.catalog import changing
from billing.catalog.usage import Usage
from billing.jobs import settling
from config.database import transaction
from tests.factories import NOON, a_generated_job, rows

TOKEN_IMAGE = {
    "model_type": "image",
    "provider": "openai",
    "input_cost_per_1m": "5",
    "output_cost_per_1m": "40",
    "max_output_tokens": "6240",
    "max_images": "10",
    "valid_sizes": "1024x1024,1536x1024",
    "limit_type": "images_premium",
}
"""gpt-image-1, which bills by tokens."""
EMBEDDING = {
    "model_type": "embedding",
    "provider": "openai",
    "input_cost_per_1m": "0.02",
    "context_window": "8191",
    "is_default": "true",
}
"""text-embedding-3-small."""


CLAUDE = {
    "model_type": "text",
    "provider": "anthropic",
    "input_cost_per_1m": "3",
    "output_cost_per_1m": "15",
    "context_window": "200000",
    "max_output_tokens": "8000",
}
"""A text model of another provider."""


def change(what: str, *names: str, force: bool = False, **fields: Any) -> None:
    """One change of the catalogue, committed: `change("set_model", "gpt-4o", output_cost_per_1m="12")`."""
    with transaction() as session:
        getattr(changing, what)(session, *names, fields, force=force)


def sql(statement: str, **given: Any) -> None:
    """A change by hand, past all code."""
    with transaction() as session:
        session.execute(text(statement), given)


def everything() -> dict[str, list[str]]:
    """Every row of every table, as text: equal before and after when nothing at all was written."""
    tables = rows("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
    return {name: [str(row) for row in rows(f'SELECT t::text FROM "{name}" t ORDER BY 1')] for (name,) in tables}


def a_settled_job(account_id: int, operation: str = "clustering", *, usage: Usage | None = None, **given: Any) -> UUID:
    """A job that was charged for what it used."""
    job_id = a_generated_job(account_id, operation, usage=usage, **given)
    with transaction() as session:
        assert settling.settle(session, [job_id], now=given.get("now", NOON)) == [job_id]
    return job_id
