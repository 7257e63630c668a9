"""Repeatable chance and the exact count of tokens: what every made-up answer is drawn from."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

import toktok

ENCODING = "o200k_base"


class Draw:
    """Values that depend only on the seed, the request's identity and how often that identity was seen before."""

    def __init__(self, seed: int, identity: str, seen: int):
        self._origin = f"{seed}|{seen}|{identity}"

    def bytes(self, name: str, count: int) -> bytes:
        """Give `count` bytes for the purpose `name`."""
        return hashlib.shake_256(f"{name}|{self._origin}".encode("utf-8", "surrogatepass")).digest(count)

    def hex(self, name: str, length: int = 32) -> str:
        """Give `length` (even) hexadecimal digits."""
        return self.bytes(name, length // 2).hex()

    def fraction(self, name: str) -> float:
        """Give a number that is at least 0 and below 1."""
        return (int.from_bytes(self.bytes(name, 8), "big") >> 11) / 2**53

    def whole(self, name: str, low: int, high: int) -> int:
        """Give a whole number from `low` to `high`, both included."""
        return low + int(self.fraction(name) * (high - low + 1))

    def numbers(self, name: str, count: int) -> Sequence[int]:
        """Give `count` whole numbers below 65,536."""
        return struct.unpack(f">{count}H", self.bytes(name, 2 * count))


def count_tokens(text: str) -> int:
    """Count the o200k_base tokens of `text` exactly."""
    return int(toktok.batch_count([text], ENCODING, threads=1)[0])
