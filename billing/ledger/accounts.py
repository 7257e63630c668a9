"""Accounts: opened, found, frozen, shown. What changes their credits by hand is in `by_hand`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sqlalchemy.orm import Session

from billing.errors import InvalidRequest, UnknownThing
from billing.ledger import account_queries
from billing.ledger.tables import Account, CreditTransaction
from billing.paging import Listing, Page

ACCOUNTS = Listing("accounts", (int,))
"""Accounts, the newest first, by id."""

NO_ZONES = frozenset({"localtime", "posixrules", "Factory"})
"""What lies beside the zones on many machines: the machine's own time, a default for rules, and "not set up yet"."""


@dataclass(frozen=True)
class AccountView:
    """An account as it is shown: what it has, what its open jobs hold, what a new job may reserve, all in credits."""

    id: int
    name: str
    balance: int
    reserved: int
    available: int
    frozen_reason: str | None
    billing_email: str | None
    time_zone: str


def create(session: Session, name: str, *, billing_email: str | None = None, time_zone: str = "UTC") -> Account:
    """Open an account with no credits; raises InvalidRequest for an empty name or an unknown time zone."""
    if not name.strip() or not name.isprintable() or len(name) > 200:
        raise InvalidRequest("An account's name must have 1 to 200 printable characters.", code="invalid_name")
    if not _is_time_zone(time_zone):
        raise InvalidRequest(
            f"There is no time zone {time_zone[:40]!r}: use a name such as Europe/Berlin.", code="invalid_time_zone"
        )
    account = Account(name=name.strip(), billing_email=billing_email, time_zone=time_zone)
    return account_queries.add(session, account)


def _is_time_zone(name: str) -> bool:
    """Whether IANA has a zone of this name: a machine's folder of zones holds its own time and other files as well."""
    if name in NO_ZONES or name.startswith(("posix/", "right/")):
        return False
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def get(session: Session, account_id: int) -> Account:
    """The account; raises UnknownThing when there is none of that id."""
    # No account has an id outside BIGINT, and PostgreSQL would refuse the comparison itself.
    account = account_queries.find(session, account_id) if 0 < account_id < 2**63 else None
    if account is None:
        raise UnknownThing("account", account_id)
    return account


def view(session: Session, account_id: int) -> AccountView:
    """The account as it is shown; raises UnknownThing when there is none of that id."""
    return _view(get(session, account_id))


def find_many(session: Session, account_ids: Iterable[int]) -> dict[int, Account]:
    """The accounts with these ids, as they are now."""
    return account_queries.find_many(session, account_ids)


def check_user(session: Session, account_id: int, user_id: int | None) -> None:
    """Raise UnknownThing when a user is given who does not belong to this account."""
    if user_id is not None:
        user = account_queries.user(session, user_id)
        if user is None or user.account_id != account_id:
            raise UnknownThing("user", user_id)


def account_of(session: Session, user_id: int) -> int:
    """The id of the account that a user belongs to; raises UnknownThing when there is no such user."""
    user = account_queries.user(session, user_id) if 0 < user_id < 2**63 else None
    if user is None:
        raise UnknownThing("user", user_id)
    return user.account_id


def transactions_of_job(session: Session, job_id: UUID) -> list[CreditTransaction]:
    """The ledger rows of one job, oldest first."""
    return account_queries.transactions_of_job(session, job_id)


def zone(account: Account) -> ZoneInfo:
    """The time zone in which the account's days begin and end."""
    return ZoneInfo(account.time_zone)


def freeze(session: Session, account_id: int, reason: str) -> bool:
    """Stop an account from starting new jobs; False when it was frozen before. Its open jobs go on to their end."""
    if not reason.strip() or not reason.isprintable() or len(reason) > 200:
        raise InvalidRequest("A reason has 1 to 200 printable characters.", code="invalid_text")
    get(session, account_id)
    return bool(freeze_all(session, {account_id: reason}))


def freeze_all(session: Session, reasons: Mapping[int, str]) -> list[int]:
    """Stop these accounts from starting new jobs, each for its reason; returns those that were not frozen before."""
    return account_queries.freeze(session, reasons)


def count_frozen(session: Session) -> int:
    """How many accounts may start no new jobs."""
    return account_queries.count_frozen(session)


def unfreeze(session: Session, account_id: int) -> bool:
    """Let an account start jobs again; False when it was not frozen."""
    get(session, account_id)
    return account_queries.unfreeze(session, account_id)


def newest(session: Session, *, limit: int, after: str | None = None) -> Page[AccountView]:
    """A page of accounts, the newest first; `after` is the cursor of the page before.

    Raises InvalidRequest for any other cursor.
    """
    found = account_queries.newest(session, after=ACCOUNTS.key(after), limit=limit + 1)
    return ACCOUNTS.page([_view(account) for account in found], limit, lambda account: (account.id,))


def _view(account: Account) -> AccountView:
    return AccountView(
        id=account.id,
        name=account.name,
        balance=account.balance,
        reserved=account.reserved,
        available=account.available,
        frozen_reason=account.frozen_reason,
        billing_email=account.billing_email,
        time_zone=account.time_zone,
    )
