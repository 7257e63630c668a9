"""Posting: the only place where a balance changes.

One statement changes accounts and, with them, what belongs to the change and is another noun's, such as the units of a
plan limit: all of it is written, or nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from billing.ledger import account_queries
from billing.ledger.tables import Account
from billing.sql import Part


@dataclass
class Change:
    """What one batch adds to one account, in credits."""

    balance: int = 0
    reserved: int = 0


def lock(session: Session, account_ids: Iterable[int]) -> dict[int, Account]:
    """Lock these accounts in the order of their ids, and return them; always after their jobs, never before."""
    return account_queries.lock(session, account_ids)


def balances(session: Session, account_ids: Iterable[int]) -> dict[int, int]:
    """The balance of each of these accounts, in credits; the caller holds their locks."""
    return {row.id: row.balance for row in account_queries.find_many(session, account_ids).values()}


def post(
    session: Session,
    changes: Mapping[int, Change],
    *,
    transactions: Sequence[dict[str, Any]] = (),
    beside: Sequence[Part] = (),
) -> None:
    """Write these changes, by account id, the ledger's rows that explain them, and the parts beside them at once.

    The caller holds the accounts' locks. Raises IntegrityError when a balance does not cover its change, and
    AssertionError when a part does not write the rows that it must: the caller's transaction then writes nothing.
    """
    accounts = [
        {"id": account_id, "balance": change.balance, "reserved": change.reserved}
        for account_id, change in changes.items()
        if change.balance or change.reserved
    ]
    account_queries.post(session, accounts, transactions, beside)
