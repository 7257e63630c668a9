"""What the simulator is asked: requests read and checked as OpenAI checks them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workers.simulator import parameters
from workers.simulator.draws import count_tokens
from workers.simulator.faults import Refusal, RefusalError, echo

KNOWN_MODEL = re.compile(r"gpt-|o[134]|dall-e-|text-embedding-|runware:|google:|sim-")


@dataclass(frozen=True)
class Question:
    """A valid request: `messages` are the texts of its messages, prompts or inputs, in order."""

    endpoint: str
    model: str
    messages: tuple[str, ...]
    body: Mapping[str, Any]

    @property
    def prompt(self) -> str:
        """All message texts, a line break between them; instructions are not part of it."""
        return "\n".join(self.messages)


def invalid(message: str, param: str | None, prompt: str = "") -> RefusalError:
    """The refusal of a request that is not valid; it echoes the prompt, as providers do."""
    quoted = f" The prompt was: {echo(prompt)}" if prompt else ""
    return RefusalError(Refusal(400, "invalid_value", f"{message}{quoted}", param=param))


def read_question(endpoint: str, body: object) -> Question:
    """Check a request's body for `endpoint` (such as `responses`).

    Raises RefusalError: 404 for an unknown model, 400 for a missing or wrong value, echoing the prompt.
    """
    if not isinstance(body, dict):
        raise invalid("The body must be a JSON object.", None)
    messages = _messages(endpoint, body)
    prompt = "\n".join(messages)
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise invalid("The parameter 'model' is missing.", "model", prompt)
    if not KNOWN_MODEL.match(model):
        message = f"The model `{model[:100]}` does not exist or you do not have access to it."
        raise RefusalError(Refusal(404, "model_not_found", message, param="model"))
    if not prompt.strip():
        raise invalid("The request has no text.", _PROMPT_IN[endpoint])
    if body.get("stream"):
        raise invalid("The simulator does not stream.", "stream", prompt)
    _check_values(endpoint, body, prompt)
    refusal = parameters.refusal_of(endpoint, model, body)
    if refusal is not None:
        raise RefusalError(refusal)
    return Question(endpoint, model, messages, body)


def _check_values(endpoint: str, body: Mapping[str, Any], prompt: str) -> None:
    for name, low, high in _WHOLE_NUMBERS[endpoint]:
        value = body.get(name)
        if value is not None and (type(value) is not int or not low <= value <= high):
            raise invalid(f"Invalid '{name}': expected a whole number from {low} to {high}.", name, prompt)
    for name, pattern in _CHOICES.get(endpoint, {}).items():
        value = body.get(name)
        if value is not None and not (isinstance(value, str) and re.fullmatch(pattern, value)):
            raise invalid(f"Invalid '{name}': expected {pattern.replace('|', ' or ')}.", name, prompt)


_PROMPT_IN = {
    "responses": "input",
    "chat/completions": "messages",
    "images/generations": "prompt",
    "embeddings": "input",
}
_WHOLE_NUMBERS: Mapping[str, Sequence[tuple[str, int, int]]] = {
    "responses": [("max_output_tokens", 1, 1_000_000)],
    "chat/completions": [("max_completion_tokens", 1, 1_000_000), ("max_tokens", 1, 1_000_000), ("n", 1, 1)],
    "images/generations": [("n", 1, 10)],
    "embeddings": [("dimensions", 1, 3_072)],
}
_CHOICES: Mapping[str, Mapping[str, str]] = {
    "images/generations": {
        "size": r"auto|[1-9]\d{1,3}x[1-9]\d{1,3}",
        "quality": "auto|standard|hd|low|medium|high|xhigh|max",
        "style": "vivid|natural",
        "response_format": "url|b64_json",
    },
    "embeddings": {"encoding_format": "float|base64"},
}


def _messages(endpoint: str, body: Mapping[str, Any]) -> tuple[str, ...]:
    name = _PROMPT_IN[endpoint]
    given = body.get(name)
    if isinstance(given, str) and endpoint != "chat/completions":
        return (given,)
    if endpoint == "embeddings" and isinstance(given, list):
        return tuple(text for text, _ in embedding_inputs(given))
    if endpoint in ("responses", "chat/completions") and isinstance(given, list):
        return tuple(_content(message, name) for message in given)
    raise invalid(f"The parameter '{name}' is missing or has the wrong type.", name)


def _content(message: object, name: str) -> str:
    content = message.get("content") if isinstance(message, dict) else message
    if isinstance(message, dict) and content is None:
        return ""
    if isinstance(message, dict) and isinstance(content, str):
        return content
    if isinstance(message, dict) and isinstance(content, list):
        texts = (part.get("text") for part in content if isinstance(part, dict))
        return "".join(text for text in texts if isinstance(text, str))
    raise invalid(f"The parameter '{name}' must be a list of messages with content.", name)


def embedding_inputs(given: object) -> list[tuple[str, int]]:
    """Read the inputs of an embeddings request as texts with their token counts; token ids count one each."""
    items = [given] if isinstance(given, str) or _are_token_ids(given) else given
    inputs: list[tuple[str, int]] = []
    for item in items if isinstance(items, list) else []:
        if isinstance(item, str) and item:
            inputs.append((item, count_tokens(item)))
        elif _are_token_ids(item):
            inputs.append((" ".join(map(str, item)), len(item)))
        else:
            raise invalid("Every input must be a text or a list of token ids, and not be empty.", "input")
    return inputs


def _are_token_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)
