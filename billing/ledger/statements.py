"""An account's statement: each change of its balance, the newest first, with the balance that it left."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Session

from billing.ledger import account_queries, accounts
from billing.ledger.tables import CreditTransaction
from billing.paging import Listing, Page

TRANSACTIONS = Listing("transactions", (int,))
"""The rows of one account's ledger, the newest first, by id: the order in which they changed the balance."""


@dataclass(frozen=True)
class Entry:
    """One row of the ledger, in credits: why it was written, by whom, and the balance that it left."""

    id: int
    created_at: datetime
    type: str
    reason: str
    credits: int
    balance_after: int
    actor: str
    description: str
    job_id: UUID | None
    subscription_id: int | None


def entries(session: Session, account_id: int, *, limit: int, after: str | None = None) -> Page[Entry]:
    """A page of an account's ledger, the newest rows first; `after` is the cursor of the page before.

    Raises UnknownThing, and InvalidRequest for any other cursor.
    """
    accounts.get(session, account_id)
    found = account_queries.transactions(session, account_id, after=TRANSACTIONS.key(after), limit=limit + 1)
    return TRANSACTIONS.page([_entry(row) for row in found], limit, lambda row: (row.id,))


def _entry(row: CreditTransaction) -> Entry:
    return Entry(
        id=row.id,
        created_at=row.created_at,
        type=row.transaction_type,
        reason=row.reason,
        credits=row.amount,
        balance_after=row.balance_after,
        actor=row.actor,
        description=row.description,
        job_id=row.job_id,
        subscription_id=row.subscription_id,
    )
