"""What the simulated provider answers: texts, images and embeddings with usage, in the shapes of OpenAI's API.

An answer follows from the request, a `Draw` and the prompts seen before; the server, its faults and its journal are
in `workers.simulator`.
"""

import base64
import hashlib
import json
import math
import re
import struct
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import toktok

from workers.simulator_faults import Refusal, RefusalError, echo

ENCODING = "o200k_base"
DEFAULT_MAX_OUTPUT_TOKENS = 8_192
TYPICAL_OUTPUT_TOKENS = (150, 900)
CACHE_FROM_TOKENS = 1_024
CACHE_STEP_TOKENS = 128
EMBEDDING_DIMENSIONS = 8

MODELS = (
    "gpt-5", "gpt-5-mini", "gpt-4o", "gpt-4o-mini", "gpt-image-1", "o3", "o4-mini", "dall-e-2", "dall-e-3",
    "text-embedding-3-small", "text-embedding-3-large", "runware:101@1", "google:4@1", "sim-text", "sim-image",
)  # fmt: skip
KNOWN_MODEL = re.compile(r"gpt-|o[134]|dall-e-|text-embedding-|runware:|google:|sim-")
REASONING_MODEL = re.compile(r"gpt-5|o")

WORDS = (
    "simulated", "answer", "river", "garden", "morning", "window", "letter", "market", "bridge", "music", "paper",
    "table", "winter", "summer", "road", "house", "story", "color", "number", "reason", "people", "water", "light",
    "small", "large", "early", "quiet", "simple", "clear", "open", "new", "old", "the", "a", "this", "that", "and",
    "or", "with", "from", "under", "over", "near", "after", "before", "makes", "finds", "keeps", "shows", "takes",
    "gives", "needs", "turns", "moves", "begins", "often", "always", "never", "again", "together",
)  # fmt: skip


class Draw:
    """Values that depend only on the seed, the request's identity and how often that identity was seen before."""

    def __init__(self, seed: int, identity: str, seen: int):
        self._origin = f"{seed}|{seen}|{identity}"

    def bytes(self, name: str, count: int) -> bytes:
        """Give `count` bytes for the purpose `name`."""
        return hashlib.shake_256(f"{name}|{self._origin}".encode("utf-8", "surrogatepass")).digest(count)

    def hex(self, name: str, length: int = 32) -> str:
        """Give `length` (even) hexadecimal digits."""
        return self.bytes(name, length // 2).hex()

    def fraction(self, name: str) -> float:
        """Give a number that is at least 0 and below 1."""
        return (int.from_bytes(self.bytes(name, 8), "big") >> 11) / 2**53

    def whole(self, name: str, low: int, high: int) -> int:
        """Give a whole number from `low` to `high`, both included."""
        return low + int(self.fraction(name) * (high - low + 1))

    def numbers(self, name: str, count: int) -> Sequence[int]:
        """Give `count` whole numbers below 65,536."""
        return struct.unpack(f">{count}H", self.bytes(name, 2 * count))


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


@dataclass(frozen=True)
class Answer:
    """The answer's body, and what a provider would bill for it: its usage (tokens) and its number of images."""

    body: dict[str, Any]
    usage: dict[str, Any] | None = None
    images: int | None = None


def count_tokens(text: str) -> int:
    """Count the o200k_base tokens of `text` exactly."""
    return int(toktok.batch_count([text], ENCODING, threads=1)[0])


def _invalid(message: str, param: str | None, prompt: str = "") -> RefusalError:
    quoted = f" The prompt was: {echo(prompt)}" if prompt else ""
    return RefusalError(Refusal(400, "invalid_value", f"{message}{quoted}", param=param))


def read_question(endpoint: str, body: object) -> Question:
    """Check a request's body for `endpoint` (such as `responses`).

    Raises RefusalError: 404 for an unknown model, 400 for a missing or wrong value, echoing the prompt.
    """
    if not isinstance(body, dict):
        raise _invalid("The body must be a JSON object.", None)
    messages = _messages(endpoint, body)
    prompt = "\n".join(messages)
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise _invalid("The parameter 'model' is missing.", "model", prompt)
    if not KNOWN_MODEL.match(model):
        message = f"The model `{model[:100]}` does not exist or you do not have access to it."
        raise RefusalError(Refusal(404, "model_not_found", message, param="model"))
    if not prompt.strip():
        raise _invalid("The request has no text.", _PROMPT_IN[endpoint])
    if body.get("stream"):
        raise _invalid("The simulator does not stream.", "stream", prompt)
    for name, low, high in _WHOLE_NUMBERS[endpoint]:
        value = body.get(name)
        if value is not None and (type(value) is not int or not low <= value <= high):
            raise _invalid(f"Invalid '{name}': expected a whole number from {low} to {high}.", name, prompt)
    for name, pattern in _CHOICES.get(endpoint, {}).items():
        value = body.get(name)
        if value is not None and not (isinstance(value, str) and re.fullmatch(pattern, value)):
            raise _invalid(f"Invalid '{name}': expected {pattern.replace('|', ' or ')}.", name, prompt)
    return Question(endpoint, model, messages, body)


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
        return tuple(text for text, _ in _embedding_inputs(given))
    if endpoint in ("responses", "chat/completions") and isinstance(given, list):
        return tuple(_content(message, name) for message in given)
    raise _invalid(f"The parameter '{name}' is missing or has the wrong type.", name)


def _content(message: object, name: str) -> str:
    content = message.get("content") if isinstance(message, dict) else message
    if isinstance(message, dict) and content is None:
        return ""
    if isinstance(message, dict) and isinstance(content, str):
        return content
    if isinstance(message, dict) and isinstance(content, list):
        texts = (part.get("text") for part in content if isinstance(part, dict))
        return "".join(text for text in texts if isinstance(text, str))
    raise _invalid(f"The parameter '{name}' must be a list of messages with content.", name)


def _embedding_inputs(given: object) -> list[tuple[str, int]]:
    """Read the inputs of an embeddings request as texts with their token counts; token ids count one each."""
    items = [given] if isinstance(given, str) or _are_token_ids(given) else given
    inputs: list[tuple[str, int]] = []
    for item in items if isinstance(items, list) else []:
        if isinstance(item, str) and item:
            inputs.append((item, count_tokens(item)))
        elif _are_token_ids(item):
            inputs.append((" ".join(map(str, item)), len(item)))
        else:
            raise _invalid("Every input must be a text or a list of token ids, and not be empty.", "input")
    return inputs


def _are_token_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


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


def answer_response(question: Question, desk: Desk) -> Answer:
    """Answer POST /v1/responses."""
    body = question.body
    options = body.get("text")
    shape = options.get("format") if isinstance(options, dict) else None
    shape = shape if isinstance(shape, dict) else {"type": "text"}
    text = write_text(question, desk, body.get("max_output_tokens"), shape)
    status = "incomplete" if text.cut else "completed"
    output: list[dict[str, Any]] = []
    if text.reasoning_tokens:
        output.append({"id": f"rs_{desk.draw.hex('reasoning id', 48)}", "type": "reasoning", "summary": []})
    if text.text:
        part = {"type": "output_text", "text": text.text, "annotations": [], "logprobs": []}
        message = {"type": "message", "role": "assistant", "status": status, "content": [part]}
        output.append({"id": f"msg_{desk.draw.hex('message id', 48)}", **message})
    usage = {
        "input_tokens": text.input_tokens,
        "input_tokens_details": {"cached_tokens": text.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": text.output_tokens,
        "output_tokens_details": {"reasoning_tokens": text.reasoning_tokens},
        "total_tokens": text.input_tokens + text.output_tokens,
    }
    answer = {
        "id": f"resp_{desk.draw.hex('answer id', 48)}",
        "object": "response",
        "created_at": desk.created,
        "completed_at": None if text.cut else desk.created,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if text.cut else None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": body.get("metadata") or {},
        "model": question.model,
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "temperature": body.get("temperature", 1.0),
        "text": {"format": shape},
        "tool_choice": "auto",
        "tools": [],
        "top_p": body.get("top_p", 1.0),
        "truncation": "disabled",
        "usage": usage,
    }
    return Answer(answer, usage)


def answer_chat(question: Question, desk: Desk) -> Answer:
    """Answer POST /v1/chat/completions."""
    body = question.body
    shape = body.get("response_format")
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    text = write_text(question, desk, limit, shape if isinstance(shape, dict) else {})
    usage = {
        "prompt_tokens": text.input_tokens,
        "completion_tokens": text.output_tokens,
        "total_tokens": text.input_tokens + text.output_tokens,
        "prompt_tokens_details": {"cached_tokens": text.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": text.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
    message: dict[str, Any] = {"role": "assistant", "content": text.text, "refusal": None, "annotations": []}
    finish = "length" if text.cut else "stop"
    answer = {
        "id": f"chatcmpl-{desk.draw.hex('answer id', 28)}",
        "object": "chat.completion",
        "created": desk.created,
        "model": question.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
        "usage": usage,
        "service_tier": "default",
        "system_fingerprint": "fp_simulated",
    }
    return Answer(answer, usage)


def _png() -> bytes:
    """Make a grey image of one pixel whose comment says that it is simulated."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    comment = b"Comment\x00Simulated by Creditmill; no image was generated."
    chunks = ((b"IHDR", header), (b"tEXt", comment), (b"IDAT", zlib.compress(b"\x00\x80")), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in chunks)


PNG = _png()

# Output tokens of one gpt-image-1 image: square, portrait or landscape (OpenAI's image generation guide).
_IMAGE_TOKENS = {"low": (272, 408, 400), "medium": (1_056, 1_584, 1_568), "high": (4_160, 6_240, 6_208)}
_IMAGE_SIZES = ("1024x1024", "1024x1536", "1536x1024")


def answer_images(question: Question, desk: Desk) -> Answer:
    """Answer POST /v1/images/generations with `n` images; gpt-image models give base64 and usage, as OpenAI's do."""
    body = question.body
    count, size, quality = body.get("n") or 1, body.get("size") or "auto", body.get("quality") or "auto"
    tokenized = question.model.startswith("gpt-image")
    as_url = (body.get("response_format") or ("b64_json" if tokenized else "url")) == "url"
    answer: dict[str, Any] = {"created": desk.created}
    answer["data"] = [_image(question, desk, number, as_url, revised=not tokenized) for number in range(count)]
    if size != "auto":
        answer["size"] = size
    if quality not in ("auto", "standard", "hd"):
        answer["quality"] = quality
    usage = None
    if tokenized:
        by_size = _IMAGE_TOKENS["medium" if quality == "auto" else quality if quality in _IMAGE_TOKENS else "high"]
        text_tokens = count_tokens(question.prompt)
        made = count * by_size[_IMAGE_SIZES.index(size) if size in _IMAGE_SIZES else 0]
        usage = {
            "input_tokens": text_tokens,
            "input_tokens_details": {"text_tokens": text_tokens, "image_tokens": 0},
            "output_tokens": made,
            "output_tokens_details": {"text_tokens": 0, "image_tokens": made},
            "total_tokens": text_tokens + made,
        }
        answer |= {"usage": usage, "output_format": "png"}
    return Answer(answer, usage, images=count)


def _image(question: Question, desk: Desk, number: int, as_url: bool, revised: bool) -> dict[str, str]:
    image = {"revised_prompt": f"A simulated image of: {question.prompt}"} if revised else {}
    if as_url:
        return image | {"url": f"{desk.address}/images/{desk.draw.hex(f'image {number}')}.png"}
    return image | {"b64_json": base64.b64encode(PNG).decode()}


def ask_one_image_less(question: Question) -> Question:
    """Ask for one image fewer, at least one; a request for anything else keeps its meaning."""
    return replace(question, body={**question.body, "n": max(1, (question.body.get("n") or 1) - 1)})


def answer_embeddings(question: Question, desk: Desk) -> Answer:
    """Answer POST /v1/embeddings; the same model, text and seed always give the same vector."""
    body = question.body
    inputs = _embedding_inputs(body["input"])
    dimensions = body.get("dimensions") or EMBEDDING_DIMENSIONS
    packed = body.get("encoding_format") == "base64"
    tokens = sum(count for _, count in inputs)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    data: list[dict[str, Any]] = []
    for index, (text, _) in enumerate(inputs):
        vector = _unit_vector(Draw(desk.seed, f"{question.model}|{text}", 0), dimensions)
        values = base64.b64encode(vector).decode() if packed else list(struct.unpack(f"<{dimensions}f", vector))
        data.append({"object": "embedding", "index": index, "embedding": values})
    return Answer({"object": "list", "data": data, "model": question.model, "usage": usage}, usage)


def _unit_vector(draw: Draw, dimensions: int) -> bytes:
    """Give a vector of length 1 as 32-bit floats, little end first, as OpenAI packs them."""
    values = [number - 32_767.5 for number in draw.numbers("vector", dimensions)]
    length = math.hypot(*values)
    return struct.pack(f"<{dimensions}f", *(value / length for value in values))


ANSWERS: Mapping[str, Callable[[Question, Desk], Answer]] = {
    "responses": answer_response,
    "chat/completions": answer_chat,
    "images/generations": answer_images,
    "embeddings": answer_embeddings,
}


def list_models() -> dict[str, Any]:
    """Answer GET /v1/models with some of the models that the simulator knows."""
    models = [{"id": name, "object": "model", "created": 0, "owned_by": "creditmill-simulator"} for name in MODELS]
    return {"object": "list", "data": models}
