"""Hearing of jobs that ended: through troubles of Redis, and to a quick end whatever they are."""

from __future__ import annotations

import asyncio

import pytest

from workers.web import waiting
from workers.web.waiting import Endings


def test_listening_ends_although_a_cancellation_is_taken_for_a_lost_connection(monkeypatch):
    heard = []

    async def hear(self, url):
        heard.append(url)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if len(heard) == 1:
                raise ConnectionResetError from None
            raise

    monkeypatch.setattr(Endings, "_hear", hear)
    monkeypatch.setattr(waiting, "RECONNECT_S", 0)

    async def listen():
        async with asyncio.timeout(10), Endings().listening("redis://"):
            while not heard:
                await asyncio.sleep(0)

    asyncio.run(listen())

    assert heard


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "redis://nowhere.invalid:6379/0"])
def test_a_redis_that_is_away_is_looked_for_again(monkeypatch, caplog, url):
    monkeypatch.setattr(waiting, "RECONNECT_S", 0.01)

    async def listen():
        async with asyncio.timeout(20), Endings().listening(url):
            while caplog.text.count("endings_not_heard") < 2:
                await asyncio.sleep(0.01)

    asyncio.run(listen())
