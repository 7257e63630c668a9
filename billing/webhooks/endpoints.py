"""The endpoints of an account: where it is told of events. A secret, which signs what is sent, is shown once."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from sqlalchemy.orm import Session

from billing.errors import InvalidRequest, UnknownThing
from billing.ledger import accounts
from billing.money import CREDITS_MAX
from billing.webhooks import webhook_queries
from billing.webhooks.events import EVENTS, unknown
from billing.webhooks.tables import WebhookEndpoint
from config.secrets import decrypt, encrypt, is_of_first_key

ENDPOINTS_MAX = 20
"""Endpoints of one account."""
URL_MAX = 500


@dataclass(frozen=True)
class EndpointView:
    """An endpoint as it may be shown."""

    id: UUID
    account_id: int
    url: str
    events: tuple[str, ...]
    balance_threshold: int | None
    limit_threshold_percent: int
    disabled_reason: str | None
    created_at: datetime


@dataclass(frozen=True)
class NewSecret:
    """An endpoint with a secret that was just made, the only time that it is told."""

    secret: str
    view: EndpointView


def create(
    session: Session,
    account_id: int,
    url: str,
    *,
    events: Collection[str] = (),
    balance_threshold: int | None = None,
    limit_threshold_percent: int = 80,
    plain: bool = False,
) -> NewSecret:
    """Add an endpoint, for these events or for all; `plain` allows http. Raises UnknownThing and InvalidRequest."""
    accounts.get(session, account_id)
    check_url(url, plain=plain)
    if wrong := unknown(events):
        known = ", ".join(EVENTS)
        raise InvalidRequest(f"There is no event {wrong[0][:40]!r}. Known: {known}.", code="unknown_event")
    if balance_threshold is not None and not 0 <= balance_threshold <= CREDITS_MAX:
        raise InvalidRequest(f"A threshold is of 0 to {CREDITS_MAX} credits.", code="invalid_amount")
    if not 1 <= limit_threshold_percent <= 100:
        raise InvalidRequest("A share of a limit is of 1 to 100 percent.", code="invalid_share")
    if len(webhook_queries.endpoints(session, account_id)) >= ENDPOINTS_MAX:
        raise InvalidRequest(f"An account has {ENDPOINTS_MAX} endpoints at most.", code="too_many_endpoints")
    endpoint_id, secret = uuid4(), _new_secret()
    row = webhook_queries.add_endpoint(
        session,
        id=endpoint_id,
        account_id=account_id,
        url=url,
        events=[event for event in EVENTS if event in (events or EVENTS)],
        balance_threshold=balance_threshold,
        limit_threshold_percent=limit_threshold_percent,
        secret_encrypted=encrypt(secret, place(endpoint_id)),
    )
    return NewSecret(secret, _view(row))


def check_url(url: str, *, plain: bool) -> None:
    """Raise InvalidRequest for an address that nothing can be sent to safely; `plain` allows http."""
    told = "An endpoint is an https address without a user, a password or a fragment, of 500 characters at most."
    try:
        parts = urlsplit(url)
        fine = parts.scheme in (("https", "http") if plain else ("https",)) and parts.hostname and parts.port != 0
    except ValueError:
        raise InvalidRequest(told, code="invalid_url") from None
    if not fine or not url.isprintable() or " " in url or len(url) > URL_MAX or "@" in parts.netloc or parts.fragment:
        raise InvalidRequest(told, code="invalid_url")


def of_account(session: Session, account_id: int | None) -> list[EndpointView]:
    """The endpoints of an account, or of all; raises UnknownThing."""
    if account_id is not None:
        accounts.get(session, account_id)
    return [_view(row) for row in webhook_queries.endpoints(session, account_id)]


def rotate(
    session: Session, endpoint_id: UUID, *, overlap: timedelta, now: datetime, account_id: int | None = None
) -> NewSecret:
    """Make a new secret; for `overlap`, what is sent is signed with the old one too. Raises UnknownThing."""
    row = _named(session, endpoint_id, account_id, lock=True)
    secret = _new_secret()
    row.former_secret_encrypted = row.secret_encrypted
    row.former_until = now + overlap
    row.secret_encrypted = encrypt(secret, place(endpoint_id))
    session.flush()
    return NewSecret(secret, _view(row))


def remove(session: Session, endpoint_id: UUID, *, account_id: int | None = None) -> None:
    """Remove an endpoint, and what was to be told to it; raises UnknownThing."""
    _named(session, endpoint_id, account_id)
    webhook_queries.remove(session, endpoint_id)


def rotate_secrets(session: Session) -> int:
    """Encrypt with the first secret key what an older one encrypted; returns how many secrets."""
    rotated = 0
    for row in webhook_queries.endpoints(session, None):
        for name in ("secret_encrypted", "former_secret_encrypted"):
            token = getattr(row, name)
            if token is not None and not is_of_first_key(token):
                setattr(row, name, encrypt(decrypt(token, place(row.id)), place(row.id)))
                rotated += 1
    session.flush()
    return rotated


def place(endpoint_id: UUID) -> str:
    """What an endpoint's secrets are encrypted for: in another row, they do not decrypt."""
    return f"webhook_endpoints/{endpoint_id}/secret"


def _named(session: Session, endpoint_id: UUID, account_id: int | None, *, lock: bool = False) -> WebhookEndpoint:
    row = webhook_queries.endpoint(session, endpoint_id, lock=lock)
    if row is None or account_id not in (None, row.account_id):
        raise UnknownThing("endpoint", endpoint_id)
    return row


def _new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def _view(row: WebhookEndpoint) -> EndpointView:
    return EndpointView(
        id=row.id,
        account_id=row.account_id,
        url=row.url,
        events=tuple(row.events),
        balance_threshold=row.balance_threshold,
        limit_threshold_percent=row.limit_threshold_percent or 80,
        disabled_reason=row.disabled_reason,
        created_at=row.created_at,
    )
