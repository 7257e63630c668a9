"""How many words a text has, in any script: what stands between ICU's word boundaries and holds a letter or a digit."""

from __future__ import annotations


def count_words(text: str) -> int:
    """The words of a text by Unicode's UAX #29; scripts without spaces are divided by ICU's dictionaries."""
    from icu4py.breakers import WordBreaker

    # Half of a surrogate pair is no letter, and ICU takes whole characters only.
    whole = text.encode(errors="replace").decode()
    return sum(any(letter.isalnum() for letter in segment) for segment in WordBreaker(whole, "und"))
