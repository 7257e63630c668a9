"""The pending hint: one that was sent, and whose take has not begun. Another one would tell nothing that is new.

A mark in the broker says that there is one. Whoever sends a hint sets it after the commit of what the hint tells of;
whoever takes removes it before the take begins. So a hint that is not sent, because the mark was there, is answered by
a take that begins later, and sees what was committed.

Another mark says that a take had to leave accounts out, as they were in another take: whoever has reserved that one's
jobs sends a hint for those who wait.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import redis

from config.broker import broker_client
from config.logging import get_logger
from tasks.runtime import runtime

MARK = "creditmill.hint"
LASTS_MS = 2_000
"""A hint may be lost with its worker, in milliseconds: after that the next one is sent whatever the mark said."""

LEFT_OUT_MARK = "creditmill.left_out"
LEFT_OUT_LASTS_MS = 60_000
ANSWERS_WITHIN_S = 1.0

log = get_logger(__name__)


def set_mark() -> bool:
    """Note that a hint is about to be sent; False when another one is pending already."""
    return bool(asked(lambda client: client.set(MARK, "", nx=True, px=LASTS_MS), otherwise=True))


def remove_mark() -> None:
    """Note that a take is about to begin."""
    asked(lambda client: client.delete(MARK), otherwise=None)


def set_left_out() -> None:
    """Note that accounts wait that are in another take."""
    asked(lambda client: client.set(LEFT_OUT_MARK, "", px=LEFT_OUT_LASTS_MS), otherwise=None)


def remove_left_out() -> bool:
    """Whether a take had to leave accounts out since this was asked last; without an answer, nobody knows of one."""
    return bool(asked(lambda client: client.delete(LEFT_OUT_MARK), otherwise=False))


def asked(question: Callable[[redis.Redis], Any], *, otherwise: Any) -> Any:
    """Ask Redis; one that is in trouble says nothing of a hint, whatever its client raises then."""
    try:
        return question(_client(runtime().settings.broker_url.get_secret_value()))
    except Exception as error:  # noqa: BLE001 - what the hint tells of is committed, and stands
        if not isinstance(error, redis.RedisError):
            log.warning("mark_failed", error=type(error).__name__)
        return otherwise


@lru_cache(maxsize=1)
def _client(url: str) -> redis.Redis:
    return broker_client(url, timeout_s=ANSWERS_WITHIN_S)
