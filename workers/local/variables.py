"""Which variables of our environment a program gets that we start: those that its kind of work needs, and no others.

Whoever may look at a process may read its environment, and so may whatever it starts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from fnmatch import fnmatchcase

PLAIN = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "LC_*", "TZ", "TMPDIR", "VIRTUAL_ENV"),
    *("PYTHON*", "LD_*", "DYLD_*", "FAKETIME*"),
)
"""What every program needs, to be found, to start, and to speak the operator's language."""
LOGS = ("CREDITMILL_FOLDER", "CREDITMILL_LOG_*")
SERVERS = ("DATABASE_URL", "BROKER_URL", "PG*", "CREDITMILL_*")
"""What whoever works on jobs needs: libpq has variables of its own, such as where a certificate is."""
OUTWARD = (
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_LOG"),
)
"""What whoever calls providers needs. Their keys are in the database."""
FLOWERS = ("CREDITMILL_FLOWER_*", "FLOWER_*")
NEEDS: Mapping[str, tuple[str, ...]] = {
    "billing": SERVERS,
    "generation": (*SERVERS, *OUTWARD),
    "beat": SERVERS,
    "api": SERVERS,
    # It shows what is in the broker, to browsers: the database and its keys are out of its reach.
    "flower": ("BROKER_URL", *LOGS, *FLOWERS),
}
"""By the last word of the command."""


def of_program(word: str) -> dict[str, str]:
    """The variables of our environment for the program whose command ends with this word, those of PLAIN apart."""
    given = chosen(*NEEDS[word])
    return given if word == "flower" else {name: value for name, value in given.items() if not _fits(name, FLOWERS)}


def chosen(*patterns: str) -> dict[str, str]:
    """The variables of our environment that have one of these names; `*` stands for any end of a name."""
    return {name: value for name, value in os.environ.items() if _fits(name, patterns)}


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
