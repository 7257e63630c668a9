"""Logging: our modules write records of the standard `logging`; our processes write those, and others', as lines.

A program that imports our modules decides for itself what becomes of their records. In our own processes, the last step
before a line is written removes what must never be in a log, whoever logged it: provider keys, passwords in URLs, and
the row contents that PostgreSQL quotes in the DETAIL of an error. What libraries say at DEBUG is never written, because
some of them then say everything: requests, messages, rows.
"""

from __future__ import annotations

import copy
import logging
import re
import sys
from collections.abc import Mapping
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, TextIO
from uuid import UUID

import structlog

OURS = frozenset({"workers", "tasks", "billing", "config", "creditmill"})
TELLING = frozenset({"celery", "flower"})
"""Libraries whose INFO tells an operator how a process is, and holds names and addresses only."""
CHATTER = frozenset({"celery.worker.strategy"})
"""A line for each message that comes."""
PLAIN = (str, int, float, Decimal, date, timedelta, UUID, BaseException, type(None))

SCRUBBED = "[scrubbed]"
_PATTERNS = (
    re.compile(r"\b(?:sk|pk|rk|sim)-[A-Za-z0-9_\-]{6,}"),
    re.compile(r"\bcm_(?:live|test)_[0-9A-Za-z]{6,}"),
    re.compile(r"(?<=Bearer )\s*[^\s\"',]+"),
    re.compile(r"(?<=://)[^/\s:@]*:(?!\d+/)[^\s@]+(?=@)"),
    # PostgreSQL quotes rows there, over several lines if need be; what follows begins a line of its own.
    re.compile(r"(?<=DETAIL:)[\s\S]*?(?=\n(?:HINT:|CONTEXT:|\[SQL|\(Background|Traceback|  File )|\Z)"),
    re.compile(r"(?<=CONTEXT:)[^\n]*"),
)


def scrub(text: str) -> str:
    """The same text with everything that looks like a secret or a quoted row taken out."""
    for pattern in _PATTERNS:
        text = pattern.sub(SCRUBBED, text)
    return text


def scrub_values(_: object, __: str, event: dict[str, Any]) -> dict[str, Any]:
    """The same event with every text in it scrubbed: before JSON is made of it, so that it stays JSON."""
    return {name: _scrubbed(value) for name, value in event.items()}


def _scrubbed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _scrubbed(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_scrubbed(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float) else scrub(str(value))


def get_logger(name: str) -> Any:
    """The logger of one of our modules: `log.warning("event", fact=1)` is a record of the standard logger of that name.

    The record's message is one line with the event and its facts, and `facts` has them apart; both are scrubbed.
    """
    return structlog.wrap_logger(logging.getLogger(name), **_ways())


def _ways() -> dict[str, Any]:
    return {
        "processors": [
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            scrub_values,
            _as_record,
        ],
        "wrapper_class": structlog.stdlib.BoundLogger,
        "cache_logger_on_first_use": False,
    }


def _as_record(_: object, __: str, event: dict[str, Any]) -> tuple[tuple[str], dict[str, Any]]:
    facts = " ".join(f"{name}={value!r}" for name, value in event.items() if name != "event")
    return (f"{event['event']} {facts}".rstrip(),), {"extra": {"facts": event}}


def _with_facts(_: object, __: str, event: dict[str, Any]) -> dict[str, Any]:
    """The event of a record: of one of ours, its facts apart."""
    return event | getattr(event["_record"], "facts", {})


class ScrubbingFormatter(structlog.stdlib.ProcessorFormatter):
    """Formats any record, ours or a library's, as a line for people, and scrubs the finished text."""

    def format(self, record: logging.LogRecord) -> str:
        """One scrubbed line, with its traceback if it has one."""
        return scrub(super().format(record))


class CarefulHandler(logging.StreamHandler[TextIO]):
    """Writes what we say at any level, and what libraries say that is neither chatter nor content.

    Some log whole requests, messages or rows: at DEBUG all that pass, and those that they fail with at any level.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this record is written; a library may have set its level itself, as by OPENAI_LOG."""
        return record.levelno >= _least(record.name) and bool(super().filter(record))

    def format(self, record: logging.LogRecord) -> str:
        """The record's line; of what a library adds to its message, only plain values are shown."""
        if not _is_ours(record.name) and record.args:
            record = copy.copy(record)
            record.args = _plain(record.msg, record.args)
        return super().format(record)


def _is_ours(name: str) -> bool:
    return name.partition(".")[0] in OURS


def _least(name: str) -> int:
    """The least level that is written of this logger."""
    if _is_ours(name):
        return logging.NOTSET
    tells = name.partition(".")[0] in TELLING and name not in CHATTER
    return logging.INFO if tells else logging.WARNING


def _plain(message: object, args: Any) -> Any:
    """The arguments of a library's message, with the type's name instead of each that may hold content."""
    if isinstance(args, Mapping):
        # Named ones, or a single one that is a mapping itself.
        return {name: _shown(value) for name, value in args.items()} if "%(" in str(message) else (_shown(args),)
    return tuple(_shown(value) for value in args)


def _shown(value: object) -> object:
    return value if isinstance(value, PLAIN) else f"<{type(value).__name__}>"


def configure_logging(level: str = "INFO", form: str = "console", *, stream: TextIO | None = None) -> None:
    """Send every logger of this process to `stream` (stderr by default), as console lines or as JSON lines."""
    shared: list[Any] = [
        _with_facts,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        # People read the time of day, programs the full instant.
        structlog.processors.TimeStamper(fmt="iso" if form == "json" else "%H:%M:%S", utc=True),
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if form == "json"
        else structlog.dev.ConsoleRenderer(
            colors=False, exception_formatter=structlog.dev.plain_traceback, pad_event_to=0
        )
    )
    tail: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if form == "json":
        tail += [structlog.processors.format_exc_info, scrub_values]
    handler = CarefulHandler(stream or sys.stderr)
    formatter = structlog.stdlib.ProcessorFormatter if form == "json" else ScrubbingFormatter
    handler.setFormatter(formatter(foreign_pre_chain=shared, processors=[*tail, renderer]))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Whoever speaks by structlog itself, in a process of ours, would print to stdout.
    structlog.configure(logger_factory=structlog.stdlib.LoggerFactory(), **_ways())
