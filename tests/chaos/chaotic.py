"""Our own command line in bad weather: a share of the messages that it publishes is dropped, doubled or reordered.

`python chaotic.py WEATHER_FILE worker billing` is `creditmill worker billing` with such messages. The file says how bad
the weather is just now, so that it can change while the program runs.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kombu.transport.redis import Channel
from kombu.utils.json import dumps

QUEUES = frozenset({"requests", "billing", "text", "image", "embedding", "periodic"})


@dataclass(frozen=True)
class Weather:
    """The shares, from 0 to 1, of messages that are dropped, that come twice, and that overtake all others."""

    dropped: float = 0.0
    doubled: float = 0.0
    overtaking: float = 0.0


CLEAR = Weather()
STORMY = Weather(dropped=0.3, doubled=0.5, overtaking=0.5)


def forecast(path: Path, weather: Weather) -> None:
    """Change the weather of every program that looks at this file."""
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(asdict(weather)))
    draft.replace(path)


class Sky:
    """The weather as it is now; the file is read again only when it has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = -1
        self._weather = CLEAR

    def weather(self) -> Weather:
        """The shares of this moment."""
        changed = os.stat(self._path).st_mtime_ns
        if changed != self._seen:
            self._weather = Weather(**json.loads(self._path.read_text()))
            self._seen = changed
        return self._weather


def let_it_storm(path: Path, seed: str) -> Callable[[], None]:
    """Let this process publish in the weather of the file; returns what ends that."""
    sky, chance, put = Sky(path), random.Random(seed), Channel._put

    def put_in_weather(channel: Any, queue: str, message: Any, **options: Any) -> None:
        weather = sky.weather()
        if weather == CLEAR or queue not in QUEUES:
            put(channel, queue, message, **options)
            return
        if chance.random() < weather.dropped:
            return
        # Both copies carry one delivery tag, as after a publish that was repeated because its answer was lost.
        for _ in range(2 if chance.random() < weather.doubled else 1):
            if chance.random() < weather.overtaking:
                _put_first(channel, queue, message)
            else:
                put(channel, queue, message, **options)

    def end() -> None:
        Channel._put = put

    Channel._put = put_in_weather
    return end


def _put_first(channel: Any, queue: str, message: Any) -> None:
    with channel.conn_or_acquire() as client:
        # Consumers take from this end.
        client.rpush(channel._q_for_pri(queue, channel._get_message_priority(message, reverse=False)), dumps(message))


if __name__ == "__main__":
    from workers.cli import main

    let_it_storm(Path(sys.argv.pop(1)), f"{os.environ.get('CHAOS_SEED', '1')} {os.getpid()}")
    main()
