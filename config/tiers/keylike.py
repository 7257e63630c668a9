"""What looks like an API key, by its name or by its value: keys are the platform's only, and no other tier keeps one.

Pure. Names are compared without case, accents, punctuation, invisible characters, and look-alike letters of other
alphabets; a value is compared with the shapes of the keys that providers give out.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from difflib import get_close_matches
from typing import Any

DEPTH_MAX = 20
"""How deep a value may be nested; what is nested deeper is no setting."""

# Letters of other alphabets, and figures, that look like those of the words below.
_LOOK_ALIKES = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u043a\u0456\u0455\u0442\u043d\u0432\u043c\u0501\u0261"
    "\u0458\u03b1\u03b5\u03bf\u03c1\u03ba\u03b9\u03bd\u03c4\u03c5\u03c7\u0437\u0475\u04bb\u04cf"
    "013457@$|",
    "aeopcyxkistnbmdgjaeopkivtuxzvhloieastasi",
)
_NAMED = re.compile("key|secret|passw|passphrase|credential|token|bearer|authori[sz]ation|^auth(?!or)|auth$|^pwd")
_SHAPED = (
    re.compile(r"(?:\b|_)(?:sk|pk|rk|sim)-[A-Za-z0-9_\-]{6,}"),
    re.compile(r"AIza[A-Za-z0-9_\-]{20,}"),
    re.compile(r"(?i)\bbearer\s+\S+"),
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
)
_LONG_WORD = re.compile(r"[A-Za-z0-9+/_=\-]{28,}")


def is_named_like_a_key(name: str) -> bool:
    """Whether a field of this name would hold a key, a password or the like."""
    plain = unicodedata.normalize("NFKD", name).casefold().translate(_LOOK_ALIKES)
    return _NAMED.search("".join(letter for letter in plain if "a" <= letter <= "z")) is not None


def is_shaped_like_a_key(value: object) -> bool:
    """Whether this is a text with something in it that has the shape of a key."""
    if not isinstance(value, str):
        return False
    plain = "".join(letter for letter in unicodedata.normalize("NFKC", value) if unicodedata.category(letter) != "Cf")
    return any(pattern.search(plain) for pattern in _SHAPED) or any(map(_is_mixed, _LONG_WORD.findall(plain)))


def without_keys(value: Any, known: Collection[str]) -> tuple[Any, int]:
    """The value without whatever in it looks like a key, and how many such things were taken out.

    `known` are names that are no keys, whatever they look like; nor are those that are probably meant to be one of
    them. A group that loses all that it held is taken out with it. Raises RecursionError for a value nested too deeply.
    """
    taken = 0

    def clean(part: Any, depth: int) -> Any:
        nonlocal taken
        if depth > DEPTH_MAX:
            raise RecursionError
        if isinstance(part, dict):
            pairs = {}
            for name, held in part.items():
                if is_shaped_like_a_key(str(name)) or (
                    is_named_like_a_key(str(name)) and not _is_near(str(name), known)
                ):
                    taken += 1
                else:
                    pairs[name] = clean(held, depth + 1)
            return {name: held for name, held in pairs.items() if held is not _TAKEN} or (_TAKEN if part else part)
        if isinstance(part, list):
            kept = [held for each in part if (held := clean(each, depth + 1)) is not _TAKEN]
            return kept or (_TAKEN if part else part)
        if is_shaped_like_a_key(part):
            taken += 1
            return _TAKEN
        return part

    cleaned = clean(value, 0)
    return (None if cleaned is _TAKEN else cleaned), taken


def _is_mixed(word: str) -> bool:
    """Whether a long word has letters of both cases and figures, as no model or size is called."""
    return all(any(is_of(letter) for letter in word) for is_of in (str.islower, str.isupper, str.isdigit))


def _is_near(name: str, known: Collection[str]) -> bool:
    return bool(get_close_matches(name[:100], known, n=1, cutoff=0.85))


class _Taken:
    """Stands where something was taken out."""


_TAKEN = _Taken()
