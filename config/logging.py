"""Logging for every process: structlog over the standard library, one line an event, with secrets scrubbed.

The last step before a line is written removes what must never be in a log, whoever logged it: provider keys,
passwords in URLs, and the row contents that PostgreSQL quotes in the DETAIL of an error.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import Any, TextIO

import structlog

SCRUBBED = "[scrubbed]"
_PATTERNS = (
    re.compile(r"\b(?:sk|pk|rk|sim)-[A-Za-z0-9_\-]{6,}"),
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


class ScrubbingFormatter(structlog.stdlib.ProcessorFormatter):
    """Formats any record, ours or a library's, as a line for people, and scrubs the finished text."""

    def format(self, record: logging.LogRecord) -> str:
        """One scrubbed line, with its traceback if it has one."""
        return scrub(super().format(record))


def configure_logging(level: str = "INFO", form: str = "console", *, stream: TextIO | None = None) -> None:
    """Send every logger of this process to `stream` (stderr by default), as console lines or as JSON lines."""
    stream = stream or sys.stderr
    shared: list[Any] = [
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
    handler = logging.StreamHandler(stream)
    formatter = structlog.stdlib.ProcessorFormatter if form == "json" else ScrubbingFormatter
    handler.setFormatter(formatter(foreign_pre_chain=shared, processors=[*tail, renderer]))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in (
        "httpx",
        "httpx2",
        "httpcore",
        "httpcore2",
        "openai",
        "alembic",
        "kombu",
        "amqp",
        "urllib3",
        "celery.worker.strategy",
    ):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
