"""What a new installation is tried out with: an account with credits, and a file with a key of it."""

from __future__ import annotations

from pathlib import Path

from billing.access import keys
from billing.access.keys import KeyRefused
from billing.catalog import current
from billing.ledger import accounts, by_hand
from config.database import database_now, transaction
from workers.local.private_files import write_private

CREDITS = 10_000
ACTOR = "creditmill"


def key_file(home: Path) -> Path:
    """Where the key lies, readable by its owner only."""
    return home / "api.key"


def prepare(home: Path) -> bool:
    """Make both where there is no account yet; returns whether there is a key that works."""
    file = key_file(home)
    with transaction() as session:
        if file.exists():
            try:
                keys.bearer(session, file.read_text().strip())
            except KeyRefused:
                return False
            return True
        if accounts.newest(session, limit=1).rows:
            return False
        now = database_now(session)
        account_id = accounts.create(session, "Trial").id
        by_hand.grant(
            session, account_id, CREDITS, idempotency_key="trial", description="To try it out", now=now, actor=ACTOR
        )
        made = keys.create(session, account_id, name="trial", actor=ACTOR, now=now)
        write_private(file, made.key + "\n")
    return True


def example(url: str, file: Path) -> str:
    """One line for a shell that submits a job with the key, of the first operation that writes text."""
    with transaction() as session:
        found = current.read(session).operations
    operation = next(name for name, each in sorted(found.items()) if each.model_type == "text" and each.is_active)
    return (
        f'curl {url}/api/v1/jobs -H "Authorization: Bearer $(cat {file})" -H "Idempotency-Key: first" '
        '-H "Content-Type: application/json" -d \''
        f'{{"operation": "{operation}", "params": {{"prompt": "Three names for a bakery"}}}}\''
    )
