"""The forms in which a secret may stand somewhere: clear, and as programs write things down or pass them on."""

from __future__ import annotations

import base64
from urllib.parse import quote


def disguises(secret: str) -> dict[str, str]:
    """Each form of a secret, by its name; of base64, what is the same whatever stands before and behind the secret."""
    raw = secret.encode()
    shifted = {
        f"base64, shifted by {shift}": base64.b64encode(b"\0" * shift + raw).decode()[_begins(shift) : -4]
        for shift in range(3)
    }
    return {
        "clear": secret,
        "reversed": secret[::-1],
        "hex": raw.hex(),
        "upper hex": raw.hex().upper(),
        "URL": quote(secret, safe=""),
        "whole URL": "".join(f"%{byte:02X}" for byte in raw),
        **shifted,
        **{f"{name}, URL-safe": form.replace("+", "-").replace("/", "_") for name, form in shifted.items()},
    }


def found_in(text: str, secret: str) -> list[str]:
    """The names of the forms in which a text shows a secret."""
    return [name for name, form in disguises(secret).items() if form in text]


def _begins(shift: int) -> int:
    """How many characters at the beginning of base64 depend on the bytes before the secret."""
    return -(-shift * 4 // 3)
