"""The text of an answer: what the model wrote for the customer, what it thought, and what it refused with.

Servers give content as one text, as a list of parts, or as an object; thinking stands in parts or in fields of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.providers.base import clean_text

_THOUGHTS = ("thinking", "reasoning", "reasoning_text", "summary_text", "redacted_thinking")


@dataclass(frozen=True)
class Spoken:
    """What a model said; each of it may be empty. `finish_reason` is whatever stands there."""

    text: str
    thinking: str
    refusal: str
    finish_reason: Any


def of_chat(body: Mapping[str, Any]) -> Spoken | None:
    """What the first choice of a chat completion says; None when there is no choice that can be read."""
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        return None
    # Some servers answer in the form of a stream's one piece.
    message = choice.get("message", choice.get("delta"))
    if message is None and isinstance(choice.get("text"), str):
        # The form of the older completions.
        message = {"content": choice["text"]}
    if isinstance(message, str):
        message = {"content": message}
    if not isinstance(message, dict):
        return None
    said = _Said()
    said.hear(message.get("content"))
    for name in ("reasoning_content", "reasoning"):
        # The one is a copy of the other where a server has both.
        if not said.thinking and isinstance(message.get(name), str):
            said.thinking.append(message[name])
    if isinstance(message.get("refusal"), str):
        said.refusal.append(message["refusal"])
    return said.spoken(choice.get("finish_reason"))


def of_response(body: Mapping[str, Any]) -> Spoken | None:
    """What the output of a response says; None when there is no output that can be read."""
    output, whole = body.get("output"), body.get("output_text")
    if not isinstance(output, list) and not isinstance(whole, str):
        return None
    said = _Said()
    for item in output if isinstance(output, list) else []:
        if isinstance(item, dict) and item.get("type") == "reasoning":
            said.think(item.get("summary"))
            said.think(item.get("content"))
        elif isinstance(item, dict):
            said.hear(item.get("content"))
    if not said.text and isinstance(whole, str):
        said.text.append(whole)
    details = body.get("incomplete_details")
    reason = details.get("reason") if isinstance(details, dict) else None
    return said.spoken(reason or ("incomplete" if body.get("status") == "incomplete" else "stop"))


class _Said:
    """What was said so far."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.thinking: list[str] = []
        self.refusal: list[str] = []

    def hear(self, content: Any) -> None:
        """Take in a content: a text, a part, a list of parts; any other value is kept as the JSON that it is."""
        if isinstance(content, list):
            for part in content:
                self._hear_part(part)
        elif content is not None:
            self._hear_part(content)

    def think(self, content: Any) -> None:
        """Take in what was thought."""
        self.thinking += _texts(content)

    def spoken(self, finish_reason: Any) -> Spoken:
        """All of it, as PostgreSQL can keep it."""
        text, thinking, refusal = (clean_text("".join(parts)) for parts in (self.text, self.thinking, self.refusal))
        return Spoken(text, thinking, refusal.strip(), finish_reason)

    def _hear_part(self, part: Any) -> None:
        if isinstance(part, str):
            self.text.append(part)
        elif not isinstance(part, dict):
            self.text += [] if part is None else [json.dumps(part)]
        elif part.get("type") == "refusal":
            self.refusal += _texts(part.get("refusal"))
        elif part.get("type") in _THOUGHTS:
            for name in ("thinking", "reasoning", "text", "summary"):
                self.think(part.get(name))
        elif "text" in part:
            self.text += _texts(part["text"])
        elif "type" not in part:
            # An object that a server has read out of the text itself, as some do in JSON mode.
            self.text.append(json.dumps(part))


def _texts(content: Any) -> Iterator[str]:
    """Every text in a content of parts."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content:
            yield from _texts(part)
    elif isinstance(content, dict):
        yield from _texts(content.get("text", content.get("value")))
