"""How often a property or a race is tried: as often as it says, or a quarter of that with `pytest --quick`."""

from __future__ import annotations

_share = 1


def use(*, quick: bool) -> None:
    """Say how this run is to be, before any test is collected."""
    global _share
    _share = 4 if quick else 1


def rounds(number: int) -> int:
    """This number, or a quarter of it."""
    return -(-number // _share)
