"""How long a provider asks us to wait, read from the headers of an answer that refuses.

Nothing here reads a clock. Whatever stands in a header gives a wait within bounds, or none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from billing.jobs.policy import VERDICTS, Failure, Verdict

LONGEST_WAIT = timedelta(days=1)
"""The longest wait that a provider is granted when it asks for one."""

_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+")
_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_PART = rf"({_NUMBER.pattern})({'|'.join(_UNITS_S)})"
_DURATION = re.compile(rf"(?:{_PART})+")
_WINDOW = re.compile(r"x-ratelimit-reset(?:-.+)?|anthropic-ratelimit-.+-reset")
# Numbers from here on are an instant, in seconds or in milliseconds since 1970; below, they are seconds to wait.
_EPOCH_S, _EPOCH_MS = 1e9, 1e11
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH, _TIME = rf"(?P<month>{'|'.join(_MONTHS)})", r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
_DATES = tuple(
    re.compile(form, re.ASCII)
    for form in (
        rf"[A-Z][a-z]{{2}}, (?P<day>\d\d) {_MONTH} (?P<year>\d{{4}}) {_TIME} GMT",
        rf"[A-Z][a-z]{{5,8}}, (?P<day>\d\d)-{_MONTH}-(?P<year>\d\d) {_TIME} GMT",
        rf"[A-Z][a-z]{{2}} {_MONTH} (?P<day>[ \d]\d) {_TIME} (?P<year>\d{{4}})",
    )
)
"""The three forms of RFC 9110, section 5.6.7: the usual one, and two that are obsolete and must be understood."""


def retry_after(headers: Mapping[str, str], failure: Failure, *, now: datetime) -> timedelta | None:
    """How long the provider asks us to wait before the next try: from 0 to a day; None if it does not say so.

    The first of these that can be read counts, for the finest says most and the general one least: `retry-after-ms`;
    `retry-after`, in seconds or as a date; and, where the rate is limited, the windows of that limit
    (`x-ratelimit-reset`, `x-ratelimit-reset-...`, `anthropic-ratelimit-...-reset`). Without such a limit they stand in
    answers of every kind and ask for nothing. An instant is compared with the answer's own `date`, else with `now`.

    Only a failure after which a call is tried again has a wait. Header names are in small letters.
    """
    if VERDICTS[failure] is not Verdict.RETRY:
        return None
    at = _http_date(headers.get("date", ""), now) or now
    wait_s = _milliseconds(headers.get("retry-after-ms", ""))
    if wait_s is None:
        wait_s = _seconds_or_date(headers.get("retry-after", ""), at)
    if wait_s is None and failure is Failure.RATE_LIMITED:
        wait_s = _longest_window(headers, at)
    return None if wait_s is None else timedelta(seconds=max(0.0, min(wait_s, LONGEST_WAIT.total_seconds())))


def _milliseconds(text: str) -> float | None:
    number = _number(text)
    return None if number is None else number / 1_000


def _seconds_or_date(text: str, at: datetime) -> float | None:
    number = _number(text)
    return number if number is not None else _until(_http_date(text, at), at)


def _longest_window(headers: Mapping[str, str], at: datetime) -> float | None:
    """The wait until the last of the windows that are used up has passed; of all windows, if none says that it is."""
    waits: list[float] = []
    used_up: list[float] = []
    for name, text in headers.items():
        if _WINDOW.fullmatch(name) and (wait_s := _window(text.strip(), at)) is not None:
            waits.append(wait_s)
            if _number(headers.get(name.replace("reset", "remaining"), "")) == 0:
                used_up.append(wait_s)
    return max(used_up or waits, default=None)


def _window(text: str, at: datetime) -> float | None:
    """Seconds until a window begins anew, written as a number, a duration ("6m0s") or a date of RFC 3339."""
    number = _number(text)
    if number is not None:
        instant = number / 1_000 if number >= _EPOCH_MS else number
        return instant - at.timestamp() if number >= _EPOCH_S else number
    if _DURATION.fullmatch(text):
        return sum(float(amount) * _UNITS_S[unit] for amount, unit in re.findall(_PART, text))
    return _until(_rfc3339(text), at)


def _number(text: str) -> float | None:
    text = text.strip()
    return float(text) if _NUMBER.fullmatch(text) else None


def _until(instant: datetime | None, at: datetime) -> float | None:
    return None if instant is None else (instant - at).total_seconds()


def _rfc3339(text: str) -> datetime | None:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if instant.tzinfo is None else instant


def _http_date(text: str, at: datetime) -> datetime | None:
    found = next((match for form in _DATES if (match := form.fullmatch(text.strip()))), None)
    if found is None:
        return None
    year = int(found["year"])
    if len(found["year"]) == 2:
        # Of two digits: the year of this century, unless that is more than 50 years ahead.
        year += at.year // 100 * 100
        year -= 100 if year > at.year + 50 else 0
    day, month = int(found["day"]), _MONTHS.index(found["month"]) + 1
    try:
        # A leap second is the second before it.
        second = min(int(found["second"]), 59)
        return datetime(year, month, day, int(found["hour"]), int(found["minute"]), second, tzinfo=UTC)
    except ValueError:
        return None
