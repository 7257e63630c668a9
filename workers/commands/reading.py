"""How commands read: JSON as UTF-8, from a file or stdin, also with the byte-order mark that some programs write."""

from __future__ import annotations

from typing import Any, TextIO

import click

from billing.errors import InvalidRequest

LINES_MAX = 100_000
BYTE_ORDER_MARK = "\ufeff"
UTF_16 = ("\udcff\udcfe", "\udcfe\udcff")
"""The marks of UTF-16, read as UTF-8 with each byte that does not fit kept as a lone surrogate."""

text_file = click.File("r", encoding="utf-8", errors="surrogateescape")
source = click.argument("source", type=text_file, default="-")


def json_lines(source: TextIO) -> list[tuple[int, Any]]:
    """Each line of JSON with its number, empty lines left out; raises InvalidRequest for the first that is none."""
    from billing.jobs import requests

    found = []
    for number, line in enumerate(source, start=1):
        if number > LINES_MAX:
            raise InvalidRequest(f"One run takes {LINES_MAX:,} lines at most.", code="too_many_lines")
        if number == 1:
            check_encoding(line)
        # Files that were joined have a mark where each of them began.
        text = line.removeprefix(BYTE_ORDER_MARK)
        if not text.strip():
            continue
        if len(text) > requests.BODY_MAX_BYTES * 2:
            raise InvalidRequest(f"line {number}: A request may have 1,000,000 bytes at most.", code="body_too_large")
        try:
            found.append((number, requests.from_json(text)))
        except (ValueError, RecursionError):
            raise InvalidRequest(f"line {number}: This is not valid JSON.", code="invalid_json") from None
    return found


def json_object(text: str, name: str) -> dict[str, Any]:
    """The JSON object of an argument or a file, which is called `name`; raises InvalidRequest when it is none."""
    from billing.jobs import requests

    check_encoding(text)
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise InvalidRequest(f"{name} is not UTF-8.", code="invalid_encoding")
    try:
        found = requests.from_json(text.removeprefix(BYTE_ORDER_MARK))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidRequest(f"{name} must be a JSON object.", code="invalid_json")
    return found


def check_encoding(beginning: str) -> None:
    """Raise InvalidRequest when a text that begins like this is UTF-16; JSON begins with two letters of ASCII."""
    if beginning.startswith(UTF_16) or "\x00" in beginning[:2]:
        raise InvalidRequest("This is UTF-16, not UTF-8: save it as UTF-8.", code="invalid_encoding")
