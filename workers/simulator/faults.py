"""The ways in which the simulated provider can fail, and how one of them is chosen for a request.

Nothing here opens a connection or reads a clock; the server carries the faults out.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Refusal:
    """An error answer in OpenAI's shape. A refused request is never executed."""

    status: int
    code: str | None
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """Give the JSON body that OpenAI's SDK expects of an error."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class RefusalError(Exception):
    """The provider refuses the request; `refusal` is the answer to send."""

    def __init__(self, refusal: Refusal):
        super().__init__(refusal.message)
        self.refusal = refusal


class FaultError(ValueError):
    """A fault was asked for in a way that the simulator does not know; the message is one sentence to show."""


@dataclass(frozen=True)
class Fault:
    """A named way to fail: whether billable work is done all the same, and the refusal sent, if one is.

    With `page`, a status, a gateway's page of HTML is sent in place of the answer.
    """

    name: str
    executes: bool
    description: str
    refusal: Refusal | None = None
    page: int | None = None

    def refuse(self, prompt: str) -> Refusal | None:
        """Give the refusal for `prompt`, echoing the prompt where a real provider would; None if it is no refusal."""
        if self.refusal is None:
            return None
        message = self.refusal.message.replace("{prompt}", echo(prompt))
        return Refusal(
            self.refusal.status, self.refusal.code, message, self.refusal.type, self.refusal.param, self.refusal.headers
        )


ECHOED_CHARACTERS = 2_000


def echo(prompt: str) -> str:
    """Quote the first 2,000 characters of a prompt, as providers do in their error messages."""
    return prompt[:ECHOED_CHARACTERS]


_TABLE = (
    Fault(
        "rate_limit",
        False,
        "Refuses with 429 rate_limit_exceeded, asking to retry after one second.",
        Refusal(
            429,
            "rate_limit_exceeded",
            "Rate limit reached for simulated requests. Please try again in 1s.",
            "requests",
            headers={"Retry-After": "1", "retry-after-ms": "1000"},
        ),
    ),
    Fault(
        "rate_limit_window",
        False,
        "Refuses with 429 as OpenAI does without Retry-After: the window of requests is used up for one second.",
        Refusal(
            429,
            "rate_limit_exceeded",
            "Rate limit reached for simulated requests.",
            "requests",
            headers={
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-remaining-tokens": "149984",
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-reset-tokens": "6m0s",
            },
        ),
    ),
    Fault(
        "overloaded",
        False,
        "Refuses with 503: the provider is overloaded.",
        Refusal(503, "overloaded", "The simulated engine is overloaded, please try again later.", "server_error"),
    ),
    Fault(
        "overloaded_until",
        False,
        "Refuses with 503, asking to retry at a date, one second after the answer's own.",
        Refusal(
            503,
            "overloaded",
            "The simulated engine is overloaded, please try again later.",
            "server_error",
            headers={"Date": "Fri, 20 Nov 2026 12:00:00 GMT", "Retry-After": "Fri, 20 Nov 2026 12:00:01 GMT"},
        ),
    ),
    Fault(
        "too_early",
        False,
        "Refuses with 425: the provider is not ready to take the request.",
        Refusal(425, "too_early", "The simulated server is not ready, please try again."),
    ),
    Fault(
        "server_error",
        False,
        "Refuses with 500: the provider failed before doing the work.",
        Refusal(500, "server_error", "The simulated server had an error while processing the request.", "server_error"),
    ),
    Fault("hang_before_accept", False, "Reads the request, stays silent for --hang seconds, drops; never executes."),
    Fault("hang_after_accept", True, "Executes, stays silent for --hang seconds, then drops the connection."),
    Fault("reset_before_accept", False, "Resets the connection without executing."),
    Fault("reset_mid_body", True, "Executes, sends the headers and half of the body, then resets the connection."),
    Fault("drip", True, "Executes, sends a byte of the answer now and then for --hang seconds, then drops."),
    Fault("bad_gateway", True, "Executes, then a gateway answers 502 with a page of its own.", page=502),
    Fault("gateway_timeout", True, "Executes, then a gateway answers 504 with a page of its own.", page=504),
    Fault("malformed_body", True, "Executes, then answers 200 with broken JSON."),
    Fault("missing_usage", True, "Executes, then answers 200 without usage."),
    Fault("model_refusal", True, "Executes, then answers 200 with the model's refusal instead of a text."),
    Fault(
        "error_in_answer",
        False,
        "Answers 200 with an error inside instead of a result.",
        Refusal(200, "server_error", "The simulated model failed after the answer had begun.", "server_error"),
    ),
    Fault(
        "content_policy",
        False,
        "Refuses with 400 content_policy_violation, echoing the prompt.",
        Refusal(
            400,
            "content_policy_violation",
            "Your request was rejected by the simulated safety system. The prompt was: {prompt}",
        ),
    ),
    Fault(
        "bad_request",
        False,
        "Refuses with 400, echoing the prompt.",
        Refusal(400, "invalid_value", "Simulated invalid request. The prompt was: {prompt}", param="input"),
    ),
    Fault("fewer_images", True, "Executes and delivers one image fewer than asked for, at least one."),
    Fault(
        "insufficient_quota",
        False,
        "Refuses with 429 insufficient_quota, which waiting does not cure.",
        Refusal(
            429,
            "insufficient_quota",
            "You exceeded your current simulated quota, please check your plan and billing details.",
            "insufficient_quota",
        ),
    ),
    Fault("slow", True, "Executes and answers after three times the latency and one second."),
)
FAULTS: Mapping[str, Fault] = {fault.name: fault for fault in _TABLE}


def known_fault(name: object) -> str:
    """Return `name` if it is in the table; raise FaultError, listing the known names, if it is not."""
    if isinstance(name, str) and name in FAULTS:
        return name
    raise FaultError(f"There is no fault named {name!r}; the faults are {', '.join(FAULTS)}.")


@dataclass(frozen=True)
class Marker:
    """What the `[[simulate: ...]]` markers of a prompt ask for; `times` None means always."""

    faults: tuple[tuple[str, int | None], ...] = ()
    latency_s: float | None = None
    output_tokens: int | None = None

    def fault(self, seen: int) -> str | None:
        """Name the fault for a request that was seen `seen` times before; None once every item is used up."""
        for name, times in self.faults:
            if times is None or seen < times:
                return name
            seen -= times
        return None


_MARKER = re.compile(r"\[\[simulate:(.*?)\]\]")
_LATENCY = re.compile(r"latency (\d{1,4}(?:\.\d{1,6})?)")
_TOKENS = re.compile(r"tokens (\d{1,6})")
_FAULT = re.compile(r"(\w+)(?: x(\d{1,6}))?")


def read_marker(prompt: str) -> Marker:
    """Read every marker of a prompt as one list of items.

    An item is `NAME`, `NAME x2`, `latency 0.05` (seconds) or `tokens 300` (the output length drawn, reasoning
    included). Raises FaultError for an unknown fault or an item of another form.
    """
    faults: list[tuple[str, int | None]] = []
    latency_s: float | None = None
    output_tokens: int | None = None
    for item in (item.strip() for found in _MARKER.findall(prompt) for item in found.split(";")):
        if latency := _LATENCY.fullmatch(item):
            latency_s = float(latency[1])
        elif tokens := _TOKENS.fullmatch(item):
            output_tokens = int(tokens[1])
        elif fault := _FAULT.fullmatch(item):
            faults.append((known_fault(fault[1]), int(fault[2]) if fault[2] else None))
        else:
            raise FaultError(f"The marker item {item!r} is none of NAME, NAME xN, latency SECONDS and tokens N.")
    return Marker(tuple(faults), latency_s, output_tokens)


@dataclass
class Scripted:
    """A fault for the next `times` requests whose prompt contains `match`."""

    fault: str
    times: int
    match: str


def read_script(body: object) -> list[Scripted]:
    """Read `{"faults": [{"fault": NAME, "times": 1, "match": ""}]}`; raises FaultError for anything else."""
    items = body.get("faults") if isinstance(body, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise FaultError('The body must be {"faults": [{"fault": NAME, "times": 1, "match": ""}]}.')
    return [_scripted(item) for item in items]


def _scripted(item: dict[str, Any]) -> Scripted:
    times, match = item.get("times", 1), item.get("match") or ""
    if type(times) is not int or times < 1:
        raise FaultError(f"A scripted fault's times must be a whole number from 1, not {times!r}.")
    if not isinstance(match, str):
        raise FaultError(f"A scripted fault's match must be a piece of the prompt, not {match!r}.")
    return Scripted(known_fault(item.get("fault")), times, match)


def take_scripted(script: list[Scripted], prompt: str) -> str | None:
    """Use up one turn of the first scripted fault that matches `prompt`; forget the fault after its last turn."""
    for scripted in script:
        if scripted.match in prompt:
            scripted.times -= 1
            if scripted.times == 0:
                script.remove(scripted)
            return scripted.fault
    return None


def read_rates(options: tuple[str, ...]) -> dict[str, float]:
    """Read `NAME=RATE` options into rates from 0 to 1; raises FaultError when one is wrong or their sum exceeds 1."""
    rates: dict[str, float] = {}
    for option in options:
        name, _, rate = option.partition("=")
        if not re.fullmatch(r"\d*\.?\d+", rate):
            raise FaultError(f"A fault is written NAME=RATE with a rate from 0 to 1, not {option!r}.")
        rates[known_fault(name)] = float(rate)
    if sum(rates.values()) > 1 + 1e-9:
        raise FaultError(f"The fault rates add up to {sum(rates.values()):g}, which is more than 1.")
    return rates


def random_fault(rates: Mapping[str, float], chance: float) -> str | None:
    """Name the fault that `chance`, at least 0 and below 1, hits; None if it hits none."""
    for name, rate in rates.items():
        if chance < rate:
            return name
        chance -= rate
    return None
