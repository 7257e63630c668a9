"""Sending a webhook: signed, to an address that was looked up and is no private one, without redirects."""

from __future__ import annotations

import ipaddress
import socket
from datetime import UTC, datetime
from functools import lru_cache
from urllib.parse import urlsplit

import httpx2
from standardwebhooks import Webhook

from billing.webhooks.deliveries import Answer, Outgoing

WITHIN_S = 10.0
"""How long an endpoint may take for its whole answer, in seconds."""
CONNECT_WITHIN_S = 5.0
HTTPS, HTTP = 443, 80


class NotSent(Exception):
    """Why nothing was sent, in a word or two."""


def send(outgoing: Outgoing, *, to_private: bool) -> Answer:
    """Send a message once; whatever goes wrong is an answer. `to_private` allows private addresses, and http."""
    try:
        place, host = _place(outgoing.due.url, to_private=to_private)
        headers = {"Host": host, "Content-Type": "application/json", **signed(outgoing, now=datetime.now(UTC))}
        name = urlsplit(outgoing.due.url).hostname or ""
        # What it has to say beside the status may be without end, and is not read.
        with _client().stream(
            "POST",
            place,
            content=outgoing.body.encode(),
            headers=headers,
            extensions={"sni_hostname": name},
        ) as response:
            return Answer(status=response.status_code)
    except NotSent as error:
        return Answer(error=str(error))
    except httpx2.HTTPError as error:
        return Answer(error=type(error).__name__)


def signed(outgoing: Outgoing, *, now: datetime) -> dict[str, str]:
    """The headers of Standard Webhooks: a signature for each secret that is alive."""
    signatures = [Webhook(secret).sign(outgoing.message_id, now, outgoing.body) for secret in outgoing.secrets]
    return {
        "webhook-id": outgoing.message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def _place(url: str, *, to_private: bool) -> tuple[str, str]:
    """The address with the number of its host in it, and the host's name; raises NotSent.

    The name is looked up once: what was checked is what is connected to.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (HTTPS if parts.scheme == "https" else HTTP)
    if parts.scheme != "https" and not to_private:
        raise NotSent("http is not allowed")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise NotSent("the host is not known") from None
    addresses = [ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in found]
    if not to_private and not all(is_public(address) for address in addresses):
        raise NotSent("the address is private")
    shown = f"[{addresses[0]}]" if addresses[0].version == 6 else str(addresses[0])
    path = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
    return f"{parts.scheme}://{shown}:{port}{path}", parts.netloc


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether this is an address of the internet: none of a private network, this machine, or a cloud's own."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
        if inner:
            return is_public(inner)
        if address in ipaddress.ip_network("64:ff9b::/96"):
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return address.is_global and not address.is_multicast


@lru_cache(maxsize=1)
def _client() -> httpx2.Client:
    timeout = httpx2.Timeout(WITHIN_S, connect=CONNECT_WITHIN_S)
    # No environment decides where it goes, and nobody is followed elsewhere.
    return httpx2.Client(timeout=timeout, follow_redirects=False, trust_env=False)
