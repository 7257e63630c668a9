"""What an API key looks like: `cm_live_` or `cm_test_`, 32 random letters and digits, and six that check them.

Pure. Whoever finds such a key in a file can tell what it is, and a key that was typed or copied wrongly is known for
that without a look-up.
"""

from __future__ import annotations

import hashlib
import secrets
import string
import zlib

LIVE, TEST = "live", "test"
KINDS = (LIVE, TEST)
"""A test key is one of an installation where the simulator stands in for the providers."""
LETTERS = string.digits + string.ascii_uppercase + string.ascii_lowercase
RANDOM = 32
"""Random letters of a key: 190 bits, which need no slow hash."""
CHECKED = 6
"""Letters that hold a CRC-32: 62 to the power of six is more than 2 to that of 32."""


def new_key(kind: str) -> str:
    """A fresh key of this kind."""
    body = f"cm_{kind}_" + "".join(secrets.choice(LETTERS) for _ in range(RANDOM))
    return body + _check(body)


def kind_of(key: str) -> str | None:
    """The kind of a key that was typed and copied rightly; None for whatever else."""
    body, check = key[:-CHECKED], key[-CHECKED:]
    kind = next((kind for kind in KINDS if body.startswith(f"cm_{kind}_")), None)
    if kind is None or len(body) != len(f"cm_{kind}_") + RANDOM or not set(body[len(f"cm_{kind}_") :]) <= set(LETTERS):
        return None
    return kind if check == _check(body) else None


def digest(key: str) -> str:
    """The SHA-256 of a key, in hexadecimal: what is stored of it."""
    return hashlib.sha256(key.encode()).hexdigest()


def shown(key: str) -> tuple[str, str]:
    """What may be shown of a key: its beginning, and its last four letters."""
    return key[: key.rindex("_") + 5], key[-4:]


def _check(body: str) -> str:
    number, letters = zlib.crc32(body.encode()), ""
    for _ in range(CHECKED):
        number, place = divmod(number, len(LETTERS))
        letters = LETTERS[place] + letters
    return letters
