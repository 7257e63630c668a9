"""OpenAI's API as simulated, and the idempotency keys that it honours if it is told to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from workers.simulator.answers import ANSWERS, Answer, ask_one_image_less, declined
from workers.simulator.calls import Call, model_named
from workers.simulator.faults import Refusal, RefusalError
from workers.simulator.journal import Entry
from workers.simulator.questions import Question, read_question
from workers.simulator.texts import Desk


@dataclass(frozen=True)
class Kept:
    """What was answered under a key, and to which body."""

    body: str
    answer: Answer


class OpenAIApi:
    """OpenAI's API. It executes whatever comes, as OpenAI does, unless `honour_keys`: then one key is executed once.

    Keys are honoured as draft-ietf-httpapi-idempotency-key-header has it: the answer again, 409 while the first request
    is being worked on, 422 for another body under the same key; refusals are forgotten. Answers are kept in memory; a
    key that an earlier process executed is in the journal only: it is answered with 409, never executed again.
    """

    def __init__(self, earlier: Iterable[Entry], *, honour_keys: bool) -> None:
        self._honour_keys = honour_keys
        self._kept: dict[str, Kept | None] = {
            entry.idempotency_key: None
            for entry in earlier
            if entry.event == "executed" and entry.endpoint in ANSWERS and entry.idempotency_key
        }
        self._working: set[str] = set()

    def name(self, call: Call, body: Any) -> Call:
        """Tell the model."""
        return replace(call, model=model_named(body))

    def read(self, call: Call, body: Any) -> Question:
        """Check the body; raises RefusalError."""
        return read_question(call.endpoint, body)

    def replay(self, call: Call) -> Answer | None:
        """The answer that this key got before; raises RefusalError (409, 422) if it has none to give."""
        key = call.idempotency_key
        if not self._honour_keys or key is None:
            return None
        if key in self._working:
            raise _conflict(409, "A request with this idempotency key is being worked on.")
        if key not in self._kept:
            return None
        kept = self._kept[key]
        if kept is None:
            raise _conflict(409, "This idempotency key was executed before a restart; its answer is lost.")
        if kept.body != _canonical(call):
            raise _conflict(422, "This idempotency key was used with another request body.")
        return kept.answer

    @contextmanager
    def working_on(self, call: Call) -> Iterator[None]:
        """While this is open, the call's key is being worked on."""
        if not self._honour_keys or call.idempotency_key is None:
            yield
            return
        self._working.add(call.idempotency_key)
        try:
            yield
        finally:
            self._working.discard(call.idempotency_key)

    def one_image_less(self, question: Question) -> Question:
        """The question for one image fewer, at least one."""
        return ask_one_image_less(question)

    def answer(self, call: Call, question: Question, desk: Desk) -> Answer:
        """Do the work, and keep the answer where keys are honoured."""
        answer = ANSWERS[question.endpoint](question, desk)
        if self._honour_keys and call.idempotency_key is not None:
            self._kept[call.idempotency_key] = Kept(_canonical(call), answer)
        return answer

    def without_usage(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The body without its usage."""
        return {name: value for name, value in body.items() if name != "usage"}

    def declined(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The body with the model's refusal in the place of its text, if it has one."""
        return declined(body)

    def refuse(self, call: Call, refusal: Refusal) -> tuple[Refusal, dict[str, Any]]:
        """The refusal as it is: the faults have OpenAI's statuses and codes."""
        return refusal, refusal.body()


def _conflict(status: int, message: str) -> RefusalError:
    return RefusalError(Refusal(status, "idempotency_key_in_use", message, "idempotency_error"))


def _canonical(call: Call) -> str:
    assert call.question is not None, "only a request that was read is executed"
    return json.dumps([call.endpoint, call.question.body], sort_keys=True)
