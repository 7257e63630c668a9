"""One request as the server keeps it, and the checks that come before any provider's own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from workers.simulator.answers import Answer
from workers.simulator.draws import Draw
from workers.simulator.faults import Marker, Refusal, RefusalError, echo
from workers.simulator.questions import Question
from workers.simulator.texts import Desk

KEY_PREFIX = "sim-"


class Api(Protocol):
    """One provider's API: how its requests are read and answered, and what it remembers of them."""

    def name(self, call: Call, body: Any) -> Call:
        """What can be told of any body, valid or not: its endpoint, model and id."""
        ...

    def read(self, call: Call, body: Any) -> Question:
        """Check the body; raises RefusalError."""
        ...

    def replay(self, call: Call) -> Answer | None:
        """The answer that this request got before, if it gets it again; raises RefusalError if it may not be made."""
        ...

    def working_on(self, call: Call) -> AbstractContextManager[None]:
        """While this is open, the request is being worked on."""
        ...

    def one_image_less(self, question: Question) -> Question:
        """The question for one image fewer, at least one."""
        ...

    def answer(self, call: Call, question: Question, desk: Desk) -> Answer:
        """Do the work, and remember it."""
        ...

    def without_usage(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The body without its usage or cost."""
        ...

    def declined(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The body with the model's refusal in the place of its text, if it has one."""
        ...

    def refuse(self, call: Call, refusal: Refusal) -> tuple[Refusal, dict[str, Any]]:
        """The refusal with this provider's status and code, and its body."""
        ...


@dataclass(frozen=True)
class Call:
    """One request as received: a question with its fault, if any, an answer that it got before, or a refusal."""

    api: Api
    endpoint: str
    request_id: str
    idempotency_key: str | None
    draw: Draw
    model: str | None = None
    question: Question | None = None
    marker: Marker = field(default_factory=Marker)
    fault: str | None = None
    replay: Answer | None = None
    refusal: Refusal | None = None

    def facts(self) -> dict[str, Any]:
        """Give what the journal says of the request in every entry."""
        prompt = self.question.prompt if self.question else None
        return {
            "idempotency_key": self.idempotency_key,
            "request_id": self.request_id,
            "endpoint": self.endpoint,
            "model": self.model,
            "prompt_sha256": None if prompt is None else hashlib.sha256(prompt.encode()).hexdigest(),
            "fault": self.fault,
        }


def check_key(authorization: str | None) -> None:
    """Accept `Bearer sim-...` only; raises RefusalError (401) whose message echoes the key, as providers do."""
    key = (authorization or "").removeprefix("Bearer ").strip()
    if not key.startswith(KEY_PREFIX) or key == KEY_PREFIX:
        message = f"Incorrect API key provided: {key or 'none'}. The simulator takes only keys that begin with sim-."
        raise RefusalError(Refusal(401, "invalid_api_key", message))


def parse_body(raw: bytes | None) -> Any:
    """Parse a JSON body; raises RefusalError: 413 for None (a body over 2 MB), 400 for anything but JSON."""
    if raw is None:
        raise RefusalError(Refusal(413, "request_too_large", "The request body is over 2 MB."))
    try:
        body = json.loads(raw)
        # A lone surrogate is valid JSON, but no text that could be counted or hashed.
        json.dumps(body, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        message = f"We could not parse the JSON body of your request. It was: {echo(raw.decode(errors='replace'))}"
        raise RefusalError(Refusal(400, "invalid_json", message)) from None
    return body


def model_named(body: Any) -> str | None:
    """The model that a body names, cut to 100 characters; None if it names none."""
    model = body.get("model") if isinstance(body, dict) else None
    return model[:100] if isinstance(model, str) else None
