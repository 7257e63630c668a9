"""The simulator's journal: the ground truth of what was received, executed, answered and dropped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

Event = Literal["received", "executed", "answered", "dropped"]


@dataclass(frozen=True)
class Entry:
    """One line of the journal; an `executed` line means that the provider did billable work.

    `at` is ISO 8601 in UTC, `usage` is what the provider would bill in its own shape, `images` a number of images,
    `fault` the fault chosen for the request. Prompts and API keys are never written.
    """

    seq: int
    at: str
    event: Event
    idempotency_key: str | None
    request_id: str
    endpoint: str
    model: str | None = None
    prompt_sha256: str | None = None
    fault: str | None = None
    status: int | None = None
    usage: Mapping[str, Any] | None = None
    images: int | None = None


def read_journal(path: Path | str) -> list[Entry]:
    """Read a journal in order; a missing file is an empty journal, and a torn last line is left out.

    Raises ValueError if any other line is broken.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    # What follows the last line break is either nothing or a line that was never finished.
    return [Entry(**json.loads(line)) for line in lines[:-1]]


class Journal:
    """Appends entries to a JSON-lines file, each flushed before `write` returns; one process writes to it."""

    def __init__(self, path: Path):
        self.path = path
        self.earlier = read_journal(path)
        self._seq = max((entry.seq for entry in self.earlier), default=0)
        self._file = path.open("ab")
        whole = path.read_bytes().rfind(b"\n") + 1
        self._file.truncate(whole)

    def write(self, event: Event, **facts: Any) -> None:
        """Append one entry with the next sequence number and the current time."""
        self._seq += 1
        entry = Entry(seq=self._seq, at=datetime.now(UTC).isoformat(), event=event, **facts)
        self._file.write(json.dumps(asdict(entry)).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
