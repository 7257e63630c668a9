"""Requests that are answered at once, as by the HTTP API: what cannot be paid is refused, a repeat is the same jobs.

The check is the one that decides on the reservation. It takes no lock, so the reservation may still decide otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy.orm import Session

from billing.catalog.snapshot import Moment
from billing.errors import BillingError, IdempotencyConflict, InsufficientCredits
from billing.jobs import submission_queries
from billing.jobs.decisions import Funds, Limit, decide
from billing.jobs.examining import Examined
from billing.jobs.submission_queries import Key
from billing.ledger import accounts
from billing.plans import limits
from billing.plans.units import LimitUnit


@dataclass(frozen=True)
class Source:
    """Where such requests come from: the API key that they came with, and the idempotency key of all of them."""

    api_key_id: int
    idempotency_key: str


def keys_of(idempotency_key: str, count: int) -> list[str]:
    """The idempotency keys of so many jobs of one request: each one's own, and the first the request's."""
    return [idempotency_key, *(f"{idempotency_key}/{number}" for number in range(1, count))]


def check_repeat(session: Session, source: Source, account_id: int, created: Sequence[bool]) -> None:
    """Raise IdempotencyConflict when some of these jobs are new and others are not, or there were more of them."""
    if all(created):
        return
    beyond = Key(account_id, keys_of(source.idempotency_key, len(created) + 1)[-1])
    if any(created) or submission_queries.existing(session, [beyond]):
        raise IdempotencyConflict(source.idempotency_key)


def check_covered(session: Session, examined: Sequence[Examined], *, at: Moment) -> None:
    """Raise the error of the first of one account's requests that it, or its plan, does not cover with those before."""
    if not examined:
        return
    account_id = examined[0].submission.account_id
    account = accounts.get(session, account_id)
    wanted = {(account_id, each.limit_type) for each in examined if each.limit_type is not None}
    entitled = limits.entitlements(session, [account_id], wanted, now=at.now) if wanted else None
    if entitled is not None and account_id in entitled.behind:
        # It is owed a renewal, which the reservation brings about.
        return
    funds = Funds(account_id, account.balance, account.available, account.frozen_reason is not None)
    left = {} if entitled is None else {kind: each.remaining for (_, kind), each in entitled.allowances.items()}
    for each in examined:
        limit = None
        if each.limit_type in left:
            limit = Limit(each.limit_type, LimitUnit(each.operation.limit_unit), left[each.limit_type])
        words = at.catalog.defaults.words_per_100_tokens
        outcome = decide(funds, each.work, each.price, limit, words_per_100_tokens=words)
        if isinstance(outcome, InsufficientCredits):
            # What all of them need says more than what was left for one of them.
            needed = sum(one.credits_estimated for one in examined)
            raise InsufficientCredits(account_id, needed=needed, available=account.available, held=account.reserved)
        if isinstance(outcome, BillingError):
            raise outcome
        funds = replace(funds, available=funds.available - outcome.credits)
        if limit is not None and limit.remaining is not None:
            left[limit.limit_type] = limit.remaining - outcome.limit_units
