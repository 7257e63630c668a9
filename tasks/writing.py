"""`record`: one write in a transaction, repeated while the database is away.

What is written says the same when it comes twice. Claims and the outcomes of provider calls are written so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.orm import Session
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from config.database import DATABASE_TROUBLE, transaction

Recorded = TypeVar("Recorded")

RECORD_FOR_S = 120
"""How long a worker tries to write down what a provider did, in seconds."""


def record(write: Callable[[Session], Recorded], *, for_s: float = RECORD_FOR_S, wait_max_s: float = 5.0) -> Recorded:
    """Run `write` in a transaction, again and again for `for_s` seconds while the database is away.

    A commit that was not confirmed may have been made, so `write` must be harmless when it is repeated. Raises
    DATABASE_TROUBLE when the time is over.
    """
    for attempt in Retrying(
        retry=retry_if_exception_type(DATABASE_TROUBLE),
        wait=wait_exponential(multiplier=0.1, max=wait_max_s),
        stop=stop_after_delay(for_s),
        reraise=True,
    ):
        with attempt, transaction() as session:
            return write(session)
    raise AssertionError("tenacity either returns or raises")
