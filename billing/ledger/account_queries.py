"""Queries over accounts and their ledger. A balance changes only together with the ledger row that explains it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from billing.ledger.tables import Account, CreditTransaction, User
from billing.paging import Key
from billing.sql import Part, as_json, check_written, inserted, together


def find(session: Session, account_id: int) -> Account | None:
    """The account, as it is now."""
    return session.get(Account, account_id, populate_existing=True)


def find_many(session: Session, account_ids: Iterable[int]) -> dict[int, Account]:
    """The accounts with these ids, as they are now."""
    statement = select(Account).where(Account.id.in_(sorted(set(account_ids))))
    return {row.id: row for row in session.scalars(statement.execution_options(populate_existing=True))}


def lock(session: Session, account_ids: Iterable[int]) -> dict[int, Account]:
    """Lock the accounts in the order of their ids; always after their jobs, never before."""
    statement = select(Account).where(Account.id.in_(sorted(set(account_ids)))).order_by(Account.id)
    # FOR NO KEY UPDATE: rows elsewhere that refer to an account need not wait for it, nor it for them.
    statement = statement.with_for_update(key_share=True)
    return {row.id: row for row in session.scalars(statement.execution_options(populate_existing=True))}


def freeze(session: Session, reasons: Mapping[int, str]) -> list[int]:
    """Freeze these accounts, each for its reason; returns those not frozen before, as the others keep their reason."""
    frozen: list[int] = []
    for account_id in sorted(reasons):
        statement = (
            update(Account)
            .where(Account.id == account_id, Account.frozen_reason.is_(None))
            .values(frozen_reason=reasons[account_id])
            .returning(Account.id)
        )
        frozen += session.scalars(statement.execution_options(synchronize_session=False))
    return frozen


def count_frozen(session: Session) -> int:
    """How many accounts may start no new jobs."""
    return session.scalar(select(func.count()).where(Account.frozen_reason.is_not(None))) or 0


def unfreeze(session: Session, account_id: int) -> bool:
    """Let an account start jobs again; False when it was not frozen."""
    statement = (
        update(Account)
        .where(Account.id == account_id, Account.frozen_reason.is_not(None))
        .values(frozen_reason=None)
        .returning(Account.id)
    )
    return session.scalar(statement.execution_options(synchronize_session=False)) is not None


_TRANSACTIONS = CreditTransaction.metadata.tables[CreditTransaction.__tablename__]
_POST = """
    UPDATE accounts a SET balance = a.balance + v.balance, reserved = a.reserved + v.reserved, updated_at = now()
    FROM jsonb_to_recordset(CAST(:accounts AS jsonb)) AS v(id bigint, balance bigint, reserved bigint)
    WHERE a.id = v.id
    RETURNING 1
"""


def post(
    session: Session, changes: Sequence[dict[str, Any]], transactions: Sequence[dict[str, Any]], beside: Sequence[Part]
) -> None:
    """Add to `balance` and `reserved` of accounts, append to the ledger, and write the parts beside them, at once.

    The CHECKs of accounts refuse a change that the balance does not cover. Raises AssertionError when a part does not
    write the rows that it must.
    """
    posted = Part("posted", _POST, len(changes), {"accounts": as_json(changes)})
    parts = [part for part in (*beside, posted, inserted(_TRANSACTIONS, transactions, name="recorded")) if part.rows]
    if parts:
        statement, given = together(parts)
        check_written(parts, session.execute(statement, given).one())


def transaction_with_key(session: Session, account_id: int, key: str) -> CreditTransaction | None:
    """The account's ledger row that was written under this idempotency key."""
    return session.scalar(
        select(CreditTransaction).where(
            CreditTransaction.account_id == account_id, CreditTransaction.idempotency_key == key
        )
    )


def transactions_of_job(session: Session, job_id: UUID) -> list[CreditTransaction]:
    """The ledger rows of one job, oldest first."""
    statement = select(CreditTransaction).where(CreditTransaction.job_id == job_id).order_by(CreditTransaction.id)
    return list(session.scalars(statement))


def newest(session: Session, *, after: Key | None, limit: int) -> list[Account]:
    """Accounts, the newest first, behind the one of this id."""
    statement = select(Account).order_by(Account.id.desc()).limit(limit)
    if after is not None:
        statement = statement.where(Account.id < after[0])
    return list(session.scalars(statement))


def add(session: Session, account: Account) -> Account:
    """Open an account; returns it as the database has it."""
    session.add(account)
    session.flush()
    session.refresh(account)
    return account


def user(session: Session, user_id: int) -> User | None:
    """The user of this id."""
    return session.get(User, user_id)


def largest_by_hand(session: Session, account_id: int) -> int:
    """The most credits that people put into the account at once so far; 0 before the first."""
    put_in = ("purchase", "adjustment")
    largest = select(func.max(CreditTransaction.amount)).where(
        CreditTransaction.account_id == account_id, CreditTransaction.transaction_type.in_(put_in)
    )
    return max(0, session.scalar(largest) or 0)


def transactions(session: Session, account_id: int, *, after: Key | None, limit: int) -> list[CreditTransaction]:
    """The rows of one account's ledger, the newest first, behind the one of this id."""
    statement = select(CreditTransaction).where(CreditTransaction.account_id == account_id)
    if after is not None:
        statement = statement.where(CreditTransaction.id < after[0])
    return list(session.scalars(statement.order_by(CreditTransaction.id.desc()).limit(limit)))


def add_user(session: Session, account_id: int, email: str, name: str) -> User | None:
    """Add a user; None when somebody has this address."""
    statement = insert(User).values(account_id=account_id, email=email, name=name)
    return session.scalar(statement.on_conflict_do_nothing().returning(User))


def newest_users(session: Session, account_id: int | None, *, after: Key | None, limit: int) -> list[User]:
    """Users of an account, or of all, the newest first, behind the one of this id."""
    statement = select(User).order_by(User.id.desc()).limit(limit)
    if account_id is not None:
        statement = statement.where(User.account_id == account_id)
    if after is not None:
        statement = statement.where(User.id < after[0])
    return list(session.scalars(statement))
