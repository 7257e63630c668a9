"""Accounts and the credits that are put into them by hand."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sqlalchemy import select
from sqlalchemy.orm import Session

from billing.errors import IdempotencyConflict, InvalidRequest, UnknownThing
from billing.ledger import account_queries
from billing.ledger.posting import Books, Change
from billing.ledger.tables import Account, CreditTransaction
from billing.money import CREDITS_MAX

OUR_KEYS = ("settle:", "creditmill:")
"""How the keys of ledger rows begin that no top-up may take."""


def create(session: Session, name: str, *, billing_email: str | None = None, time_zone: str = "UTC") -> Account:
    """Open an account with no credits; raises InvalidRequest for an empty name or an unknown time zone."""
    if not name.strip() or not name.isprintable() or len(name) > 200:
        raise InvalidRequest("An account's name must have 1 to 200 printable characters.", code="invalid_name")
    try:
        ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidRequest(
            f"There is no time zone {time_zone[:40]!r}: use a name such as Europe/Berlin.", code="invalid_time_zone"
        ) from None
    account = Account(name=name.strip(), billing_email=billing_email, time_zone=time_zone)
    session.add(account)
    session.flush()
    session.refresh(account)
    return account


def get(session: Session, account_id: int) -> Account:
    """The account; raises UnknownThing when there is none of that id."""
    # Outside BIGINT there is no account, and PostgreSQL would refuse the comparison itself.
    account = account_queries.find(session, account_id) if 0 < account_id < 2**63 else None
    if account is None:
        raise UnknownThing("account", account_id)
    return account


def zone(account: Account) -> ZoneInfo:
    """Where the account's days begin and end."""
    return ZoneInfo(account.time_zone)


def freeze(session: Session, account_id: int, reason: str) -> bool:
    """Let an account start no new jobs; False when it was frozen before. Its open jobs come to their end."""
    if not reason.strip() or not reason.isprintable() or len(reason) > 200:
        raise InvalidRequest("A reason has 1 to 200 printable characters.", code="invalid_text")
    get(session, account_id)
    return bool(account_queries.freeze(session, {account_id: reason}))


def unfreeze(session: Session, account_id: int) -> bool:
    """Let an account start jobs again; False when it was not frozen."""
    get(session, account_id)
    return account_queries.unfreeze(session, account_id)


def newest(session: Session, *, limit: int) -> list[Account]:
    """Accounts, the newest first."""
    return list(session.scalars(select(Account).order_by(Account.id.desc()).limit(limit)))


def top_up(
    session: Session,
    account_id: int,
    credits: int,
    *,
    idempotency_key: str,
    description: str,
    now: datetime,
) -> CreditTransaction:
    """Add credits to an account, once for each idempotency key; a repeat returns the first one's ledger row.

    Raises UnknownThing, InvalidRequest for an impossible amount, IdempotencyConflict when the key added another amount.
    """
    if (
        not description.isprintable()
        or not idempotency_key.isprintable()
        or max(map(len, (description, idempotency_key))) > 255
    ):
        raise InvalidRequest(
            "A description and an idempotency key have 255 printable characters at most.", code="invalid_text"
        )
    if idempotency_key.startswith(OUR_KEYS):
        raise InvalidRequest(
            f"Keys that begin with {' or '.join(OUR_KEYS)} are Creditmill's own: use another.", code="invalid_text"
        )
    if not 1 <= credits <= CREDITS_MAX:
        raise InvalidRequest(f"A top-up adds 1 to {CREDITS_MAX} credits.", code="invalid_amount")
    get(session, account_id)
    account = account_queries.lock(session, [account_id])[account_id]
    earlier = account_queries.transaction_with_key(session, account_id, idempotency_key)
    if earlier is not None:
        if earlier.amount != credits:
            raise IdempotencyConflict(idempotency_key)
        return earlier
    if account.balance + credits > CREDITS_MAX:
        raise InvalidRequest(f"No account can hold more than {CREDITS_MAX} credits.", code="invalid_amount")
    account_queries.record(
        session,
        [
            {
                "account_id": account_id,
                "transaction_type": "purchase",
                "amount": credits,
                "balance_after": account.balance + credits,
                "description": description,
                "idempotency_key": idempotency_key,
                "created_at": now,
            }
        ],
    )
    Books(accounts={account_id: Change(balance=credits)}).post(session)
    recorded = account_queries.transaction_with_key(session, account_id, idempotency_key)
    assert recorded is not None
    return recorded
