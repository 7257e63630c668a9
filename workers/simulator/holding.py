"""Holding answers back, so that calls are known to be under way at one time, and letting them go together."""

from __future__ import annotations

import asyncio


class Hold:
    """Whether answers are held, and how many wait."""

    def __init__(self) -> None:
        self.waiting = 0
        self._open = asyncio.Event()
        self._open.set()

    @property
    def is_on(self) -> bool:
        """Whether answers are held."""
        return not self._open.is_set()

    def begin(self) -> None:
        """Hold every answer from now on."""
        self._open.clear()

    def release(self) -> None:
        """Let every waiting answer go at once, and later ones pass."""
        self._open.set()

    async def released(self) -> None:
        """Wait as long as answers are held; a hold that begins after the release does not catch who waited for it."""
        self.waiting += 1
        try:
            await self._open.wait()
        finally:
            self.waiting -= 1
