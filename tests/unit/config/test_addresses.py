"""An address is taken apart as those who connect read it, or refused by the name of the part, never by its value."""

from __future__ import annotations

import re
import traceback
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kombu import Connection
from kombu.transport.redis import Channel
from sqlalchemy import make_url

from config.addresses import BROKER, DATABASE, PROVIDER, AddressError, read_address
from config.broker import broker_client
from config.database import make_engine
from config.settings import SettingError
from tests.rounds import rounds

SECRET = "hunter2"


def why(url: str, form=BROKER, setting="A_URL") -> str:
    """What is wrong with this address: one sentence, without a word of it, even in the traceback of it."""
    with pytest.raises(AddressError) as caught:
        read_address(setting, url, form)
    told = str(caught.value)
    assert told.startswith(f"{setting} cannot be read: ")
    assert told.endswith(f"; it should look like {form.example}.")
    assert "\n" not in told
    assert len(told) < 300
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    return told


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://",                                ("redis", None, None, None, None, "")),
        ("redis:///",                               ("redis", None, None, None, None, "")),
        ("redis://cache",                           ("redis", None, None, "cache", None, "")),
        ("redis://cache:/2",                        ("redis", None, None, "cache", None, "2")),
        ("redis://:pw@cache:6379/0",                ("redis", None, "pw", "cache", 6379, "0")),
        ("redis://u:pw@cache:6379//",               ("redis", "u", "pw", "cache", 6379, "/")),
        ("redis://:p%2Fw%23%3F%40%3B@cache/1",      ("redis", None, "p/w#?@;", "cache", None, "1")),
        ("redis://:p@w:x@cache/1",                  ("redis", None, "p@w:x", "cache", None, "1")),
        ("redis://:100%sure $%^&*()+=!@cache/1",    ("redis", None, "100%sure $%^&*()+=!", "cache", None, "1")),
        ("redis://10.0.0.7:65535",                  ("redis", None, None, "10.0.0.7", 65_535, "")),
        ("redis://[::1]:6379/0",                    ("redis", None, None, "::1", 6379, "0")),
        ("redis://[fe80::1%eth0]/0",                ("redis", None, None, "fe80::1%eth0", None, "0")),
        ("redis://my_cache-1.example./0",           ("redis", None, None, "my_cache-1.example.", None, "0")),
        ("redis://xn--hst-sna.example/0",           ("redis", None, None, "xn--hst-sna.example", None, "0")),
        ("rediss://:pw@cache/0?ssl_cert_reqs=none", ("rediss", None, "pw", "cache", None, "0")),
        ("redis+socket:///run/redis@1.sock",        ("redis+socket", None, None, None, None, "/run/redis@1.sock")),
        ("redis+socket://:pw@/run/redis.sock",      ("redis+socket", None, "pw", None, None, "/run/redis.sock")),
    ],
)  # fmt: skip
def test_a_brokers_address_is_taken_apart(url, expected):
    found = read_address("BROKER_URL", url, BROKER)

    assert (found.scheme, found.user, found.password, found.host, found.port, found.path) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://",                           (None, None, None, None, "", {})),
        ("postgresql:///mill",                      (None, None, None, None, "mill", {})),
        ("postgresql+psycopg2://u:pw@db:5432/mill", ("u", "pw", "db", 5432, "mill", {})),
        ("postgresql://u:pw@db:/mill",              ("u", "pw", "db", None, "mill", {})),
        ("postgresql://u:p%40w@db/mill",            ("u", "p@w", "db", None, "mill", {})),
        ("postgresql://u:p/w#x?y[@db/mill",         ("u", "p/w#x?y[", "db", None, "mill", {})),
        ("postgresql://u:pässword@db/mill",         ("u", "pässword", "db", None, "mill", {})),
        ("postgresql://u@[::1]:5432/mill",          ("u", None, "::1", 5432, "mill", {})),
        ("postgresql://u@one,two/mill",             ("u", None, "one,two", None, "mill", {})),
        ("postgresql://u@/mill?host=/var/run&port=5433",
                                       ("u", None, None, None, "mill", {"host": ("/var/run",), "port": ("5433",)})),
        ("postgresql://u@/mill?host=%2Fvar%2Frun",  ("u", None, None, None, "mill", {"host": ("/var/run",)})),
        ("postgresql:///mill?host=a:1&host=b:2",    (None, None, None, None, "mill", {"host": ("a:1", "b:2")})),
        ("postgresql://db/mill?sslmode=require",    (None, None, "db", None, "mill", {"sslmode": ("require",)})),
    ],
)  # fmt: skip
def test_a_databases_address_is_taken_apart(url, expected):
    found = read_address("DATABASE_URL", url, DATABASE)

    assert (found.user, found.password, found.host, found.port, found.path, found.options) == expected


@pytest.mark.parametrize(
    "url",
    ["https://api.example/v1", "http://127.0.0.1:8123/v1/", "http://[::1]:80", "https://host/a%20b/@c", "https://host"],
)
def test_a_providers_address_is_taken(url):
    assert read_address("--base-url", url, PROVIDER).host


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("",                                          "it has no scheme"),
        (" ",                                         "it has no scheme"),
        (SECRET,                                      "it has no scheme"),
        (f"{SECRET}@cache:6379",                      "it has no scheme"),
        (f"rabbit://u:{SECRET}@mq/0",                 "its scheme is not redis or rediss or redis+socket"),
        (f"amqp://u:{SECRET}@mq/0",                   "its scheme is not"),
        (f"REDIS://:{SECRET}@cache/0",                "its scheme is not"),
        (f" redis://:{SECRET}@cache/0",               "its scheme is not"),
        (f"sentinel://:{SECRET}@cache:26379",         "its scheme is not"),
        (f"redis://:{SECRET}/x@cache:6379/0",         "its password holds a character that must be percent-encoded (/"),
        (f"redis://:{SECRET}#x@cache:6379/0",         "its password holds a character that must be percent-encoded (/"),
        (f"redis://:{SECRET}?x@cache:6379/0",         "its password holds a character that must be percent-encoded (/"),
        (f"redis://user:1/{SECRET}@cache:6379/0",     "its password holds a character that must be percent-encoded (/"),
        (f"redis+socket://:{SECRET}/x@/run/sock",     "its password holds a character that must be percent-encoded (/"),
        (f"redis://:{SECRET};x@cache:6379/0",         "its password holds a character that must be percent-encoded (;"),
        (f"redis://:[{SECRET}@cache:6379/0",          "its password holds a character that must be percent-encoded (;"),
        (f"redis://:{SECRET}℀@cache:6379/0",          "its password holds a character that must be percent-encoded (;"),
        (f"redis://:{SECRET}\x07@cache/0",            "its password holds a character that is no text"),
        (f"redis://:{SECRET}%00@cache/0",             "its password holds a character that is no text"),
        (f"redis://:{SECRET}\udcff@cache/0",          "its password holds a character that is no text"),
        (f"redis://\t{SECRET}@cache/0",               "its user holds a character that is no text"),
        (f"redis://:{SECRET}@ca\nche/0",              "its host holds a character that is no text"),
        (f"redis://:{SECRET}@cache/0\n",              "its path holds a character that is no text"),
        (f"redis://:{SECRET}@cache:port/0",           "its port is not a number from 1 to 65,535"),
        (f"redis://:{SECRET}@cache:0/0",              "its port is not a number from 1 to 65,535"),
        (f"redis://:{SECRET}@cache:70000/0",          "its port is not a number from 1 to 65,535"),
        (f"redis://:{SECRET}@cache:-1/0",             "its port is not a number from 1 to 65,535"),
        (f"redis://:{SECRET}@cache:{'9' * 5000}/0",   "its port is not a number from 1 to 65,535"),
        (f"redis://:{SECRET}@cache:٣/0",              "its port is not a number from 1 to 65,535"),
        (f"redis://:{SECRET}@[::1/0",                 "its host is not a name in ASCII letters"),
        (f"redis://:{SECRET}@::1/0",                  "its host is not a name in ASCII letters"),
        (f"redis://:{SECRET}@[::g]/0",                "its host is not a name in ASCII letters"),
        (f"redis://:{SECRET}@[::1]x/0",               "its host is not a name in ASCII letters"),
        (f"redis://:{SECRET}@höst.example/0",         "its host is not a name in ASCII letters"),
        (f"redis://:{SECRET}@my host/0",              "its host is not a name in ASCII letters"),
        (f"redis://:{SECRET}@a..b/0",                 "its host is not a name in ASCII letters"),
        (f"redis://:{SECRET}@{'a' * 64}/0",           "its host is not a name in ASCII letters"),
        (f"redis://:{SECRET}@{'a.' * 130}b/0",        "its host is not a name in ASCII letters"),
        (f"redis://:{SECRET}@a,b/0",                  "its host is more than one"),
        (f"redis://cache/{SECRET}",                   "its database is not a number"),
        (f"redis://:{SECRET}@cache/-1",               "its database is not a number"),
        (f"redis://:{SECRET}@cache/0/1",              "its database is not a number"),
        (f"redis://:{SECRET}@cache/0?db={SECRET}",    "it holds options"),
        (f"rediss://cache/0?ssl_nothing={SECRET}",    "one of its options is not ssl_cert_reqs or"),
        (f"rediss://cache/0?ssl_cert_reqs={SECRET}",  "its option ssl_cert_reqs has a value that is none of its own"),
        (f"redis://:{SECRET}@cache/0#x",              "it ends with a #"),
        (f"redis+socket://{SECRET}/redis.sock",       "its path is not that of a socket file"),
        ("redis+socket://",                           "its path is not that of a socket file"),
        (f"redis+socket:///run/s?virtual_host={SECRET}", "its database is not a number"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_brokers_address_is_said_by_the_part(url, said):
    assert f": {said}" in why(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("",                                         "it has no scheme"),
        (f"mysql://u:{SECRET}@db/mill",              "its scheme is not postgresql or postgresql+psycopg2"),
        (f"postgresql+asyncpg://u:{SECRET}@db/mill", "its scheme is not"),
        (f"postgresql://u:{SECRET}@db:word/mill",    "its port is not a number"),
        (f"postgresql://u:{SECRET}@db:0/mill",       "its port is not a number"),
        (f"postgresql://u:{SECRET}@a:1,b:2/mill",    "its host is not a name"),
        (f"postgresql://u:{SECRET}@[::1/mill",       "its host is not a name"),
        (f"postgresql://u:{SECRET}@ db/mill",        "its host is not a name"),
        (f"postgresql://u:{SECRET}@höst/mill",       "its host is not a name"),
        (f"postgresql://u:{SECRET}@%2Fvar%2Frun/d",  "its host is not a name"),
        (f"postgresql://u:x@{SECRET}@db/mill",       "its password holds a character that must be percent-encoded"),
        (f"postgresql://u:x@y/{SECRET}@db/mill",     "its password holds a character that must be percent-encoded"),
        (f"postgresql://u:{SECRET}\n@db/mill",       "its password holds a character that is no text"),
        (f"postgresql://u:{SECRET}@db/mill\n",       "its path holds a character that is no text"),
        (f"postgresql://u:{SECRET}@db/mill ",        "it holds a space behind the host"),
        (f"postgresql://u:{SECRET}@db/mill?no=1",    "PostgreSQL does not know one of its options"),
        (f"postgresql://u@db/mill?{SECRET}=1",       "PostgreSQL does not know one of its options"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_databases_address_is_said_by_the_part(url, said):
    assert f": {said}" in why(url, DATABASE)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("",                              "it has no scheme"),
        ("api.example/v1",                "it has no scheme"),
        ("ftp://api.example/v1",          "its scheme is not https or http"),
        (f"https://u:{SECRET}@host/v1",   "it holds a user or a password"),
        (f"https://{SECRET}@host/v1",     "it holds a user or a password"),
        (f"https://u:{SECRET}/x@host/v1", "its port is not a number"),
        ("https://",                      "it has no host"),
        ("https:///v1",                   "it has no host"),
        ("https://:443/v1",               "it has no host"),
        ("https://host:port/v1",          "its port is not a number"),
        ("https://[::1/v1",               "its host is not a name"),
        ("https://höst/v1",               "its host is not a name"),
        ("https://host/ü",                "its path holds a character that must be percent-encoded"),
        ("https://host/a b",              "it holds a space behind the host"),
        (f"https://host/v1?key={SECRET}", "it holds options, or ends with a #"),
        ("https://host/v1#x",             "it holds options, or ends with a #"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_providers_address_is_said_by_the_part(url, said):
    assert f": {said}" in why(url, PROVIDER)


def test_a_password_shows_in_no_form_of_the_parts():
    found = read_address("BROKER_URL", f"rediss://:{SECRET}@cache/0?ssl_password={SECRET}", BROKER)

    assert SECRET not in f"{found} {found!r}"


@pytest.mark.parametrize(
    ("options", "fits"),
    [
        ("host=a:1&host=b:2",           True),
        ("host=a:1&host=b",             True),
        ("host=a&host=/run/postgresql", True),
        ("host=a,b&port=1,2",           True),
        ("host=a&port=5433",            True),
        ("host=a:5433",                 True),
        ("host=a:",                     True),
        ("host=::1",                    True),
        ("port=5433",                   True),
        ("port=",                       True),
        ("host=a:1&host=b:2&port=1",    False),
        ("host=a:5432&port=5432",       False),
        ("host=a:1:2&host=b",           False),
        ("host=a:word&host=b:2",        False),
        ("host=a,b&port=1",             False),
        ("host=a,b&port=1,2,3",         False),
        ("host=a&port=1,2",             False),
        ("port=1,2",                    False),
        ("port=1&port=2",               False),
        ("port=hunter2",                False),
        ("port=70000",                  False),
        ("port=-1",                     False),
        ("port=٣",                      False),
    ],
)  # fmt: skip
def test_hosts_and_ports_in_the_options_fit_or_are_refused(options, fits):
    url = f"postgresql://u:{SECRET}@/mill?{options}"
    if fits:
        assert make_engine(url)
    else:
        assert ": the hosts and ports in its options do not fit" in why(url, DATABASE)


# --- Whatever the password is ---

ANY = st.text(st.characters(codec=None), max_size=12)
PLACES = [
    (BROKER, "redis://:{}@cache:6379/0"),
    (BROKER, "rediss://user:{}@cache/0?ssl_cert_reqs=none"),
    (BROKER, "redis+socket://:{}@/run/redis.sock"),
    (DATABASE, "postgresql://user:{}@db:5432/mill"),
    (DATABASE, "postgresql://user:{}@/mill?host=/var/run"),
]


@settings(deadline=None, max_examples=rounds(300))
@given(around=st.tuples(ANY, ANY), place=st.sampled_from(PLACES))
@example(around=("/", ""), place=PLACES[0])
@example(around=("", "℀"), place=PLACES[0])
def test_a_password_of_any_characters_is_read_or_refused_and_never_told(around, place):
    form, shape = place
    url = shape.format(f"{around[0]}{SECRET}{around[1]}")
    try:
        found = read_address("A_URL", url, form)
    except AddressError:
        why(url, form)
    else:
        assert SECRET in (found.password or "")


@settings(deadline=None, max_examples=rounds(200))
@given(password=st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp", "Zs", "Cf", "Cn", "Co"))))
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place[1])
def test_a_password_that_is_percent_encoded_is_read_whole(place, password):
    form, shape = place

    assert read_address("A_URL", shape.format(quote(password, safe="")), form).password == (password or None)


# --- Whoever connects reads it alike ---

NOISE = st.text(st.sampled_from("ab1:/?#@[];%2F., +=&_-é℀\\\n\t"), max_size=6)
PEOPLE = st.one_of(
    st.sampled_from(["", "u@", ":p@", "u:p@", ":@"]),
    st.builds("{}:{}@".format, NOISE, NOISE),
    st.builds("{}@".format, NOISE),
)
HOSTS = st.one_of(st.sampled_from(["", "cache", "db.example", "10.0.0.7", "[::1]", "[fe80::1%eth0]", "one,two"]), NOISE)
PORTS = st.one_of(st.sampled_from(["", ":", ":6379", ":1"]), NOISE)
TAILS = st.one_of(st.sampled_from(["", "/", "//", "/0", "/7", "/mill", "/run/redis.sock", "/m%2Fn", "?", "/0?"]), NOISE)


@settings(deadline=None, max_examples=rounds(500))
@given(st.sampled_from(["redis", "redis+socket"]), PEOPLE, HOSTS, PORTS, TAILS)
def test_celery_and_redis_read_a_brokers_address_as_we_do(scheme, people, host, port, tail):
    # Names of hosts are the same in small letters; Celery makes them so.
    url = f"{scheme}://{people}{host.lower()}{port.lower()}{tail.lower()}"
    try:
        found = read_address("A_URL", url, BROKER)
    except AddressError:
        return

    theirs = of_celery(url)
    with broker_client(url) as client:
        ours = client.connection_pool.connection_kwargs

    names = ("host", "port", "path", "username", "password", "db")
    assert {name: ours.get(name) for name in names} == {name: theirs.get(name) for name in names}
    assert (found.user, found.password) == (ours["username"], ours["password"])


def of_celery(url: str) -> dict[str, object]:
    """What Celery would connect with: its channel's own reading, without the connection that making a channel makes."""
    channel = object.__new__(Channel)
    channel.connection = SimpleNamespace(client=Connection(url), default_port=6379)
    return channel._connparams()


@settings(deadline=None, max_examples=rounds(500))
@given(
    st.lists(
        st.builds("{}={}".format, st.sampled_from(["host", "port"]), st.text("ab1:,/[]+_ ٣", max_size=6)), max_size=4
    )
)
def test_whatever_hosts_and_ports_we_read_in_options_sqlalchemy_takes(options):
    url = f"postgresql:///mill?{'&'.join(options)}"
    try:
        read_address("DATABASE_URL", url, DATABASE)
    except AddressError:
        return

    assert make_engine(url)


@settings(deadline=None, max_examples=rounds(500))
@given(PEOPLE, HOSTS, PORTS, TAILS)
def test_sqlalchemy_reads_a_databases_address_as_we_do(people, host, port, tail):
    url = f"postgresql://{people}{host}{port}{tail}"
    try:
        ours = make_engine(url).url
    except SettingError:
        return
    if re.search(r":([/?]|$)", url.partition("//")[2].rpartition("@")[2]):
        # SQLAlchemy knows no port that is left out behind its colon.
        return

    theirs = make_url(url)
    assert (ours.username or "", ours.password or "") == (theirs.username or "", theirs.password or "")
    assert (ours.host, ours.port) == (theirs.host, theirs.port or None)
    assert (ours.database or "", ours.query) == (theirs.database or "", theirs.query)
