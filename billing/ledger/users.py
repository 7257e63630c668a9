"""Users: the people who belong to accounts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from billing.errors import InvalidRequest
from billing.ledger import account_queries, accounts
from billing.ledger.tables import User
from billing.paging import Listing, Page

USERS = Listing("users", (int,))
"""Users, the newest first, by id."""
# Whether mail arrives there, only sending some tells: this is the form that every address has.
_ADDRESS = re.compile(r"[^@\s]{1,64}@[^@\s.]+(\.[^@\s.]+)+")


@dataclass(frozen=True)
class UserView:
    """A user as it is shown."""

    id: int
    account_id: int
    email: str
    name: str
    created_at: datetime


def create(session: Session, account_id: int, email: str, *, name: str = "") -> UserView:
    """Add a user to an account; raises UnknownThing, or InvalidRequest for an address or a name that cannot be."""
    address = email.strip()
    if not _ADDRESS.fullmatch(address) or not address.isprintable() or len(address) > 254:
        raise InvalidRequest("That is no e-mail address.", code="invalid_email")
    if not name.isprintable() or len(name) > 200:
        raise InvalidRequest("A user's name has 200 printable characters at most.", code="invalid_name")
    accounts.get(session, account_id)
    added = account_queries.add_user(session, account_id, address.lower(), name.strip())
    if added is None:
        raise InvalidRequest("There is a user with this e-mail address already.", code="user_exists")
    return _view(added)


def newest(session: Session, *, account_id: int | None = None, limit: int, after: str | None = None) -> Page[UserView]:
    """A page of the users of an account, or of all, the newest first; `after` is the cursor of the page before.

    Raises UnknownThing, and InvalidRequest for any other cursor.
    """
    if account_id is not None:
        accounts.get(session, account_id)
    found = account_queries.newest_users(session, account_id, after=USERS.key(after), limit=limit + 1)
    return USERS.page([_view(user) for user in found], limit, lambda user: (user.id,))


def _view(user: User) -> UserView:
    return UserView(user.id, user.account_id, user.email, user.name, user.created_at)
