"""The addresses that settings hold, as URLs: one function checks them and takes them apart.

An address may hold a password, and one that cannot be read may hold it anywhere. So whatever is wrong with an address
is said by the setting's name and the part's, and never by what stands there.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

LARGEST_PORT = 65_535
LONGEST_HOST = 253
SOCKET = "redis+socket"
"""The scheme of a broker behind a socket file; its path is the file's."""

_STRICT = re.compile(
    r"(?P<scheme>[^:/?#@]*)://"
    r"(?:(?P<user>[^:/?#]*)(?::(?P<password>[^/?#]*))?@)?(?P<place>[^/?#@]*)"
    r"(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?P<fragment>\#.*)?",
    re.DOTALL,
)
# As SQLAlchemy reads them: a password may hold a slash or a hash, and ends with the first @.
_TOLERANT = re.compile(
    r"(?P<scheme>[^:/?#@]*)://"
    r"(?:(?P<user>[^:/?]*)(?::(?P<password>[^@]*))?@)?(?P<place>[^/?]*)"
    r"(?P<path>[^?]*)(?:\?(?P<query>.*))?(?P<fragment>(?!))?",
    re.DOTALL,
)
_HOST = re.compile(r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(?:\.(?!$)|\.?$))+")
_VERSION_6 = re.compile(r"\[([0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]+)?)\]")
_WITH_PORT = re.compile(r"[A-Za-z0-9.-]*:\d*", re.ASCII)
_ESCAPE = "must be percent-encoded (/ as %2F, ? as %3F, # as %23, @ as %40)"


class AddressError(ValueError):
    """An address cannot be read; the message is one sentence that names the setting and the part, and no value."""

    code = "configuration_error"

    def __init__(self, setting: str, problem: str, example: str) -> None:
        super().__init__(f"{setting} cannot be read: {problem}; it should look like {example}.")


@dataclass(frozen=True)
class Address:
    """An address in its parts, each as it is meant: nothing is percent-encoded any more.

    `path` has no slash before it, except a socket file's; an option that is given twice has two values.
    """

    scheme: str
    user: str | None
    password: str | None = field(repr=False)
    host: str | None
    port: int | None
    path: str
    options: Mapping[str, tuple[str, ...]] = field(repr=False)


class _Raw(NamedTuple):
    """The parts as they stand in the setting."""

    scheme: str
    user: str | None
    password: str | None
    place: str
    path: str
    query: str | None
    fragment: str | None


@dataclass(frozen=True)
class Form:
    """What the address of one kind of server looks like; `problems` says what this kind forbids beyond all others."""

    example: str
    schemes: tuple[str, ...]
    problems: Callable[[_Raw], Iterator[str]]
    shape: re.Pattern[str] = _STRICT


def read_address(setting: str, url: str, form: Form) -> Address:
    """Check this setting's URL and take it apart; raises AddressError, which names the first part that is wrong."""
    found = form.shape.fullmatch(url)
    raw = _Raw(**found.groupdict()) if found else None
    problem = "it has no scheme" if raw is None else next(_problems(raw, form), None)
    if raw is None or problem is not None:
        raise AddressError(setting, problem or "", form.example)
    host, port = _place(raw.place)
    path = unquote(raw.path) if raw.scheme == SOCKET else unquote(raw.path).removeprefix("/")
    return Address(
        scheme=raw.scheme,
        user=unquote(raw.user) if raw.user else None,
        password=unquote(raw.password) if raw.password else None,
        host=host.strip("[]") or None,
        port=int(port) if port else None,
        path=path,
        options=_options(raw.query),
    )


def _options(query: str | None) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name, value in parse_qsl(query or ""):
        found[name] = (*found.get(name, ()), value)
    return found


def _problems(raw: _Raw, form: Form) -> Iterator[str]:
    """Everything that is wrong with these parts, what explains most first."""
    if raw.scheme not in form.schemes:
        yield f"its scheme is not {' or '.join(form.schemes)}"
    for part, text in zip(("user", "password", "host", "path", "options"), raw[1:6], strict=True):
        if not (text or "").isprintable() or "\0" in unquote(text or ""):
            yield f"its {part} holds a character that is no text, such as the end of a line"
    yield from form.problems(raw)
    host, port = _place(raw.place)
    if not _is_port(port):
        yield f"its port is not a number from 1 to {LARGEST_PORT:,}"
    if not (_is_host(host) or ("," in host and all(map(_is_name, host.split(","))))):
        yield "its host is not a name in ASCII letters, nor an IP address (version 6 in brackets)"
    if " " in raw.path + (raw.query or ""):
        yield "it holds a space behind the host, which must be percent-encoded (%20)"


def _of_database(raw: _Raw) -> Iterator[str]:
    if "@" in raw.place + raw.path:
        yield f"its password holds a character that {_ESCAPE}"
    if not all(_is_option_of_postgres(name) for name, _ in parse_qsl(raw.query or "", keep_blank_values=True)):
        yield "PostgreSQL does not know one of its options"
    if not _places_fit(_options(raw.query)):
        yield "the hosts and ports in its options do not fit"


def _of_broker(raw: _Raw) -> Iterator[str]:
    has_place = bool(raw.user or raw.password or raw.place)
    if has_place and "@" in f"{raw.path}{raw.query}{raw.fragment}":
        yield f"its password holds a character that {_ESCAPE}"
    # Celery takes what follows a semicolon for another broker's address.
    if ";" in f"{raw.path}{raw.query}":
        yield "its path holds a semicolon, which must be percent-encoded (%3B)"
    # It and Redis's client may take other letters for brackets, slashes and the like.
    if any(letter in ";[]" or not letter.isascii() for letter in f"{raw.user}{raw.password}"):
        yield "its password holds a character that must be percent-encoded (; as %3B, [ as %5B, ä as %C3%A4)"
    if raw.scheme == SOCKET:
        if raw.place or len(raw.path) < 2:
            yield f"its path is not that of a socket file, behind {SOCKET}://"
        number = dict(parse_qsl(raw.query or "")).get("virtual_host", "")
    else:
        # Celery's own examples end with two slashes for no number.
        number = unquote(raw.path).removeprefix("/").removeprefix("/")
    if number and not (number.isascii() and number.isdigit() and len(number) < 6):
        yield "its database is not a number"
    if "," in raw.place:
        yield "its host is more than one"
    yield from _of_broker_options(raw)


def _of_broker_options(raw: _Raw) -> Iterator[str]:
    known = {"rediss": _TLS, SOCKET: {"virtual_host": re.compile(r"\d+")}}.get(raw.scheme, {})
    for name, value in parse_qsl(raw.query or "", keep_blank_values=True):
        if name not in known:
            yield f"one of its options is not {' or '.join(known)}" if known else "it holds options"
        elif not known[name].fullmatch(value):
            yield f"its option {name} has a value that is none of its own"
    if raw.fragment:
        yield "it ends with a #"


def _of_provider(raw: _Raw) -> Iterator[str]:
    if raw.user is not None:
        yield "it holds a user or a password, which everybody would see: the key is given apart"
    if not raw.place or raw.place.startswith(":"):
        yield "it has no host"
    if "," in raw.place:
        yield "its host is more than one"
    if not raw.path.isascii():
        yield "its path holds a character that must be percent-encoded"
    if raw.query is not None or raw.fragment is not None:
        yield "it holds options, or ends with a #"


def _of_proxy(raw: _Raw) -> Iterator[str]:
    if "@" in f"{raw.path}{raw.query}{raw.fragment}":
        yield f"its password holds a character that {_ESCAPE}"
    if not raw.place or raw.place.startswith(":"):
        yield "it has no host"


def _place(text: str) -> tuple[str, str]:
    """Host and port of the part between them, as they stand; a host of IP version 6 keeps its brackets."""
    host, bracket, port = text.partition("]") if text.startswith("[") else ("", "", text)
    before, _, after = port.rpartition(":") if ":" in port else (port, "", "")
    return host + bracket + before, after


def _is_host(text: str) -> bool:
    version_6 = _VERSION_6.fullmatch(text)
    if version_6 is None:
        return not text or _is_name(text)
    try:
        return bool(ipaddress.IPv6Address(version_6[1]))
    except ValueError:
        return False


def _is_name(text: str) -> bool:
    return len(text) <= LONGEST_HOST and _HOST.fullmatch(text) is not None


def _places_fit(options: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether hosts and ports in the options are in one of SQLAlchemy's two forms.

    `host=a:1&host=b:2`, or `host=a,b&port=1,2` with a port for each host, or with one of each.
    """
    hosts, ports = options.get("host", ()), options.get("port", ())
    if len(hosts) > 1 or (hosts and _WITH_PORT.fullmatch(hosts[0])):
        return not ports and all(host.count(":") < 2 and _is_port(host.partition(":")[2]) for host in hosts)
    names = hosts[0].split(",") if hosts else [""]
    numbers = [number for port in ports for number in (port.split(",") if len(ports) == 1 else [port])]
    return all(map(_is_port, numbers)) and (not numbers or len(numbers) == len(names))


def _is_port(text: str) -> bool:
    """Whether this is a port, or nothing in the place of one."""
    return not text or (text.isascii() and text.isdigit() and 0 < int(text[:6]) <= LARGEST_PORT)


def _is_option_of_postgres(name: str) -> bool:
    # Imported here: only this asks it, and it knows the options of its own version.
    from psycopg2 import ProgrammingError  # type: ignore[import-untyped]
    from psycopg2.extensions import parse_dsn  # type: ignore[import-untyped]

    try:
        return re.fullmatch(r"[a-z_]+", name) is not None and isinstance(parse_dsn(f"{name}=''"), dict)
    except ProgrammingError:
        return False


_FILE = re.compile(r".+")
_TLS: dict[str, re.Pattern[str]] = {
    "ssl_cert_reqs": re.compile(r"none|optional|required|CERT_NONE|CERT_OPTIONAL|CERT_REQUIRED"),
    "ssl_check_hostname": re.compile(r"true|false", re.IGNORECASE),
    "ssl_ca_certs": _FILE,
    "ssl_ca_path": _FILE,
    "ssl_certfile": _FILE,
    "ssl_keyfile": _FILE,
    "ssl_password": _FILE,
}

DATABASE = Form("postgresql://host/database", ("postgresql", "postgresql+psycopg2"), _of_database, shape=_TOLERANT)
BROKER = Form("redis://host:6379/0", ("redis", "rediss", SOCKET), _of_broker)
PROVIDER = Form("https://host/v1", ("https", "http"), _of_provider)
PROXY = Form("http://host:3128", ("http", "https", "socks5", "socks5h"), _of_proxy)
