"""Credits that people put into accounts, or take back: sold, given as goodwill, or adjusted.

The types are those of the product's specification: a sale is a purchase, everything else is an adjustment. So nobody
takes goodwill for a sale. Each is written once for its idempotency key, with the ledger's row that explains it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from billing.errors import BillingError, IdempotencyConflict, InvalidRequest
from billing.ledger import account_queries, accounts, posting
from billing.ledger.posting import Change
from billing.ledger.tables import CreditTransaction
from billing.money import CREDITS_MAX

OUR_KEYS = ("settle:", "creditmill:")
"""The prefixes of idempotency keys that no entry by hand may use."""
USUAL_CREDITS = 1_000_000
"""So many credits are not doubted, whatever the account got before."""
USUAL_TIMES = 10
"""Nor are so many times as many as the account got at once before."""


class ImplausibleAmount(BillingError):
    """So many credits at once are probably a slip."""

    code = "implausible_amount"


def top_up(
    session: Session,
    account_id: int,
    credits: int,
    *,
    idempotency_key: str,
    description: str,
    now: datetime,
    actor: str | None = None,
    force: bool = False,
) -> CreditTransaction:
    """Add credits that were sold, once for each idempotency key; a repeat returns the first one's ledger row.

    Raises UnknownThing, InvalidRequest for an impossible amount, ImplausibleAmount unless forced for one far out of the
    usual, IdempotencyConflict when the key added another amount.
    """
    if not 1 <= credits <= CREDITS_MAX:
        raise InvalidRequest(f"A top-up adds 1 to {CREDITS_MAX} credits.", code="invalid_amount")
    kind = {"transaction_type": "purchase"}
    return _enter(session, account_id, credits, kind, idempotency_key, description, now, actor, force=force)


def grant(
    session: Session,
    account_id: int,
    credits: int,
    *,
    idempotency_key: str,
    description: str,
    now: datetime,
    actor: str,
    force: bool = False,
) -> CreditTransaction:
    """Give credits as goodwill, once for each idempotency key; they are never counted as sold. Raises as `top_up`."""
    if not 1 <= credits <= CREDITS_MAX:
        raise InvalidRequest(f"A grant gives 1 to {CREDITS_MAX} credits.", code="invalid_amount")
    kind = {"transaction_type": "adjustment", "goodwill": True}
    return _enter(session, account_id, credits, kind, idempotency_key, description, now, actor, force=force)


def adjust(
    session: Session,
    account_id: int,
    credits: int,
    *,
    idempotency_key: str,
    description: str,
    now: datetime,
    actor: str,
    force: bool = False,
) -> CreditTransaction:
    """Correct a balance: add credits, or with a negative number take them back, once for each idempotency key.

    What open jobs hold cannot be taken. Raises as `top_up`.
    """
    if credits == 0 or not -CREDITS_MAX <= credits <= CREDITS_MAX:
        raise InvalidRequest(f"An adjustment is of 1 to {CREDITS_MAX} credits, or less than 0.", code="invalid_amount")
    kind = {"transaction_type": "adjustment"}
    return _enter(session, account_id, credits, kind, idempotency_key, description, now, actor, force=force)


def _enter(
    session: Session,
    account_id: int,
    credits: int,
    kind: dict[str, Any],
    idempotency_key: str,
    description: str,
    now: datetime,
    actor: str | None,
    *,
    force: bool,
) -> CreditTransaction:
    _check_texts(idempotency_key, description, actor)
    accounts.get(session, account_id)
    account = posting.lock(session, [account_id])[account_id]
    earlier = account_queries.transaction_with_key(session, account_id, idempotency_key)
    if earlier is not None:
        if (earlier.amount, earlier.transaction_type, earlier.goodwill) != (
            credits,
            kind["transaction_type"],
            kind.get("goodwill", False),
        ):
            raise IdempotencyConflict(idempotency_key)
        return earlier
    if account.balance + credits > CREDITS_MAX:
        raise InvalidRequest(f"No account can hold more than {CREDITS_MAX} credits.", code="invalid_amount")
    if account.balance + credits < account.reserved:
        raise InvalidRequest(
            f"Account {account_id} has {account.balance:,} credits, of which open jobs hold {account.reserved:,}: "
            f"{account.available:,} can be taken at most.",
            code="not_available",
        )
    if not force:
        _check_usual(credits, account_queries.largest_by_hand(session, account_id))
    row = {
        "account_id": account_id,
        **kind,
        "amount": credits,
        "balance_after": account.balance + credits,
        "description": description,
        "idempotency_key": idempotency_key,
        "created_at": now,
        **({} if actor is None else {"actor": actor}),
    }
    posting.post(session, {account_id: Change(balance=credits)}, transactions=[row])
    recorded = account_queries.transaction_with_key(session, account_id, idempotency_key)
    assert recorded is not None
    return recorded


def _check_usual(credits: int, largest: int) -> None:
    usual = max(USUAL_CREDITS, USUAL_TIMES * largest)
    if credits > usual:
        raise ImplausibleAmount(
            f"{credits:,} credits at once are far out of the usual, which for this account is {usual:,} at most. "
            "If it is right all the same, use --force."
        )


def _check_texts(idempotency_key: str, description: str, actor: str | None) -> None:
    if not all(each.isprintable() and len(each) <= 255 for each in (idempotency_key, description)):
        raise InvalidRequest(
            "A description and an idempotency key have 255 printable characters at most.", code="invalid_text"
        )
    if actor is not None and not (actor.strip() and actor.isprintable() and len(actor) <= 100):
        raise InvalidRequest("Whoever does it is named in 1 to 100 printable characters.", code="invalid_text")
    if idempotency_key.startswith(OUR_KEYS):
        raise InvalidRequest(
            f"Keys that begin with {' or '.join(OUR_KEYS)} are Creditmill's own: use another.", code="invalid_text"
        )
