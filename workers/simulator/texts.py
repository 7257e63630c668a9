"""Made-up texts: drawn from a seed, counted exactly, cut at their limit, and the same every time."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import toktok

from workers.simulator.draws import ENCODING, Draw, count_tokens
from workers.simulator.questions import Question

DEFAULT_MAX_OUTPUT_TOKENS = 8_192
TYPICAL_OUTPUT_TOKENS = (150, 900)
CACHE_FROM_TOKENS = 1_024
CACHE_STEP_TOKENS = 128
REASONING_MODEL = re.compile(r"gpt-5|o")
WORDS = (
    "simulated", "answer", "river", "garden", "morning", "window", "letter", "market", "bridge", "music", "paper",
    "table", "winter", "summer", "road", "house", "story", "color", "number", "reason", "people", "water", "light",
    "small", "large", "early", "quiet", "simple", "clear", "open", "new", "old", "the", "a", "this", "that", "and",
    "or", "with", "from", "under", "over", "near", "after", "before", "makes", "finds", "keeps", "shows", "takes",
    "gives", "needs", "turns", "moves", "begins", "often", "always", "never", "again", "together",
)  # fmt: skip


class PromptCache:
    """Which prompt prefixes were seen, to give cached tokens as providers do; holds the last 64 long prompts."""

    def __init__(self) -> None:
        self._prompts: OrderedDict[tuple[str, str], str] = OrderedDict()

    def cached_tokens(self, model: str, text: str) -> int:
        """Count the cached tokens of `text`, a multiple of 128, and remember the text for the next request."""
        head, total = toktok.truncate(text, CACHE_FROM_TOKENS, ENCODING)
        if total <= CACHE_FROM_TOKENS:
            return 0
        earlier = self._prompts.pop((model, head), None)
        self._prompts[model, head] = text
        if len(self._prompts) > 64:
            self._prompts.popitem(last=False)
        if earlier is None:
            return 0
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(earlier, text, strict=False)))
        shared = min(count_tokens(text[:same]), total)
        return shared // CACHE_STEP_TOKENS * CACHE_STEP_TOKENS


@dataclass(frozen=True)
class Text:
    """A generated text and its token counts; `output_tokens` include the reasoning tokens."""

    text: str
    cut: bool
    input_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Desk:
    """What an answer is made with: the draw, the cache of prompts, the Unix time (seconds) and the server's address."""

    draw: Draw
    cache: PromptCache
    created: int
    address: str
    output_tokens: int | None = None
    seed: int = 1


def write_text(question: Question, desk: Desk, limit: int | None, shape: Mapping[str, Any]) -> Text:
    """Write a text of a drawn length, cut at `limit` tokens (8,192 if None), reasoning included.

    `shape` is the asked format: a `type` of json_object or json_schema gives JSON, which a cut leaves broken.
    """
    limit = DEFAULT_MAX_OUTPUT_TOKENS if limit is None else limit
    wanted = desk.output_tokens or _drawn_length(desk.draw, limit)
    reasoning = 0
    if REASONING_MODEL.match(question.model):
        reasoning = min(wanted * desk.draw.whole("reasoning", 20, 60) // 100, limit)
    room = limit - reasoning
    text = _shaped(desk.draw, min(wanted - reasoning, room + 16), shape)
    tokens = count_tokens(text)
    cut = tokens > room
    if cut:
        text = toktok.truncate(text, room, ENCODING)[0] if room else ""
        tokens = count_tokens(text)
    instructions = question.body.get("instructions")
    read = (instructions if isinstance(instructions, str) else "", *question.messages)
    return Text(
        text=text,
        cut=cut,
        input_tokens=sum(map(count_tokens, read)) + 3 * len(question.messages) + 3,
        cached_tokens=desk.cache.cached_tokens(question.model, "\n".join(read)),
        reasoning_tokens=reasoning,
        output_tokens=reasoning + tokens,
    )


def _drawn_length(draw: Draw, limit: int) -> int:
    low, high = TYPICAL_OUTPUT_TOKENS
    # Up to a sixteenth beyond the limit, so that a few answers are cut whatever the limit is.
    return draw.whole("length", min(low, max(1, limit // 4)), min(high, limit + limit // 16 + 1))


def _shaped(draw: Draw, tokens: int, shape: Mapping[str, Any]) -> str:
    if shape.get("type") == "json_object":
        return json.dumps({"simulated": True, "text": _prose(draw, max(4, tokens - 12))})
    if shape.get("type") == "json_schema":
        # The Responses API has the schema beside the type; Chat Completions has it under json_schema.
        holder = shape.get("json_schema", shape)
        schema = holder.get("schema") if isinstance(holder, dict) else None
        return json.dumps(_fill(schema, schema, draw))
    return _prose(draw, tokens)


def _prose(draw: Draw, tokens: int) -> str:
    """Write sentences of at most `tokens` tokens, from two up."""
    words, left = ["Simulated answer:"], 0
    for number in draw.numbers("words", tokens + 8):
        word = WORDS[number % len(WORDS)]
        if left == 0:
            left = 6 + number // len(WORDS) % 9
            word = word.capitalize()
        left -= 1
        words.append(word if left else f"{word}.")
    kept: str = toktok.truncate(" ".join(words), max(1, tokens - 1), ENCODING)[0]
    return kept.rstrip(" .") + "."


def _fill(schema: Any, root: Any, draw: Draw, path: str = "$") -> Any:
    """Make a value that fits a JSON schema: every property, one item in each list, the first of each choice."""
    if not isinstance(schema, dict) or path.count("/") > 16:
        return None
    if isinstance(reference := schema.get("$ref"), str):
        target = root
        for step in reference.lstrip("#/").split("/") if reference != "#" else []:
            target = target.get(step) if isinstance(target, dict) else None
        return _fill(target, root, draw, path + "/")
    if "const" in schema:
        return schema["const"]
    for choices in (schema.get("anyOf"), schema.get("oneOf")):
        if choices and isinstance(choices, list):
            return _fill(choices[0], root, draw, path + "/")
    if (options := schema.get("enum")) and isinstance(options, list):
        return options[draw.whole(path, 0, len(options) - 1)]
    return _fill_type(schema, root, draw, path)


def _fill_type(schema: dict[str, Any], root: Any, draw: Draw, path: str) -> Any:
    kind = schema.get("type", "object")
    match kind[0] if isinstance(kind, list) and kind else kind:
        case "object":
            properties = schema.get("properties")
            names = properties if isinstance(properties, dict) else {}
            return {name: _fill(part, root, draw, f"{path}/{name}") for name, part in names.items()}
        case "array":
            return [_fill(schema.get("items"), root, draw, f"{path}/0")]
        case "string":
            return " ".join(["simulated", *(WORDS[number % len(WORDS)] for number in draw.numbers(path, 4))])
        case "integer" | "number":
            return draw.whole(path, 1, 9)
        case "boolean":
            return draw.fraction(path) < 0.5
        case _:
            return None
